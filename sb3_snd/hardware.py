"""What the machine computes with: number formats, processors and the allocator.

Knows devices; no network, no observation, no algorithm.
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
    :param device: What an argument ``device`` was given
    :raises ValueError: if PyTorch cannot compute there; as in SB3, ``"cuda"`` means the processor where there is none
    """
    try:
        usable = isinstance(device, (str, th.device)) and th.zeros(1, device=get_device(device)).item() == 0
    except (RuntimeError, ImportError, AssertionError, ValueError):
        usable = False
    if not usable:
        raise ValueError(f"device={device!r} must be 'auto', 'cpu', 'cuda' or another device that PyTorch has here.")


def resolve_precision(precision: str, device: th.device) -> str:
    """
    The number format that convolutions and the linear layers behind them compute in. Weights, losses, novelty's
    difference and optimisers are float32 always.

    :param precision: ``"auto"``: bfloat16 where the processor multiplies in it (AVX512-BF16, AMX, CUDA from sm_80 on; no GPU
        has TF32 without it), otherwise float32, with convolutions in channels-last layout on CPU and CUDA; ``"bfloat16"``,
        likewise; ``"float32"``: PyTorch's defaults, layout included
    :param device: Where the nets are
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
    Count the processors that this process may use: its CPU affinity (``taskset``) and the CPU quotas of its cgroups, of both
    versions (``docker --cpus``, systemd's ``CPUQuota``). Python has no such function before 3.13, which ignores quotas too.

    :return: Number of processors, 1 at least; a quota of one and a half counts as two
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _cpu_quotas())]))


def available_threads() -> int:
    """
    Count the threads that a library may start: :func:`available_cpus`, or fewer where ``OMP_NUM_THREADS`` says so.

    :return: Number of threads, 1 at least
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # one number for each nested level
    return min(available_cpus(), int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else available_cpus()


def _cpu_quotas(root: Path = Path("/")) -> Iterator[float]:
    """
    :param root: Where ``proc`` and ``sys`` are
    :return: the quotas, in processors, of this process's cgroups and of those that these lie in
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
        # In a container the path may be the host's, of which only the root is there
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
    Let glibc keep what tensors free, for the whole process and from now on. By default it gives large blocks back to the
    kernel at once, which then zeroes them anew, page by page, for every minibatch: up to half the time of an update on a CPU.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for a large request
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep the top of the heap


def return_freed_memory() -> None:
    """Once, what is free now. Between phases whose blocks differ in size, as the second's do not fit into the first's."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
