"""A bonus on an environment of one's own: PPO stays as it is, the ``VecEnv`` is wrapped and a callback trains the nets."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_snd import SNDCallback, VecIntrinsicReward


class Corridor(gym.Env):
    """Walk right to the end of a corridor; every other reward is 0."""

    def __init__(self, length: int = 30) -> None:
        self.length = length
        self.observation_space = spaces.Box(0, length, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = 0, 0
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action == 1 else -1))
        self.steps += 1
        arrived = self.place == self.length
        return np.array([self.place], np.float32), float(arrived), arrived, self.steps == 2 * self.length, {}


def main(total_timesteps: int = 60_000) -> tuple[float, VecIntrinsicReward]:
    """:return: mean return without the bonus, and the training environment"""
    env = make_vec_env(Corridor, n_envs=8, seed=0)
    env = VecIntrinsicReward(env, "vic", snd_kwargs={"norm_reward": True, "eta": 10.0}, ext_coef=1.0, int_coef=0.5)
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=256, seed=0, device="cpu")
    model.learn(total_timesteps, callback=SNDCallback(save_path="corridor"))
    score, _ = evaluate_policy(model, make_vec_env(Corridor), n_eval_episodes=10)
    print(f"return of the environment's own reward: {score}")
    return float(score), env


if __name__ == "__main__":
    main()
