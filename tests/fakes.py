"""Environments and nets whose every number is known."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_snd import SND


class CountingEnv(gym.Env):
    """
    The observation is ``(number, step)``: its own number and the steps since reset; the reward is 10 times the number.

    :param number: Shown in each observation
    :param length: Steps of an episode
    :param truncated: Whether episodes end by a time limit
    :param image: Whether the observation is an image filled with ``20 * number + step``
    """

    def __init__(self, number=0, length=5, truncated=False, image=False):
        self.number, self.length, self.truncated, self.image = number, length, truncated, image
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8) if image else spaces.Box(-99, 99, (2,))
        self.action_space = spaces.Discrete(3)

    def _obs(self):
        if self.image:
            return np.full((36, 36, 1), 20 * self.number + self.step_count, dtype=np.uint8)
        return np.array([self.number, self.step_count], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_count = 0
        return self._obs(), {}

    def step(self, action):
        self.step_count += 1
        done = self.step_count == self.length
        return self._obs(), 10.0 * self.number, done and not self.truncated, done and self.truncated, {}


class FakeSND(SND):
    """Novelty of environment n is (n + 1) / 100, and what it was asked for is kept."""

    def __init__(self, observation_space, **kwargs):
        super().__init__(observation_space, "vic", eta=1.0, device="cpu", **kwargs)
        self.asked = []
        self.seen = []

    def novelty(self, obs):
        self.asked.append(np.array(obs))
        return th.arange(1, len(obs) + 1) / 100

    def observe(self, obs):
        self.seen.append(np.array(obs))
