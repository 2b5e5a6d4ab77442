"""Augmentations: dropped tiles and uniform noise for SND-V, and a blur for SND-BT.

Knows frames only.
"""

from functools import cache

import torch as th
from torch.nn import functional as F

TILE_SIZES = (1, 2, 4, 8, 12, 16)


def drop_tiles(frames: th.Tensor, drop: float = 0.1, probability: float = 0.5) -> th.Tensor:
    """
    Set random square tiles to zero. One tile size is drawn per call, from those that divide the frame. The
    tiles of a vector are its entries.

    :param frames: ``(n, C, H, W)`` or ``(n, D)`` float32
    :param drop: Probability that a tile is dropped
    :param probability: Probability that a sample is changed
    :return: a new tensor of the same shape
    """
    n, sides = len(frames), tuple(frames.shape[2:])
    if sides:
        sizes = _tile_sizes(sides, frames.device)
        # Stays on the device, so the host need not wait
        size = sizes[th.randint(len(sizes), (1,), device=frames.device)]
        # One draw per tile, repeated for its pixels below
        keep = th.rand(n, 1, *sides, device=frames.device) >= drop
        for dim, side in enumerate(sides, start=2):
            keep = keep.index_select(dim, th.arange(side, device=frames.device) // size)  # (n, 1, H, W)
    else:
        keep = th.rand_like(frames) >= drop
    return frames * (keep | ~_chosen(frames, probability))


def add_noise(frames: th.Tensor, amplitude: float = 0.2, probability: float = 0.5) -> th.Tensor:
    """
    Add uniform noise.

    :param frames: ``(n, C, H, W)`` or ``(n, D)`` float32
    :param amplitude: Noise is uniform in [-amplitude, amplitude]
    :param probability: Probability that a sample is changed
    :return: a new tensor of the same shape
    """
    noise = th.empty_like(frames).uniform_(-amplitude, amplitude)
    return frames + noise * _chosen(frames, probability)


def blur(frames: th.Tensor) -> th.Tensor:
    """
    Average squares of 2 x 2 pixels, and interpolate between the averages bilinearly.

    :param frames: ``(n, C, H, W)`` float32
    :return: a new tensor of the same shape
    """
    halved = F.avg_pool2d(frames, 2, ceil_mode=True)
    return F.interpolate(halved, size=frames.shape[2:], mode="bilinear")


@cache
def _tile_sizes(sides: tuple[int, ...], device: th.device) -> th.Tensor:
    """Return the tile sizes that divide a frame, as an int64 tensor on the device."""
    return th.tensor([size for size in TILE_SIZES if all(side % size == 0 for side in sides)], device=device)


def _chosen(frames: th.Tensor, probability: float) -> th.Tensor:
    """Draw whether each sample is changed, ``(n, 1, ...)`` bool, which broadcasts over ``frames``."""
    return th.rand(len(frames), *[1] * (frames.ndim - 1), device=frames.device) < probability
