"""
Deep Sea, the plainest test of exploration: who acts at random finds the treasure with probability 2^-size an episode.

Knows Gymnasium. The id ``DeepSea-v0`` is registered when this module is imported. Must not know any network, novelty or
algorithm.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_snd.arguments import checked, whole

LARGEST_SIZE = 1000  # whose observations have a million numbers
MAPPING_SEED = 42  # of what the actions mean


class DeepSea(gym.Env):
    """
    Osband et al.: Behaviour suite for reinforcement learning, arXiv 1908.03568, Deep Sea. A diver sinks one row a step and
    goes left or right. A treasure of 1 lies at the right end of the last row; every step to the right costs 0.01 / size, so
    that all short-sighted advice is to go left. Which of both actions means right is drawn for each square, once and for all,
    so that what was learned of one square says nothing of another. The best return is 0.99.

    Observations are ``(size * size,)`` float32, one for the diver's square and zero elsewhere.

    :param size: Number of rows and columns, and steps of an episode
    """

    def __init__(self, size: int = 10) -> None:
        self.size = size = checked({"size": size}, {"size": whole(2, LARGEST_SIZE)})["size"]
        self.observation_space = spaces.Box(0, 1, (size * size,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.right = np.random.RandomState(MAPPING_SEED).randint(2, size=(size, size))  # the action that means it
        self.row = self.column = 0

    def _obs(self) -> np.ndarray:
        obs = np.zeros(self.observation_space.shape, np.float32)  # type: ignore[arg-type]
        if self.row < self.size:
            obs[self.row * self.size + self.column] = 1
        return obs

    def get_place(self) -> tuple[int, int]:
        """
        :return: row and column of the diver
        """
        return self.row, self.column

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        :param seed: Unused, as nothing is random
        :param options: Unused
        :return: observation ``(size * size,)`` float32, info
        """
        super().reset(seed=seed)
        self.row = self.column = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        :param action: 0 or 1
        :return: observation ``(size * size,)`` float32, all zero after the last row; reward, terminated, False, info
        """
        reward = 0.0
        if action == self.right[self.row, self.column]:
            reward = float(self.column == self.size - 1) - 0.01 / self.size
            self.column = min(self.column + 1, self.size - 1)
        else:
            self.column = max(self.column - 1, 0)
        self.row += 1
        return self._obs(), reward, self.row == self.size, False, {}


gym.register("DeepSea-v0", entry_point="sb3_snd.envs.deep_sea:DeepSea")
