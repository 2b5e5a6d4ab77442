"""Videos, and the strip of novelty below their frames."""

import cv2
import numpy as np
import pytest
import torch as th
from fakes import CountingEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_snd.runs.video import STRIP_COLOUR, VecNoveltyStrip, VecVideoFile


class Rendered(CountingEnv):
    """Frames of 60 x 40 pixels, as bright as the step."""

    render_mode = "rgb_array"
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def render(self):
        return np.full((60, 40, 3), self.step_count, dtype=np.uint8)


class Rising:
    """Novelty is the step."""

    def novelty(self, obs):
        return th.as_tensor(obs[:, 1])


def make(n_envs=1):
    return DummyVecEnv([lambda: Rendered(length=4)] * n_envs)


def bars(frame):
    """Height in pixels of each column of the strip, None where an episode begins."""
    strip = frame[60:]
    heights = (strip == STRIP_COLOUR).all(axis=2).sum(axis=0).tolist()
    return [None if (column == 0).all() else height for column, height in zip(strip.swapaxes(0, 1), heights, strict=True)]


def test_strip_shows_the_novelty_of_the_last_steps():
    env = VecNoveltyStrip(make(), Rising)
    env.reset()
    frames = [env.render()]
    for _ in range(5):
        env.step(np.array([0]))
        frames.append(env.render())
    assert all(frame.shape == (70, 40, 3) and frame.dtype == np.uint8 for frame in frames)
    assert [frame[0, 0, 0] for frame in frames] == [0, 1, 2, 3, 0, 1]
    assert bars(frames[1])[-3:] == [None, 0, 10]  # 1 is the highest so far: the whole strip
    assert bars(frames[3])[-5:] == [None, 0, 3, 7, 10]  # 0, 1, 2 and 3 thirds of 10 pixels
    assert bars(frames[5])[-8:] == [None, 0, 3, 7, 10, None, 0, 3]  # the episode ended after 4 steps
    assert np.array_equal(frames[5], env.render())  # drawing again adds nothing


def test_strip_of_many_steps_keeps_the_newest():
    env = VecNoveltyStrip(make(), Rising)
    env.reset()
    for _ in range(99):
        env.render()
        env.step(np.array([0]))
    assert bars(env.render()) == [None, 0, 3, 7, 10] * 8


def test_strip_follows_one_environment():
    with pytest.raises(ValueError, match="needs exactly one environment, not 2: use --n-envs 1"):
        VecNoveltyStrip(make(2), Rising)


def test_video_file(tmp_path):
    path = tmp_path / "new" / "agent.mp4"
    env = VecVideoFile(VecNoveltyStrip(make(), Rising), path, 6)
    env.reset()
    for _ in range(8):
        env.step(np.array([0]))
    env.close()
    capture = cv2.VideoCapture(str(path))
    keys = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT
    assert [capture.get(key) for key in keys] == [40, 70, 10, 7]  # the first frame, and one for each of six steps
    assert [file.name for file in path.parent.iterdir()] == ["agent.mp4"]
