"""What crosses rooms: the order of the streams, the keys put into infos, and the tuples handed from one file to another.

Knows shapes and names only; no network, no environment, no algorithm.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch as th

# Order on the stream axis of rewards, values, returns, advantages and discount factors.
STREAM_NAMES = ("ext", "int")

# Keys that ``VecIntrinsicReward`` adds to every info of a training environment.
EXTRINSIC_REWARD_KEY = "extrinsic_reward"
INTRINSIC_REWARD_KEY = "intrinsic_reward"


class Rollout(NamedTuple):
    """
    One rollout as the motivation nets see it: ``T`` steps of ``N`` environments, in time order.

    The successor of row ``t * N + n`` (step ``t`` of environment ``n``) is row ``(t + 1) * N + n``, the last
    observation for the last step, or the terminal observation where the episode ended.
    """

    observations: Any  # (T, N, *obs_shape), array, tensor, or a dict of these
    last_observation: Any  # (N, *obs_shape)
    terminal_observations: Mapping[int, Any]  # row -> (*obs_shape)


class Transitions(NamedTuple):
    """
    A minibatch of ``B`` transitions whose ``M >= B`` frames are stored, and so encoded, once each.

    ``frames[:B]`` are the states s_t, ``frames[next_index]`` their successors s_{t+1}.
    """

    frames: th.Tensor  # (M, *frame_shape) float32
    next_index: th.Tensor  # (B,) int64
    pool_size: int  # number of states that ``pool`` can draw from
    pool: Callable[[th.Tensor], th.Tensor]  # (k,) row numbers -> (k, *frame_shape)

    @property
    def states(self) -> th.Tensor:
        """The frames of s_t, ``(B, *frame_shape)``."""
        return self.frames[: len(self.next_index)]

    def split(self, encoded: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param encoded: Anything computed frame by frame, ``(M, ...)``
        :return: its rows for s_t and for s_{t+1}, each ``(B, ...)``
        """
        return encoded[: len(self.next_index)], encoded.index_select(0, self.next_index)
