"""
An intrinsic reward of your own that reads transitions: it pays for what an action changed, the more rarely it changed in the
episode, the more. It works wherever ``snd=`` takes a name, and in YAML files (``sb3-snd train --gym-packages``).
"""

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_snd import SNDCallback, VecIntrinsicReward
from sb3_snd.rewards import IntrinsicReward, Step, check_reward, register


class RareChange(IntrinsicReward):
    """Size of the change from s_t to s_{t+1} in each number, divided by all its changes in the episode so far."""

    def __init__(self, observation_space, action_space=None, obs_key=None, device="auto", **settings):
        super().__init__(observation_space, obs_key, action_space=action_space, **settings)
        # One row for each environment. It belongs to a run, not to the model: checkpoints hold it, saved models do not
        self.register_buffer("changed", th.zeros(0, *self.frame_shape), persistent=False)
        self.set_up(device)

    def start(self, n_envs):
        self.changed = self.changed.new_zeros(n_envs, *self.frame_shape)

    def begin(self, frames, which):
        self.changed[which] = 0  # a new episode

    def change(self, step):
        return (self.prepare(step.successors) - self.prepare(step.states)).abs()

    def bonus(self, step: Step):
        change = self.change(step)
        return (change / (1 + self.changed)).flatten(1).mean(dim=1)

    def remember(self, step: Step):
        self.changed += self.change(step)


def main(total_timesteps: int = 100_000) -> PPO:
    check_reward(RareChange)  # one sentence if something is wrong
    register("rare_change", RareChange)
    env = VecIntrinsicReward(make_vec_env("MountainCar-v0", n_envs=16), snd="rare_change", snd_kwargs={"norm_reward": True})
    return PPO("MlpPolicy", env, n_steps=256).learn(total_timesteps, callback=SNDCallback())


if __name__ == "__main__":
    main()
