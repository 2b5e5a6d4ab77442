"""Record videos of an agent, optionally with a strip below the frames that shows the novelty of what it sees.

Knows SB3's video recorder, and ``SND`` for its novelty. Must not know how the agent was trained or is loaded.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecVideoRecorder
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_snd.rewards.snd import SND

STRIP_SHARE = 1 / 6  # height of the strip relative to the height of the frame
STRIP_COLOUR = (255, 196, 0)


class VecNoveltyStrip(VecEnvWrapper):
    """
    Draw the novelty of the last steps as a strip below the rendered frames of one environment.

    Each step is one column, with the newest at the right. Heights are relative to the highest novelty so far.
    A dark column marks the start of an episode.

    :param venv: Vector environment with one environment that renders ``rgb_array``
    :param get_snd: Returns the ``SND``; called when a frame is drawn, so that the model may be loaded later
    :raises ValueError: if there is more than one environment
    """

    def __init__(self, venv: VecEnv, get_snd: Callable[[], SND]) -> None:
        if venv.num_envs != 1:
            raise ValueError(f"The novelty strip needs exactly one environment, not {venv.num_envs}: use --n-envs 1.")
        super().__init__(venv)
        self.get_snd = get_snd
        self.highest = 0.0
        self.history: list[float] = []  # NaN at the start of an episode
        self._obs: VecEnvObs | None = None  # the newest observation, until its novelty is drawn

    def reset(self) -> VecEnvObs:
        """Reset the environment, and mark the start of an episode."""
        self._obs = self.venv.reset()
        self.history.append(np.nan)
        return self._obs

    def step_wait(self) -> VecEnvStepReturn:
        """Finish a step, and mark the start of an episode if one has ended."""
        self._obs, rewards, dones, infos = self.venv.step_wait()
        if dones[0]:
            self.history.append(np.nan)
        return self._obs, rewards, dones, infos

    def render(self, mode: str | None = "rgb_array") -> np.ndarray:
        """
        Render the environment and draw the strip below its frame.

        :param mode: ``"rgb_array"``
        :return: the frame ``(H, W, 3)`` with the strip below it, ``(H + h, W, 3)`` uint8
        """
        frame = self.venv.render("rgb_array")
        assert isinstance(frame, np.ndarray)
        if self._obs is not None:
            self.history.append(self.get_snd().novelty(self._obs).item())
            self.highest = max(self.highest, self.history[-1])
            self._obs = None
        height, width = frame.shape[:2]
        return np.concatenate([frame, self._strip(2 * round(STRIP_SHARE * height / 2), width)])

    def _strip(self, height: int, width: int) -> np.ndarray:
        """Draw the strip, ``(height, width, 3)`` uint8."""
        self.history = self.history[-width:]
        strip = np.full((height, width, 3), 32, dtype=np.uint8)
        values = np.array(self.history)
        # (w,) in pixels
        bars = height * np.nan_to_num(values) / max(self.highest, float(np.finfo(float).tiny))
        filled = np.arange(height, 0, -1)[:, None] <= bars + 0.5  # (height, w)
        columns = strip[:, width - len(values) :]
        columns[filled] = STRIP_COLOUR
        columns[:, np.isnan(values)] = 0
        return strip


class VecVideoFile(VecVideoRecorder):
    """
    SB3's recorder for a single file with a given name. It contains the first steps, or all of them if the
    environment is closed earlier.

    :param venv: Vector environment that renders ``rgb_array``
    :param path: Path of the video, ``*.mp4``
    :param video_length: Maximum number of steps
    """

    def __init__(self, venv: VecEnv, path: Path, video_length: int) -> None:
        self.path = path
        super().__init__(venv, str(path.parent), lambda step: step == 0, video_length)

    def _start_recording(self) -> None:
        super()._start_recording()
        self.video_path = str(self.path)
