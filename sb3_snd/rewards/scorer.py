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
    Score steps in two halves: :meth:`start` while the environments step, :meth:`finish` when they have stepped.

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
        #: ``n_starts`` of the reward when its memory began to follow these environments; None if it does not
        self._starts: int | None = None
        reward.scale.start()

    @property
    def is_scoring(self) -> bool:
        """Whether a step is under way."""
        return self._step is not None

    def lose_track(self) -> None:
        """Note that the environments have stepped or were reset unseen. A step that is under way is dropped."""
        self._step, self._starts = None, None

    def start(self, obs: Any, actions: np.ndarray) -> th.Tensor:
        """
        Begin a step. On an accelerator the call returns before the bonus is ready.

        :param obs: s_t, ``(n_envs, *obs_shape)``, or a dict of these
        :param actions: ``(n_envs, *action_shape)``
        :return: frames of s_t, ``(n_envs, *frame_shape)``
        """
        self._step, self._intrinsic = None, None  # after an interrupt they may still be those of the step before
        reward = self.reward
        frames = reward.select(obs)
        if self._starts != reward.n_starts:
            reward.start(self.n_envs)
            self._starts = reward.n_starts
            if reward.reads == "transition":
                reward.begin(frames, th.ones(self.n_envs, dtype=th.bool, device=frames.device))
        reward.observe(frames)
        if reward.reads == "state":
            self._step = Step(frames)
            self._score(self._step)
        else:
            self._step = Step(frames, th.as_tensor(np.array(actions), device=frames.device))
        return frames

    def finish(self, next_obs: Any, dones: np.ndarray, terminal_frames: Mapping[int, th.Tensor]) -> th.Tensor:
        """
        End the step.

        :param next_obs: Observation after the step, ``(n_envs, *obs_shape)``, or a dict of these; the first of
            the next episode if one ended
        :param dones: Whether an episode ended, ``(n_envs,)``
        :param terminal_frames: True successor of each state in which an episode ended, ``(*frame_shape)``, by
            environment; only rewards that read transitions need it
        :return: intrinsic rewards, ``(n_envs,)`` float32 on the nets' device
        """
        assert self._step is not None, "No step is under way."
        step, self._step = self._step, None
        if self.reward.reads == "transition":
            frames = successors = self.reward.select(next_obs)
            ends = th.as_tensor(dones, dtype=th.bool, device=frames.device)
            if terminal_frames:
                successors = frames.clone()
                for idx, frame in terminal_frames.items():
                    successors[idx] = frame
            step = step._replace(successors=successors, ends=ends)
            self._score(step)
            self.reward.remember(step)
            if terminal_frames:
                self.reward.begin(frames, ends)
        assert self._intrinsic is not None and self._intrinsic.shape == (self.n_envs,), self._intrinsic
        intrinsic, self._intrinsic = self._intrinsic, None
        return intrinsic

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
        follows = self._starts == self.reward.n_starts
        return {
            "statistics": self.statistics.get_run_state(),
            "reward": self.reward.get_run_state(),
            "follows": follows,
        }

    def set_run_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state that :meth:`get_run_state` returned.

        :param state: Parts by name; their tensors may be on any device
        """
        self.statistics.set_run_state(state["statistics"], self.reward.device)
        self.reward.set_run_state(state["reward"])
        self._starts = self.reward.n_starts if state["follows"] else None
