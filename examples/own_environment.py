"""A bonus on an environment of one's own: PPO stays as it is, the ``VecEnv`` is wrapped and a callback trains the nets."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_snd import SNDCallback, VecIntrinsicReward


class DeepSea(gym.Env):
    """
    A diver sinks one row a step and swims left or right. A treasure lies at the far right of the last row; every stroke to
    the right costs a little, so that all short-sighted advice is to swim left (after Osband et al., arXiv 1908.03568).
    """

    def __init__(self, size: int = 12) -> None:
        self.size = size
        self.observation_space = spaces.Box(0, size, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def _obs(self):
        return np.array([self.row, self.column], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row = self.column = 0
        return self._obs(), {}

    def step(self, action):
        self.row += 1
        self.column = max(0, self.column + (1 if action == 1 else -1))
        cost = 0.01 / self.size if action == 1 else 0.0
        ended = self.row == self.size
        return self._obs(), float(ended and self.column == self.size) - cost, ended, False, {}


def main(total_timesteps: int = 40_000) -> tuple[float, VecIntrinsicReward]:
    """:return: mean return of the environment's own reward, 0.99 at best, and the training environment"""
    env = make_vec_env(DeepSea, n_envs=8, seed=0)
    env = VecIntrinsicReward(env, "vic", snd_kwargs={"norm_reward": True, "eta": 10.0}, ext_coef=5.0, int_coef=0.5)
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=256, seed=0, device="cpu")
    model.learn(total_timesteps, callback=SNDCallback(save_path="deep_sea"))
    score, _ = evaluate_policy(model, make_vec_env(DeepSea), n_eval_episodes=10)
    print(f"return of the environment's own reward: {score:.2f}")  # PPO alone, with this seed: 0
    return float(score), env


if __name__ == "__main__":
    main()
