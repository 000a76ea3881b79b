"""What keeps the process of a worker small, of whatever kind it is."""

from __future__ import annotations

import ctypes
import os
import sys

KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
MOST_KERNELS = "512"  # of one network by far; oneDNN keeps 1024, and random widths never need an old one again


def keep_few_kernels() -> None:
    """Limit what oneDNN keeps, unless the user has said how much; to be called before the first network runs here."""
    os.environ.setdefault(KERNELS, MOST_KERNELS)


def give_back() -> None:
    """Give the free pages of the heap back to the system; without it, a process keeps what its largest moment took.

    Networks of ever new widths leave holes that fit no later tensor, so that moment comes again and again, higher each
    time. (glibc has it, other C libraries need no help or offer none.)
    """
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)
