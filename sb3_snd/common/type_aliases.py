"""Definitions shared by several modules: the order of the streams, the keys of infos, and named tuples.

Knows only shapes and names, but no network, environment or algorithm.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch as th

# Order of the streams along the stream axis of rewards, values, returns, advantages and discount factors.
STREAM_NAMES = ("ext", "int")

# Keys that ``VecIntrinsicReward`` adds to every info of a training environment.
EXTRINSIC_REWARD_KEY = "extrinsic_reward"
INTRINSIC_REWARD_KEY = "intrinsic_reward"
# Key of the infos of ``sb3_snd.envs.PlaceInfo``
PLACE_KEY = "place"


class Transitions(NamedTuple):
    """
    A minibatch of ``B`` transitions. Its ``M >= B`` frames are stored, and so encoded, once each.

    ``frames[:B]`` are the states s_t, and ``frames[next_index]`` their successors s_{t+1}.
    """

    frames: th.Tensor  #: ``(M, *frame_shape)`` float32
    next_index: th.Tensor  #: ``(B,)`` int64
    pool_size: int  #: number of states that ``pool`` can draw from
    pool: Callable[[th.Tensor], th.Tensor]  #: ``(k,)`` row numbers -> ``(k, *frame_shape)``
    actions: th.Tensor | None = None  #: ``(B, *action_shape)``; None if they are unknown
    #: whether the episode ended, ``(B,)`` bool; from a replay buffer other than by a time limit
    ends: th.Tensor | None = None

    @property
    def states(self) -> th.Tensor:
        """Frames of s_t, ``(B, *frame_shape)``."""
        return self.frames[: len(self.next_index)]

    def split(self, encoded: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Split the results for all frames into those for s_t and those for s_{t+1}.

        :param encoded: Results computed frame by frame, ``(M, ...)``
        :return: rows for s_t and rows for s_{t+1}, ``(B, ...)`` each
        """
        return encoded[: len(self.next_index)], encoded.index_select(0, self.next_index)
