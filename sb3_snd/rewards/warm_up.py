"""Random steps whose observations start the statistics of a reward.

Knows vector environments, but no algorithm.
"""

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.rewards.base import IntrinsicReward


def warm_up(reward: IntrinsicReward, env: VecEnv) -> bool:
    """
    Let a reward observe random actions before a training begins, if it asks for that.

    :param reward: The reward
    :param env: Its environment, below ``VecIntrinsicReward``; the actions are drawn from its action space
    :return: whether the environment was stepped, and so must be reset
    """
    n_steps = reward.warm_up_steps
    if n_steps > 0:
        env.reset()
    for _ in range(n_steps):
        obs, *_ = env.step(np.stack([env.action_space.sample() for _ in range(env.num_envs)]))
        reward.observe(obs)
    return n_steps > 0
