"""
The learner's rewards in Atari games: functions of the game's own, and vector wrappers that apply them.

Must not know ALE, any network, novelty or algorithm.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

#: name -> function that maps one reward of a game, or an array of them, to the learner's reward.
#: "positive": 1 if it is positive, else 0, as in the paper.
#: "sign": its sign, as in DQN (Mnih et al., Human-level control through deep reinforcement learning, 2015).
#: "raw": unchanged.
REWARDS: dict[str, Callable[[Any], Any]] = {
    "positive": lambda reward: np.maximum(0.0, np.sign(reward)),
    "sign": np.sign,
    "raw": lambda reward: reward,
}


class VecPositiveReward(VecEnvWrapper):
    """
    Compute the learner's reward as in the paper: 1 if the game's reward is positive, else 0.

    :param venv: Vector environment
    """

    keeps_frames = True
    reward = "positive"  #: key of :data:`REWARDS`

    def reset(self) -> VecEnvObs:
        """
        Reset the environments.

        :return: observations, unchanged
        """
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the results of the step.

        :return: the environments' results, with the learner's rewards ``(n_envs,)`` float32
        """
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, REWARDS[self.reward](rewards).astype(np.float32), dones, infos


class VecSignReward(VecPositiveReward):
    """
    Compute the learner's reward as in DQN: the sign of the game's reward.

    :param venv: Vector environment
    """

    reward = "sign"
