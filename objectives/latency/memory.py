"""An allocator that keeps its memory: else the same network takes 16 or 24 ms, by what the process did before.

glibc gives large blocks back to the system and asks for them again, page by page, in every run (MobileNetV2 at 224 px
in torch: 3,500 page faults, a third of its time), until blocks of other sizes have been freed and its thresholds have
adapted. So what is measured depends on what was measured before. Allocators that are recommended to serve networks with
(jemalloc, tcmalloc) and the arenas of the other runtimes keep their memory; so does this.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM, _LARGE = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
_KEEP = 2**31 - 1
_AFTERWARDS = {_LARGE: 32 << 20, _TRIM: 64 << 20}  # how far glibc's own thresholds adapt at most


@contextmanager
def kept_memory() -> Iterator[bool]:
    """While networks are timed, glibc keeps what is freed; afterwards it gives it back.

    Yields:
        Whether the allocator is glibc's; another one is left as it is.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = all([libc.mallopt(what, _KEEP) for what in _AFTERWARDS])
    except (OSError, AttributeError):  # macOS, Windows, musl
        yield False
        return
    try:
        yield kept
    finally:
        for what, size in _AFTERWARDS.items():
            libc.mallopt(what, size)
        libc.malloc_trim(0)
