"""What an error of torch means for those who come next: memory ran out, or the device is lost to this process."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

# Of torch's own allocators, and of those outside them: the driver's (a context, a library's code), cuBLAS's, cuDNN's
_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|bad_alloc|_ALLOC_FAILED|cuda(Error)?_?MemoryAllocation|"
    r"INSUFFICIENT_RESOURCES",
    re.IGNORECASE,
)
# After these every further call of this process fails too: an illegal access, a device-side assert, a lost device.
_BROKEN = re.compile(
    r"(CUDA|HIP|XPU|NCCL|cuda driver) error\b|"
    r"(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT|HIPBLAS|ROCBLAS|MIOPEN)_?(STATUS_)?"
    r"(EXECUTION_FAILED|EXEC_FAILED|INTERNAL_ERROR|NOT_INITIALIZED|MAPPING_ERROR|ARCH_MISMATCH)|"
    r"device-side assert|illegal memory access|unspecified launch failure",
    re.IGNORECASE,
)
_ACCELERATOR = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # torch before 2.8 has only RuntimeError


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device and in whatever library; in a plug-in, too."""
    return any(_says_memory(cause) for cause in _causes(error))


def device_broken(error: BaseException) -> bool:
    """Whether an error means that this process can do nothing more on its device; a new process may."""
    return not out_of_memory(error) and any(_says_broken(cause) for cause in _causes(error))


def _says_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))


def _says_broken(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and (isinstance(error, _ACCELERATOR) or bool(_BROKEN.search(str(error))))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
