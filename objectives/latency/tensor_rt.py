"""TensorRT, from the ONNX file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from objectives.latency.backend import Backend, Build, timed
from objectives.latency.onnx_files import OnnxFiles, exported
from objectives.latency.timing import Run
from search_spaces import SearchSpace


class TensorRT(Backend):
    """TensorRT, an engine per network, TF32 allowed as TensorRT has it by default. Building one takes seconds."""

    name = "tensorrt"
    packages = ("tensorrt", "onnx", "onnxscript")
    extra = "pip install tensorrt 'autoprune[onnx]' on a machine with an NVIDIA GPU, or measure with @onnxruntime"
    devices = ("cuda",)

    def load(self, model: nn.Module, example: Any) -> Run:
        """An engine of the exported network."""
        return self._engine(exported(model, example), example)

    def candidates(self, model: nn.Module, space: SearchSpace, example: Any) -> Build:
        """Engines of ONNX files that are cut from that of the dense network."""
        files = OnnxFiles(model, space, example, lambda data: self._engine(data, example)())
        return lambda widths: self._engine(files(widths), example)

    def _engine(self, data: bytes, example: Any) -> Run:
        import tensorrt  # type: ignore[import-not-found, unused-ignore]

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse(data):
            raise ValueError(f"latency backend 'tensorrt': refuses the ONNX file ({parser.get_error(0)})")
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan)
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
        return timed(lambda: (context.execute_async_v3(stream.cuda_stream), buffers), device)
