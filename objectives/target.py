"""Where a latency is measured ("latency@onnxruntime,batch=1,threads=1"), and how a network is run there."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = "latency@<backend>,batch=1,threads=1,device=cpu"
_TARGET = re.compile(r"latency(?:@(?P<backend>[\w.:]+)(?P<options>(?:,[a-z]+=[\w:]+)*))?", re.ASCII)


@dataclass(frozen=True)
class Setting:
    """Under what a network is run.

    Attributes:
        batch: Images per run.
        threads: CPU threads.
        device: "cpu", "cuda", "cuda:1" ...
        command: What the remote backend calls; contains {onnx}.
        precision: "fp16" or "fp32" where the backend can choose; "": its default.
    """

    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    command: str = ""
    precision: str = ""


@dataclass(frozen=True)
class Target:
    """A backend and how it is used.

    Attributes:
        backend: Its name, or "package.module:Name".
        batch: Images per run.
        threads: CPU threads.
        device: "cpu", "cuda", "cuda:1".
        precision: "fp16" or "fp32"; "": the backend's default.
    """

    backend: str = "onnxruntime"
    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    precision: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read "latency@onnxruntime,batch=1,threads=1"; what is left out has its default.

        Raises:
            ValueError: If it cannot be read.
        """
        match = _TARGET.fullmatch(text.replace(" ", ""))
        if match is None:
            raise ValueError(f"'{text}': expected {_FORM}")
        given = dict(option.split("=") for option in (match["options"] or "").split(",") if option)
        if unknown := given.keys() - {"batch", "threads", "device", "precision"}:
            raise ValueError(f"'{text}': unknown option '{min(unknown)}'; expected {_FORM}")
        backend = match["backend"] or cls.backend
        device = given.get("device", "cuda" if backend == "tensorrt" else "cpu")
        numbers = {}
        for name in ("batch", "threads"):
            value = given.get(name, "1")
            if not value.isdecimal() or not int(value):
                raise ValueError(f"'{text}': {name} must be a whole number of at least 1, found '{value}'")
            numbers[name] = int(value)
        return cls(backend, device=device, precision=given.get("precision", ""), **numbers)

    def __str__(self) -> str:
        where = "" if self.device in ("cpu", "cuda" if self.backend == "tensorrt" else "") else f",device={self.device}"
        precision = f",precision={self.precision}" if self.precision else ""
        return f"latency@{self.backend},batch={self.batch},threads={self.threads}{where}{precision}"

    def setting(self, command: str = "") -> Setting:
        """What its backend is made with."""
        return Setting(self.batch, self.threads, self.device, command, self.precision)


def is_latency(name: str) -> bool:
    """Whether a cost is milliseconds on a device, predicted and not computed: `objectives.latency` gives those."""
    return name.startswith("latency@")
