"""The C library's allocator, told to keep what a training step frees: the next one needs it again.

By itself glibc gives large blocks back to the system, and each step then pays for fresh pages.
"""

import ctypes
from typing import Final

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # Of malloc.h.
LARGEST: Final = 2**25
"""Bytes up to which a block can be kept, the most that glibc takes."""


def keep_freed_memory() -> None:
    """Keep freed memory in this process; does nothing where the C library is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
