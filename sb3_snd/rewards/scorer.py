"""``Scorer``: asks a reward about each step of the environments, and keeps its memory in step with them.

Knows the order in which a reward is asked, but no environment and no info.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.statistics import BonusStatistics


class Scorer:
    """
    Score steps in two halves: :meth:`begin_step` while the environments step, :meth:`finish_step` when they have
    stepped.

    The reward's memory holds what each environment has shown since its last reset. If steps were not scored, or
    if the reward has served other environments meanwhile, the memory begins anew with the present observation.

    :param reward: The reward
    :param n_envs: Number of environments
    """

    def __init__(self, reward: IntrinsicReward, n_envs: int) -> None:
        self.reward = reward
        self.n_envs = n_envs
        self.statistics = BonusStatistics(reward.scale)
        self._step: Step | None = None  # the step that is under way
        self._intrinsic: th.Tensor | None = None  # its rewards, if they are known already
        self._claim: int | None = None  # result of the reward's ``claim`` for these environments
        self._follows = False  # whether the reward's memory holds what these environments have shown

    @property
    def is_scoring(self) -> bool:
        """Whether a step is under way."""
        return self._step is not None

    def lose_track(self) -> None:
        """Note that the environments have stepped or were reset unseen. A step that is under way is dropped."""
        self._step, self._follows = None, False

    @th.no_grad()
    def begin_step(self, obs: Any, actions: np.ndarray, places: np.ndarray | None = None) -> th.Tensor:
        """
        Begin a step. On an accelerator the call returns before the bonus is ready.

        :param obs: s_t, ``(n_envs, *obs_shape)``, or a dict of these
        :param actions: ``(n_envs, *action_shape)``
        :param places: Places of s_t, ``(n_envs, K)`` int64, if the reward reads places
        :return: frames of s_t, ``(n_envs, *frame_shape)``
        """
        if self._step is not None:  # the step before was interrupted
            self.lose_track()
        self._intrinsic = None
        reward = self.reward
        frames = reward.select(obs)
        if self._claim != reward.n_claims:
            self._claim, self._follows = reward.claim(), False
            reward.scale.forget()
        if not self._follows:
            reward.start(self.n_envs)
            self._follows = True
            if reward.reads == "transition":
                self._begin(frames, th.ones(self.n_envs, dtype=th.bool, device=frames.device), places)
        reward.observe(frames)
        step = Step(frames)
        if reward.reads == "state":
            self._score(step)
        else:
            step = Step(frames, th.as_tensor(np.array(actions), device=frames.device))
        self._step = step
        return frames

    @th.no_grad()
    def finish_step(
        self,
        next_obs: Any,
        dones: np.ndarray,
        terminal_frames: Mapping[int, th.Tensor],
        places: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> th.Tensor:
        """
        Finish the step.

        :param next_obs: Observation after the step, ``(n_envs, *obs_shape)``, or a dict of these; the first of
            the next episode if one ended
        :param dones: Whether an episode ended, ``(n_envs,)``
        :param terminal_frames: True successor of each state in which an episode ended, ``(*frame_shape)``, by
            environment; only rewards that read transitions need it
        :param places: Places of the true successors and of ``next_obs``, ``(n_envs, K)`` int64 each, if the reward
            reads places
        :return: intrinsic rewards, ``(n_envs,)`` float32 on the nets' device
        """
        assert self._step is not None, "No step is under way."
        if self.reward.reads == "transition":
            frames = successors = self.reward.select(next_obs)
            ends = th.as_tensor(dones, dtype=th.bool, device=frames.device)
            if terminal_frames:
                successors = frames.clone()
                for idx, frame in terminal_frames.items():
                    successors[idx] = frame
            step = self._step._replace(successors=successors, ends=ends)
            if places is not None:
                step = step._replace(places=th.as_tensor(places[0], device=frames.device))
            self._score(step)
            self.reward.remember(step)
            if terminal_frames:
                self._begin(frames, ends, None if places is None else places[1])
        self._step = None
        assert self._intrinsic is not None and self._intrinsic.shape == (self.n_envs,), self._intrinsic
        return self._intrinsic

    def _begin(self, frames: th.Tensor, which: th.Tensor, places: np.ndarray | None) -> None:
        given = () if places is None else (th.as_tensor(places, device=frames.device),)
        self.reward.begin(frames, which, *given)

    def _score(self, step: Step) -> None:
        scale = self.reward.scale
        bonus = self.reward.bonus(step)
        scale.update(bonus)
        normalized = scale.normalize(bonus)
        self._intrinsic = scale.clip(normalized)
        self.statistics.add(bonus, normalized, self._intrinsic)

    def get_run_state(self) -> dict[str, Any]:
        """
        Return what a checkpoint between two steps must hold: statistics, and what the reward keeps about the
        environments.

        :return: parts by name
        """
        claimed = self._claim == self.reward.n_claims
        return {
            "statistics": self.statistics.get_run_state(),
            "reward": self.reward.get_run_state() if claimed else {},
            "follows": claimed and self._follows,
        }

    def set_run_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state that :meth:`get_run_state` returned.

        :param state: Parts by name; their tensors may be on any device
        """
        self.statistics.set_run_state(state["statistics"], self.reward.device)
        if state["reward"]:  # otherwise the reward had not served these environments yet
            self.reward.set_run_state(state["reward"])
        self._claim, self._follows = self.reward.claim(), state["follows"]
