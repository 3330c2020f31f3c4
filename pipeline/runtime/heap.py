"""Memory that was freed but is still held by the C library's allocator."""

from __future__ import annotations

import ctypes
import sys

TRIM_EVERY_S = 60.0


def trim_heap() -> None:
    """Hand freed memory back to the kernel (glibc; nothing elsewhere).

    Stages allocate large tensors of changing sizes from many threads for weeks. What lies between them in the heap is
    otherwise never given back, and looks like a leak.
    """
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
