"""What a reward reads and what its nets are trained on: a step, a rollout, and how minibatches divide it.

Knows only shapes and rows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th


class Step(NamedTuple):
    """
    One step of ``N`` environments, on the reward's device. A reward that reads states gets the states only.
    """

    states: th.Tensor  #: frames of s_t, ``(N, *frame_shape)`` in the environment's dtype
    actions: th.Tensor | None = None  #: ``(N, *action_shape)``
    successors: th.Tensor | None = None  #: frames of s_{t+1}; of the terminal observation if the episode ended
    ends: th.Tensor | None = None  #: whether the episode ended with this step, ``(N,)`` bool
    #: keys of the places of s_{t+1}, ``(N, K)`` int64; only for rewards that read places
    places: th.Tensor | None = None


class Rollout(NamedTuple):
    """
    One rollout for the training of a reward's nets: ``T`` steps of ``N`` environments, in time order.

    The successor of row ``t * N + n`` (step ``t`` of environment ``n``) is row ``(t + 1) * N + n``. For the
    last step it is the last observation. If the episode ended, it is the terminal observation.
    """

    observations: Any  #: ``(T, N, *obs_shape)``, an array, a tensor, or a dict of these
    last_observation: Any  #: ``(N, *obs_shape)``
    terminal_observations: Mapping[int, Any]  #: row -> ``(*obs_shape)``
    actions: np.ndarray | None = None  #: ``(T, N, *action_shape)`` as the environments got them; None if unknown

    @property
    def ends(self) -> np.ndarray:
        """Rows with which an episode ended, in order, ``(n_ends,)`` int64."""
        return np.array(sorted(self.terminal_observations), dtype=np.int64)


def check_rollout(size: int) -> None:
    """
    Check that a rollout is large enough to train a reward's nets.

    :param size: Transitions in a rollout, ``n_steps * n_envs``
    :raises ValueError: if there is only one, since the variance of a single state is undefined
    """
    if size < 2:
        raise ValueError("SND cannot train on a rollout of one transition (n_steps * n_envs): raise n_steps or n_envs.")


def divide(size: int, batch_size: int) -> np.ndarray:
    """
    Divide a rollout into minibatches of consecutive rows. A single remaining row joins the minibatch before
    it, since the variance of a single transition is undefined.

    :param size: Transitions in a rollout
    :param batch_size: Transitions in each minibatch except the last
    :return: row with which each minibatch begins, followed by ``size``, ``(n_minibatches + 1,)``
    """
    starts = np.arange(0, size, batch_size)
    if size - starts[-1] == 1:
        starts = starts[:-1]
    return np.append(starts, size)


def successor_index(n_envs: int, bounds: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """
    Find the successor of each row among the frames of its minibatch.

    A minibatch of ``B`` rows has the frames of its own rows, then those of the ``N`` rows after them, then the
    terminal frames of the episodes that end in it. Rows of ``T = 2`` steps, ``N = 3`` environments, ``B = 3``,
    where the episode of environment 1 ends with step 0 (row 1)::

        minibatch     rows     frames                             successors, by frame
        0             0 1 2    0 1 2 | 3 4 5 | terminal of row 1    3 6 5
        1             3 4 5    3 4 5 | last observations            3 4 5

    :param n_envs: Number of environments, ``N``
    :param bounds: Result of :func:`divide`
    :param ends: Rows with which an episode ended, in order, ``(n_ends,)``
    :return: index of each row's successor, ``(size,)``
    """
    sizes = np.diff(bounds)
    rows = np.arange(bounds[-1])
    index = rows - np.repeat(bounds[:-1], sizes) + n_envs
    minibatch = np.searchsorted(bounds, ends, side="right") - 1  # in which each episode ends
    # Number of episodes that ended in earlier minibatches
    earlier_ends = np.searchsorted(ends, bounds)[minibatch]
    index[ends] = sizes[minibatch] + n_envs + np.arange(len(ends)) - earlier_ends
    return index
