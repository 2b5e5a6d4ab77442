"""``EpisodicReward``: base of the rewards that compare a state with the earlier states of its episode.

Knows memories and what they hold, but no environment.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.scale import RewardScale


class EpisodicMemory(nn.Module):
    """
    Interface of a memory of each environment's episode. What it keeps are non-persistent buffers whose first axis
    is the environments.
    """

    @abstractmethod
    def start(self, n_envs: int) -> None:
        """
        Allocate empty memory.

        :param n_envs: Number of environments
        """

    @abstractmethod
    def clear(self, which: th.Tensor) -> None:
        """
        Empty the memory of environments.

        :param which: ``(n_envs,)`` bool
        """

    def settle(self) -> None:
        """Update statistics of all environments with the last step, before the next one. By default there are none."""

    @abstractmethod
    def compare(self, states: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Compare states with those in the memory. This changes nothing.

        :param states: One embedded state of each environment, ``(n_envs, ...)``
        :return: what :meth:`bonus` and :meth:`add` need to know, ``(n_envs, ...)`` each
        """

    @abstractmethod
    def bonus(self, *compared: th.Tensor) -> th.Tensor:
        """
        Compute the bonus. This changes nothing.

        :param compared: Result of :meth:`compare`
        :return: bonus >= 0, ``(n_envs,)`` float32
        """

    @abstractmethod
    def add(self, states: th.Tensor, compared: tuple[th.Tensor, ...], which: th.Tensor) -> None:
        """
        Take states into the memory.

        :param states: One embedded state of each environment, ``(n_envs, ...)``
        :param compared: Result of :meth:`compare` for these states
        :param which: Environments whose states are taken, ``(n_envs,)`` bool
        """


class EpisodicReward(IntrinsicReward):
    """
    Base class of rewards with a memory of the episode. The bonus is that of the successor s_{t+1}; the first state
    of an episode is in the memory from the beginning.

    A subclass sets ``memory`` before :meth:`.IntrinsicReward.set_up` and defines
    :meth:`embed`.

    :param observation_space: See :class:`~sb3_snd.rewards.base.IntrinsicReward`
    :param obs_key: See :class:`~sb3_snd.rewards.base.IntrinsicReward`
    :param settings: See :class:`~sb3_snd.rewards.base.IntrinsicReward`
    """

    memory: EpisodicMemory

    def __init__(self, observation_space: spaces.Space, obs_key: str | Sequence[str] | None = None, **settings: Any) -> None:
        super().__init__(observation_space, obs_key, **settings)
        self.scale = RewardScale(settled=False)
        # The last successors, embedded and compared with the memory, which `bonus` and `remember` both need
        self._compared: tuple[th.Tensor, th.Tensor, tuple[th.Tensor, ...]] | None = None

    @abstractmethod
    def embed(self, frames: th.Tensor) -> th.Tensor:
        """
        Compute what the memory compares.

        :param frames: Frames of some of the environments, ``(n, *frame_shape)``
        :return: ``(n, ...)``
        """

    def start(self, n_envs: int) -> None:
        """Allocate empty memory for a number of environments; see :meth:`.IntrinsicReward.start`."""
        self.memory.start(n_envs)

    def observe(self, obs: Any) -> None:
        """Update running statistics, also those of the memory; see :meth:`.IntrinsicReward.observe`."""
        super().observe(obs)
        self._compared = None
        self.memory.settle()

    @th.no_grad()
    def begin(self, frames: th.Tensor, which: th.Tensor, places: th.Tensor | None = None) -> None:
        """Empty the memory of environments and insert their first states; see :meth:`.IntrinsicReward.begin`."""
        self.memory.clear(which)
        states = self.embed(frames) if places is None else places  # all of them: to select is to wait for the device
        self.memory.add(states, self.memory.compare(states), which)

    def _compare(self, step: Step) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
        assert step.successors is not None
        if self._compared is None or self._compared[0] is not step.successors:
            states = self.embed(step.successors) if step.places is None else step.places
            self._compared = step.successors, states, self.memory.compare(states)
        return self._compared[1:]

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute the bonus of the successors from the memory; see :meth:`.IntrinsicReward.bonus`."""
        _, compared = self._compare(step)
        return self.memory.bonus(*compared)

    @th.no_grad()
    def remember(self, step: Step) -> None:
        """Take the successors into the memory; see :meth:`.IntrinsicReward.remember`."""
        states, compared = self._compare(step)
        self.memory.add(states, compared, th.ones(len(states), dtype=th.bool, device=states.device))
        self._compared = None
