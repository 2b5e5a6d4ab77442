"""Videos of an agent, on request with the novelty of what it sees as a strip below the frames.

Knows SB3's video recorder and asks an ``SND`` for novelty; it knows neither how the agent was trained nor how it is loaded.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecVideoRecorder
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_snd.snd import SND

STRIP_SHARE = 1 / 6  # height of the strip, relative to the frame's
STRIP_COLOUR = (255, 196, 0)


class VecNoveltyStrip(VecEnvWrapper):
    """
    Rendered frames of one environment get a strip below: the novelty of the last steps, one column each, the newest at
    the right, relative to the highest so far. A new episode begins with a dark column.

    :param venv: One environment that renders ``rgb_array``
    :param get_snd: Gives the nets; called when a frame is drawn, so that a model may be loaded after the environment
    :raises ValueError: if there are several environments
    """

    def __init__(self, venv: VecEnv, get_snd: Callable[[], SND]) -> None:
        if venv.num_envs != 1:
            raise ValueError(f"The novelty strip follows one environment, not {venv.num_envs}: use --n-envs 1.")
        super().__init__(venv)
        self.get_snd = get_snd
        self.highest = 0.0
        self.history: list[float] = []  # NaN where an episode begins
        self._obs: VecEnvObs | None = None  # not drawn yet

    def reset(self) -> VecEnvObs:
        self._obs = self.venv.reset()
        self.history.append(np.nan)
        return self._obs

    def step_wait(self) -> VecEnvStepReturn:
        self._obs, rewards, dones, infos = self.venv.step_wait()
        if dones[0]:
            self.history.append(np.nan)
        return self._obs, rewards, dones, infos

    def render(self, mode: str | None = "rgb_array") -> np.ndarray:
        """
        :param mode: ``"rgb_array"``
        :return: the frame ``(H, W, 3)`` with the strip below, ``(H + h, W, 3)`` uint8
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
        """:return: ``(height, width, 3)`` uint8"""
        self.history = self.history[-width:]
        strip = np.full((height, width, 3), 32, dtype=np.uint8)
        values = np.array(self.history)
        bars = height * np.nan_to_num(values) / max(self.highest, float(np.finfo(float).tiny))  # (w,) in pixels
        filled = np.arange(height, 0, -1)[:, None] <= bars + 0.5  # (height, w)
        columns = strip[:, width - len(values) :]
        columns[filled] = STRIP_COLOUR
        columns[:, np.isnan(values)] = 0
        return strip


class VecVideoFile(VecVideoRecorder):
    """
    SB3's recorder with one file of a given name: the first steps, or all of them if it is closed before.

    :param venv: Environment that renders ``rgb_array``
    :param path: The file, ``*.mp4``
    :param video_length: Steps at most
    """

    def __init__(self, venv: VecEnv, path: Path, video_length: int) -> None:
        self.path = path
        super().__init__(venv, str(path.parent), lambda step: step == 0, video_length)

    def _start_recording(self) -> None:
        super()._start_recording()
        self.video_path = str(self.path)
