"""What the machine computes with: number formats and the allocator.

Knows devices; no network, no observation, no algorithm.
"""

import ctypes
import platform
import sys
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
