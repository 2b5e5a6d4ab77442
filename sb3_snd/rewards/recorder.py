"""``RolloutRecorder``: the frames that a reward has rated, kept until its nets are trained on them.

Knows frames and actions, but no environment.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_snd.rewards.rollout import Rollout


class RolloutRecorder:
    """
    Record one rollout.

    :param n_steps: Number of steps
    :param frames: Frames of any step, ``(n_envs, *frame_shape)``, whose shape, dtype and device are taken
    """

    def __init__(self, n_steps: int, frames: th.Tensor) -> None:
        self._frames = th.zeros(n_steps, *frames.shape, dtype=frames.dtype, device=frames.device)
        self.restart()

    @property
    def n_steps(self) -> int:
        """Number of steps of the rollout."""
        return len(self._frames)

    @property
    def is_complete(self) -> bool:
        """Whether all steps are recorded."""
        return len(self._actions) == self.n_steps

    def restart(self) -> None:
        """Forget the steps so far."""
        self._actions: list[np.ndarray] = []
        self._terminal_frames: dict[int, th.Tensor] = {}

    def add(self, frames: th.Tensor, actions: np.ndarray) -> None:
        """
        Record a step that begins.

        :param frames: Frames of s_t, ``(n_envs, *frame_shape)``
        :param actions: ``(n_envs, *action_shape)``
        """
        self._frames[len(self._actions)].copy_(frames)
        self._actions.append(np.array(actions))

    def add_ends(self, terminal_frames: Mapping[int, th.Tensor]) -> None:
        """
        Record which episodes ended with the newest step.

        :param terminal_frames: Frame of the terminal observation, ``(*frame_shape)``, by environment
        """
        first_row = (len(self._actions) - 1) * self._frames.shape[1]
        self._terminal_frames.update({first_row + idx: frame for idx, frame in terminal_frames.items()})

    def pop(self, last_observation: Any) -> Rollout:
        """
        Return the rollout, and restart.

        :param last_observation: Observation after the last step, ``(n_envs, *obs_shape)``, or a dict of these
        :return: the rollout; the next recording overwrites its memory
        """
        assert self.is_complete, "The recording is not complete."
        rollout = Rollout(self._frames, last_observation, self._terminal_frames, np.stack(self._actions))
        self.restart()
        return rollout
