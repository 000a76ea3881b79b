"""A command that prints milliseconds for an ONNX file: a phone, a board, anything that a shell can reach."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from objectives.latency.backend import Backend, Build
from objectives.latency.onnx_files import OnnxFiles, exported
from objectives.latency.timing import Run
from search_spaces import SearchSpace

TIMEOUT_S = 120.0  # for one call,
RETRIES = 2  # and so often again, after PAUSE_S: a phone that went to sleep, a network that dropped a connection
PAUSE_S = 1.0
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?=\s*(?:ms\b|$|\s))", re.IGNORECASE)


class Command(Backend):
    """Calls `--latency-command "ssh pi ./bench {onnx}"`; the last number in what it prints is milliseconds."""

    name = "command"
    packages = ("onnx", "onnxscript")
    extra = "pip install 'autoprune[onnx]'"
    turns, runs = 2, 1  # a call is slow, and repeats the network itself

    def check(self) -> None:
        """Check that there is a command and that it takes the file."""
        if "{onnx}" not in self.setting.command:
            found = self.setting.command or "none"
            raise ValueError(
                f"--latency-command: expected a command with {{onnx}} where the file's path goes, found '{found}'; "
                'e.g. --latency-command "ssh pi ./bench {onnx}"'
            )
        try:
            shlex.split(self.setting.command)
        except ValueError as error:  # a quotation mark that is alone
            where = f"--latency-command '{self.setting.command}'"
            raise ValueError(f"{where}: not the words of a command ({error})") from error
        if absent := [p for p in self.packages if not find_spec(p)]:
            raise ValueError(f"latency backend 'command': {', '.join(absent)} is not installed; {self.extra}")

    def load(self, model: nn.Module, example: Any) -> Run:
        """The exported network."""
        return self._run(exported(model, example))

    def candidates(self, model: nn.Module, space: SearchSpace, example: Any, *, delivered: bool = False) -> Build:
        """ONNX files that are cut from that of the dense network."""
        write = partial(exported, example=example) if delivered else None
        files = OnnxFiles(model, space, example, self._accept, write)
        return lambda widths: self._run(files(widths))

    @staticmethod
    def _accept(data: bytes) -> None:
        import onnx

        onnx.checker.check_model(onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(data), strict_mode=True))

    def _run(self, data: bytes) -> Run:
        """Writes the file anew for every call, so that none is left behind."""

        def run() -> float:
            with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(data)
                return ask(self.setting.command, path)

        return run


def ask(command: str, path: Path, *, timeout_s: float = TIMEOUT_S, retries: int = RETRIES) -> float:
    """Milliseconds that a command prints for an ONNX file.

    Raises:
        ValueError: If it fails, hangs, or prints no positive number, every time.
    """
    words = [word.replace("{onnx}", os.fspath(path)) for word in shlex.split(command)]
    why = ""
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=timeout_s, check=False, errors="replace"
            )
        except subprocess.TimeoutExpired:
            why = f"took more than {timeout_s:g} s"
            continue
        except OSError as error:
            why = f"cannot be started ({error.strerror})"
            break
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["nothing said"]
            why = f"ended with exit code {done.returncode} ({said[0][:120]})"
            continue
        numbers = [float(n) for n in _NUMBER.findall(done.stdout)]
        if numbers and math.isfinite(numbers[-1]) and numbers[-1] > 0:
            return numbers[-1]
        printed = " ".join(done.stdout.split())[:80]
        why = f"printed '{printed}'" if printed else "printed nothing"
    raise ValueError(
        f"--latency-command '{command}': {why}, expected milliseconds as the last number of its output, e.g. 3.52; try "
        "it by hand with an ONNX file"
    )
