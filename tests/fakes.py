"""Environments and nets whose every number is known."""

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

from sb3_snd import SND
from sb3_snd.rewards import IntrinsicReward


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


def counting(n_envs=2, **kwargs):
    """:return: a vector environment of ``CountingEnv`` 0, 1, ..."""
    return DummyVecEnv([lambda i=i: CountingEnv(i, **kwargs) for i in range(n_envs)])


def image_env(n_envs=2, **kwargs):
    """:return: the same with images, in stacks of two, channels first"""
    return VecTransposeImage(VecFrameStack(counting(n_envs, image=True, **kwargs), 2))


class AnyEnv(gym.Env):
    """Observations and actions of any space; episodes of four steps."""

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,))
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = 4
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


class ActingEnv(gym.Env):
    """
    The observation is ``(number, step, first number of the last action)``. Episodes of ``number + 2`` steps; those of odd
    numbers end by a time limit.
    """

    def __init__(self, number, action_space):
        self.number, self.action_space = number, action_space
        self.observation_space = spaces.Box(-99, 99, (3,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_count = 0
        return np.array([self.number, 0, 0], dtype=np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.step_count += 1
        done, odd = self.step_count == self.number + 2, self.number % 2 == 1
        obs = np.array([self.number, self.step_count, np.ravel(action)[0]], dtype=np.float32)
        return obs, 0.0, done and not odd, done and odd, {}


class ScriptedEnv(gym.Env):
    """Shows given numbers, one list for each episode, over and over."""

    observation_space, action_space = spaces.Box(-99, 99, (1,)), spaces.Discrete(2)

    def __init__(self, *episodes):
        self.episodes, self.number = episodes, -1

    def _obs(self):
        return np.array([self.episodes[self.number % len(self.episodes)][self.shown]], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.shown = self.number + 1, 0
        return self._obs(), {}

    def step(self, action):
        self.shown += 1
        return self._obs(), 0.0, self.shown == len(self.episodes[self.number % len(self.episodes)]) - 1, False, {}


class FakeSND(SND):
    """Novelty of environment n is (n + 1) / 100, and what it was asked for is kept."""

    def __init__(self, observation_space, **kwargs):
        super().__init__(observation_space, "vic", eta=1.0, device="cpu", **kwargs)
        self.asked = []
        self.seen = []

    def novelty(self, obs):
        self.asked.append(th.as_tensor(obs).numpy().copy())
        return th.arange(1, len(obs) + 1) / 100

    def observe(self, obs):
        self.seen.append(th.as_tensor(obs).numpy().copy())


class Trace(IntrinsicReward):
    """
    Episodic, without nets: remembers the frames of each episode, up to 16. The bonus is the number of those that differ
    from the successor, in hundredths.
    """

    def __init__(self, observation_space, device="cpu", obs_key=None, **settings):
        super().__init__(observation_space, obs_key, **settings)
        self.register_buffer("shown", th.zeros(0, 16, *self.frame_shape), persistent=False)
        self.register_buffer("length", th.zeros(0, dtype=th.long), persistent=False)
        self.set_up(device)

    def start(self, n_envs):
        super().start(n_envs)
        self.shown = th.zeros(n_envs, 16, *self.frame_shape)
        self.length = th.zeros(n_envs, dtype=th.long)

    def begin(self, frames, which):
        self.length[which] = 0
        self._insert(frames, which)

    def _insert(self, frames, which):
        for idx in th.nonzero(which).flatten().tolist():
            self.shown[idx, self.length[idx]] = frames[idx].float()
            self.length[idx] += 1

    def bonus(self, step):
        differs = (self.shown != step.successors.float().unsqueeze(1)).flatten(2).any(dim=2)
        return (differs & (th.arange(16) < self.length[:, None])).sum(dim=1) / 100

    def remember(self, step):
        self._insert(step.successors, th.ones(len(step.states), dtype=th.bool))


class Guess(IntrinsicReward):
    """
    Reads transitions, without a memory: a net guesses the action. What it was asked for and trained on is kept. The bonus
    is the action's first number.
    """

    def __init__(self, observation_space, device="cpu", obs_key=None, **settings):
        super().__init__(observation_space, obs_key, **settings)
        self.net = th.nn.Linear(2 * self.frame_shape[0], 1)
        self.steps, self.batches = [], []
        self.set_up(device)

    def prepare(self, obs):
        return self.select(obs)

    def bonus(self, step):
        self.steps.append(step)
        return step.actions.reshape(len(step.actions), -1)[:, 0].float().abs()

    def loss(self, batch):
        self.batches.append(batch)
        states, successors = batch.split(batch.frames)
        guess = self.net(th.cat([states, successors], dim=1))
        return {"loss": (guess - batch.actions.reshape(len(states), -1)[:, :1].float()).square().mean()}
