"""Properties of the machine: number formats, processors and the allocator.

Knows devices, but no network, observation or algorithm.
"""

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_snd.arguments import checked, one_of

PRECISIONS = ("auto", "bfloat16", "float32")
PRECISION = one_of(*PRECISIONS)


def check_device(device: Any) -> None:
    """
    Check that PyTorch can compute on a device.

    :param device: Value of an argument ``device``; as in SB3, ``"cuda"`` means the CPU if there is no GPU
    :raises ValueError: if PyTorch cannot compute there
    """
    try:
        usable = isinstance(device, (str, th.device)) and th.zeros(1, device=get_device(device)).item() == 0
    except (RuntimeError, ImportError, AssertionError, ValueError):
        usable = False
    if not usable:
        raise ValueError(f"device={device!r} must be 'auto', 'cpu', 'cuda' or another device that PyTorch supports here.")


def resolve_precision(precision: str, device: th.device) -> str:
    """
    Choose the number format in which convolutions and the linear layers after them compute. Weights, losses,
    the difference that gives novelty, and optimisers are always float32.

    - ``"auto"``: bfloat16 if the processor multiplies in it (AVX512-BF16, AMX, CUDA from sm_80; no GPU has TF32
      without it), otherwise float32. Convolutions are in channels-last layout on CPU and CUDA.
    - ``"bfloat16"``: always bfloat16, with the same layout.
    - ``"float32"``: PyTorch's defaults, including the layout.

    :param precision: One of these three
    :param device: Device of the nets
    :return: ``"bfloat16"`` or ``"float32"``
    :raises ValueError: for an unknown format
    """
    checked({"precision": precision}, {"precision": PRECISION})
    if precision != "auto":
        return precision
    if device.type == "cpu":
        fast = th.cpu._is_avx512_bf16_supported() or th.cpu._is_amx_tile_supported()
    else:
        fast = device.type == "cuda" and th.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def available_cpus() -> int:
    """
    Count the processors that this process may use, given its CPU affinity (``taskset``) and the CPU quotas of
    its cgroups, of both versions (``docker --cpus``, systemd's ``CPUQuota``). Python has such a function only
    from 3.13, and it ignores quotas.

    :return: number of processors, at least 1; a quota of one and a half counts as two
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _cpu_quotas())]))


def available_threads() -> int:
    """
    Count the threads that a library may start: :func:`available_cpus`, or fewer if ``OMP_NUM_THREADS`` is
    lower.

    :return: number of threads, at least 1
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # it may list one number per nested level
    return min(available_cpus(), int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else available_cpus()


def _cpu_quotas(root: Path = Path("/")) -> Iterator[float]:
    """
    Find the CPU quotas of this process's cgroups and of their parents.

    :param root: Folder that contains ``proc`` and ``sys``
    :return: quotas in processors
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = mounts, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mount, names = mounts / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # In a container the path may be the host's, of which only the root exists here
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):
            try:
                quota, period = " ".join((mount / folder / name).read_text() for name in names).split()
            except (OSError, ValueError):
                continue
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)


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
