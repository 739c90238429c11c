"""Memory that a step gives back is kept for the next one."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell the C library to keep memory that is freed, for as long as the process lives.

    Every step of training allocates the same tensors again. Given back to the system and asked
    for anew, they cost a page fault every 4 kB, a tenth of a step on small graphs.

    Returns:
        Whether the C library can be told: glibc can.
    """
    if sys.platform == "win32":  # which has no library of the process itself
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # up to 1 GB; glibc before 2.35 takes no more than 32 MB for the first
    kept = any(mallopt(_MMAP_THRESHOLD, 1 << bits) for bits in (30, 25))
    return bool(kept and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
