"""TensorRT, from the ONNX file."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from objectives.latency.backend import Backend, Build, timed
from objectives.latency.onnx_files import OnnxFiles, exported
from objectives.latency.timing import Run
from search_spaces import SearchSpace


class TensorRT(Backend):
    """TensorRT, an engine per network, in float16 or, with precision=fp32, float32. Building one takes seconds."""

    name = "tensorrt"
    builds = "get an engine before, each within seconds to minutes"
    packages = ("tensorrt", "onnx", "onnxscript")
    extra = "pip install tensorrt 'autoprune[onnx]' on a machine with an NVIDIA GPU, or measure with @onnxruntime"
    devices = ("cuda",)
    precisions = ("fp16", "fp32")
    _timings: bytes = b""  # of kernels that were tried for an engine before

    def load(self, model: nn.Module, example: Any) -> Run:
        """An engine of the exported network."""
        return self._engine(exported(model, example), example)

    def candidates(self, model: nn.Module, space: SearchSpace, example: Any, *, delivered: bool = False) -> Build:
        """Engines of ONNX files that are cut from that of the dense network."""
        write = partial(exported, example=example) if delivered else None
        files = OnnxFiles(model, space, example, lambda data: self._engine(data, example)(), write)
        return lambda widths: self._engine(files(widths), example)

    def _engine(self, data: bytes, example: Any) -> Run:
        import tensorrt  # type: ignore[import-not-found, unused-ignore]

        with torch.cuda.device(self.setting.device):  # where engines are built
            return self._built(tensorrt, data, example)

    def _built(self, tensorrt: Any, data: bytes, example: Any) -> Run:
        where = "latency backend 'tensorrt'"
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse(data):
            raise ValueError(f"{where}: refuses the ONNX file ({parser.get_error(0)})")
        config = builder.create_builder_config()
        if self.setting.precision != "fp32":
            config.set_flag(tensorrt.BuilderFlag.FP16)
        cache = config.create_timing_cache(self._timings)
        config.set_timing_cache(cache, False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ValueError(f"{where}: cannot build an engine of this network (its own words are above); measure with "
                             "@onnxruntime")  # fmt: skip
        self._timings = bytes(cache.serialize())
        engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise ValueError(f"{where}: cannot load the engine that it has built; measure with @onnxruntime")
        context = engine.create_execution_context()
        device = self.setting.device
        given = [t.to(device).contiguous() for t in tree_leaves(example) if isinstance(t, Tensor)]
        buffers = []
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            reads = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
            shape = tuple(context.get_tensor_shape(name))
            buffers.append(given.pop(0) if reads else torch.empty(shape, device=device))
            context.set_tensor_address(name, buffers[-1].data_ptr())
        stream = torch.cuda.Stream(device)

        def run() -> None:
            with torch.cuda.device(device):
                done = context.execute_async_v3(stream.cuda_stream)
            if not done:
                raise ValueError(f"{where}: an engine could not be run on '{device}' (its own words are above), with "
                                 f"{len(buffers)} tensors")  # fmt: skip

        return timed(run, device)
