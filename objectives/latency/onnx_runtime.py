"""ONNX Runtime, on the CPU or on a CUDA device."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from objectives.latency.backend import Backend, Build, timed
from objectives.latency.onnx_files import OnnxFiles, exported
from objectives.latency.timing import Run
from search_spaces import SearchSpace


class OnnxRuntime(Backend):
    """ONNX Runtime, all graph optimisations, float32."""

    name = "onnxruntime"
    alike = False
    packages = ("onnxruntime", "onnx", "onnxscript")
    extra = "pip install 'autoprune[onnx]', or measure with @torch"

    def check(self) -> None:
        """Check that it has the provider of the device, too."""
        super().check()
        import onnxruntime

        if (
            self.setting.device.startswith("cuda")
            and "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
        ):
            raise ValueError("latency backend 'onnxruntime': has no CUDA provider here; pip install onnxruntime-gpu")

    def load(self, model: nn.Module, example: Any) -> Run:
        """A session of the exported network."""
        return self._session(exported(model, example, free=True), example)

    def candidates(self, model: nn.Module, space: SearchSpace, example: Any, *, delivered: bool = False) -> Build:
        """Sessions of ONNX files that are cut from that of the dense network."""
        write = partial(_delivered, example=example) if delivered else None
        files = OnnxFiles(model, space, example, lambda data: self._session(data, example)(), write)
        return lambda widths: self._session(files(widths), example)

    def layers(self, model: nn.Module, example: Any) -> dict[str, float]:
        """Milliseconds per node of the optimised graph, as ONNX Runtime's own profiler gives them; on a CPU only.

        On a CUDA device it tells how long launches take.
        """
        if self.setting.device.startswith("cuda"):
            return {}
        with tempfile.TemporaryDirectory() as folder:
            run, session = self._open(exported(model, example, free=True), example, os.path.join(folder, "profile"))
            for _ in range(12):
                run()
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        found: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                found[f"{event['args']['op_name']} {event['name'].removesuffix('_kernel_time')}"].append(event["dur"])
        return {name: float(np.median(values[2:])) / 1000 for name, values in found.items()}

    def _session(self, data: bytes, example: Any) -> Run:
        return self._open(data, example)[0]

    def _open(self, data: bytes, example: Any, profile: str = "") -> tuple[Run, Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.setting.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        device, _, number = self.setting.device.partition(":")
        cuda = ("CUDAExecutionProvider", {"device_id": int(number or 0)})
        session = onnxruntime.InferenceSession(
            data, options, providers=[cuda] if device == "cuda" else ["CPUExecutionProvider"]
        )
        asked = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if (found := session.get_providers()[0]) != asked:  # it falls back without a word
            raise ValueError(
                f"latency backend 'onnxruntime': would run on {found}, not on '{self.setting.device}': its CUDA "
                "libraries do not load; install those that this onnxruntime-gpu was built for, or measure with @torch"
            )
        names = [i.name for i in session.get_inputs()]
        arrays = [t.detach().cpu().numpy() for t in tree_leaves(example) if isinstance(t, Tensor)]
        if len(names) != len(arrays):
            raise ValueError(f"latency: the ONNX file has {len(names)} inputs, the example {len(arrays)} tensors")
        # A file of pruned inputs takes fewer channels; which values they hold does not matter here.
        sizes = ([slice(s if isinstance(s, int) else None) for s in i.shape] for i in session.get_inputs())
        feed = {name: array[tuple(part)] for name, array, part in zip(names, arrays, sizes, strict=True)}
        if device != "cuda":
            return timed(lambda: session.run(None, feed)), session  # the answer is on the host when it returns
        binding, index = session.io_binding(), int(number or 0)  # inputs and answers stay there: no copy is timed
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", index))
        for answer in session.get_outputs():
            binding.bind_output(answer.name, "cuda", index)

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return timed(run, self.setting.device), session


def _delivered(model: nn.Module, example: Any) -> bytes:
    """The file that a run delivers; of networks that only the quick exporter can write, its file."""
    try:
        return exported(model, example, free=True)
    except ValueError:
        return exported(model, example, quick=True)
