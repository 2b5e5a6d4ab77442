"""How glibc's allocator keeps and returns freed memory.

Knows the operating system only.
"""

import ctypes
import platform
import sys


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None


def keep_freed_memory() -> None:
    """
    Let glibc keep the memory that tensors free, for the whole process and from now on. By default it returns
    large blocks to the kernel at once, which then zeroes them again, page by page, for every minibatch. This
    takes up to half the time of an update on a CPU.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no separate mapping for a large request
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep the top of the heap


def return_freed_memory() -> None:
    """
    Return free heap memory to the operating system, once. This is called between phases whose allocations
    differ in size, as those of the second phase do not fit into the blocks of the first.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
