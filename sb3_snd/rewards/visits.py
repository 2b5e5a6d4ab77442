"""Counts of visits: of each observation or place within an episode, or over the whole training.

Knows hashes of frames and numbers of places, but no net or environment. A visit is that of one or several keys at once.
"""

import math
from typing import Any

import torch as th
from torch import nn

EMPTY = 2**63 - 1  # stands for no key, and comes after all keys
MIXER = 0x5851F42D4C957F2D  # any large odd number
MOST_RECENT = 4096  # visits that are kept apart before they are merged into the table, at least


class FrameHash:
    """
    Hash frames to 64 bits, the same in every process. Frames that differ have the same hash with a probability of
    about 2^-60.

    :param shape: Shape of a frame
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        generator = th.Generator().manual_seed(0)
        bounds = -(2**63), 2**63 - 1
        self._weights = th.randint(*bounds, (math.prod(shape),), generator=generator, dtype=th.int64)

    def __call__(self, frames: th.Tensor) -> th.Tensor:
        """
        Compute the hashes.

        :param frames: ``(n, *shape)`` uint8 or float32
        :return: ``(n, 1)`` int64
        """
        self._weights = self._weights.to(frames.device)
        numbers = frames.flatten(1)
        if numbers.is_floating_point():
            bits = (numbers.float() + 0.0).view(th.int32).long() * MIXER  # adding 0 makes a zero of a negative one
            numbers = bits ^ (bits >> 32)  # the last bits of simple numbers are all 0
        return (numbers.long() * self._weights).sum(dim=1, keepdim=True) + 1  # modulo 2^64; 0 would stand for nothing


class EpisodicVisits(nn.Module):
    """
    Count visits within the current episode of each environment. It counts exactly, and its memory is as large as the
    largest number of distinct keys in one of them.
    """

    keys: th.Tensor
    counts: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        # Distinct keys in order, filled up with EMPTY, and how often each was visited, (n_envs, size)
        self.register_buffer("keys", th.full((0, 1), EMPTY), persistent=False)
        self.register_buffer("counts", th.zeros(0, 1, dtype=th.int64), persistent=False)

    def start(self, n_envs: int) -> None:
        """
        Allocate empty memory.

        :param n_envs: Number of environments
        """
        self.keys = self.keys.new_full((n_envs, 1), EMPTY)
        self.counts = th.zeros_like(self.keys)

    def clear(self, which: th.Tensor) -> None:
        """
        Empty the memory of environments.

        :param which: ``(n_envs,)`` bool
        """
        self.keys.masked_fill_(which[:, None], EMPTY)
        self.counts.masked_fill_(which[:, None], 0)

    def _find(self, keys: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return where each key is in the memory, or would be, and whether it is there, ``(n_envs, K)`` each."""
        place = th.searchsorted(self.keys, keys).clamp_(max=self.keys.shape[1] - 1)
        return place, self.keys.gather(1, place) == keys

    def count(self, keys: th.Tensor) -> th.Tensor:
        """
        Count earlier visits in the same episode.

        :param keys: Distinct keys of each environment, ``(n_envs, K)`` int64
        :return: ``(n_envs, K)`` int64
        """
        place, found = self._find(keys)
        return self.counts.gather(1, place) * found

    def add(self, keys: th.Tensor, which: th.Tensor) -> None:
        """
        Add a visit of each key. A key of 0 stands for nothing and is not added.

        :param keys: Distinct keys of each environment, ``(n_envs, K)`` int64
        :param which: Environments in which to add them, ``(n_envs,)`` bool
        """
        valid = (keys != 0) & which[:, None]
        place, found = self._find(keys)
        self.counts.scatter_add_(1, place, (found & valid).long())
        new = valid & ~found
        if not new.any():
            return
        # Merge two sorted rows: each key moves up by the number of the other row's keys that are smaller
        added = keys.where(new, EMPTY).sort(dim=1).values
        old_place = self._columns(self.keys) + th.searchsorted(added, self.keys)
        new_place = self._columns(added) + th.searchsorted(self.keys, added, right=True)
        merged = self.keys.new_empty(len(keys), self.keys.shape[1] + added.shape[1])
        counts = th.empty_like(merged).scatter_(1, old_place, self.counts).scatter_(1, new_place, (added != EMPTY).long())
        merged.scatter_(1, old_place, self.keys).scatter_(1, new_place, added)
        size = int((merged != EMPTY).sum(dim=1).max())
        self.keys, self.counts = merged[:, :size].contiguous(), counts[:, :size].contiguous()

    @staticmethod
    def _columns(keys: th.Tensor) -> th.Tensor:
        return th.arange(keys.shape[1], device=keys.device)


class LifelongVisits(nn.Module):
    """
    Count visits over the whole training, in all environments together. It counts exactly; each distinct frame
    takes 16 bytes. Recent visits are kept apart until it is worth sorting them into the table.
    """

    keys: th.Tensor
    counts: th.Tensor
    recent: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", th.zeros(0, dtype=th.int64))  # sorted
        self.register_buffer("counts", th.zeros(0, dtype=th.int64))
        self.register_buffer("recent", th.zeros(0, dtype=th.int64))  # one entry for each visit that is not in the table yet
        self.register_load_state_dict_pre_hook(_match_sizes)

    def count(self, keys: th.Tensor) -> th.Tensor:
        """
        Count earlier visits.

        :param keys: ``(n, K)`` int64
        :return: ``(n, K)`` int64
        """
        recent = (self.recent == keys[:, :, None]).sum(dim=2)
        if len(self.keys) == 0:
            return recent
        positions = th.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return recent + self.counts[positions] * (self.keys[positions] == keys)

    def start(self, n_envs: int) -> None:
        """Do nothing: the count does not depend on the environments."""

    def clear(self, which: th.Tensor) -> None:
        """Do nothing: the count goes on after an episode."""

    def add(self, keys: th.Tensor, which: th.Tensor) -> None:
        """
        Add visits. A key of 0 stands for nothing and is not added.

        :param keys: ``(n, K)`` int64
        :param which: Which rows to add, ``(n,)`` bool
        """
        added = keys[which]
        self.recent = th.cat([self.recent, added[added != 0]])
        if len(self.recent) < max(MOST_RECENT, len(self.keys) // 64):
            return
        added, counts = self.recent.unique(return_counts=True)
        self.keys, position = th.cat([self.keys, added]).unique(return_inverse=True)
        self.counts = th.zeros_like(self.keys).scatter_add_(0, position, th.cat([self.counts, counts]))
        self.recent = self.recent[:0]


def _match_sizes(visits: LifelongVisits, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the table the sizes of a saved one, so that it can be loaded."""
    for name in visits._buffers:
        if f"{prefix}{name}" in state_dict:
            setattr(visits, name, th.zeros_like(state_dict[f"{prefix}{name}"], device=getattr(visits, name).device))
