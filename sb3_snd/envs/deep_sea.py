"""
Deep Sea tests exploration: a random policy finds the treasure with probability 2^-size per episode.

Knows Gymnasium. Importing this module registers the id ``DeepSea-v0``. Must not know any network, novelty or
algorithm.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_snd.common.validation import integer, validate

MAX_SIZE = 1000  # observations then have a million entries
MAPPING_SEED = 42  # seed of the action mapping


class DeepSea(gym.Env):
    """
    Deep Sea from Osband et al.: Behaviour suite for reinforcement learning, arXiv 1908.03568.

    A diver sinks one row per step and moves left or right. A treasure of 1 is at the right end of the last
    row. Every step to the right costs 0.01 / size, so that short-sighted agents learn to move left. For each
    square it is drawn once which of the two actions moves right, so that what is learned about one square
    does not help in another. The best return is 0.99.

    Observations are ``(size * size,)`` float32, one for the diver's square and zero elsewhere.

    :param size: Number of rows, of columns, and of steps per episode
    """

    def __init__(self, size: int = 10) -> None:
        self.size = size = validate({"size": size}, {"size": integer(2, MAX_SIZE)})["size"]
        self.observation_space = spaces.Box(0, 1, (size * size,), np.float32)
        self.action_space = spaces.Discrete(2)
        # The action that moves right
        self.right = np.random.RandomState(MAPPING_SEED).randint(2, size=(size, size))
        self.row = self.column = 0

    def _obs(self) -> np.ndarray:
        obs = np.zeros(self.observation_space.shape, np.float32)  # type: ignore[arg-type]
        if self.row < self.size:
            obs[self.row * self.size + self.column] = 1
        return obs

    def get_place(self) -> tuple[int, int]:
        """
        Return the position of the diver.

        :return: row and column
        """
        return self.row, self.column

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start a new episode.

        :param seed: Unused, as nothing is random
        :param options: Unused
        :return: observation ``(size * size,)`` float32, info
        """
        super().reset(seed=seed)
        self.row = self.column = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Move the diver one row down and to the left or right.

        :param action: 0 or 1
        :return: observation ``(size * size,)`` float32, zero after the last row; reward, terminated, False,
            info
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
