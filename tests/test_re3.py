"""RE3: distances to neighbours by numpy, the memory of all environments, and what it belongs to."""

import copy

import numpy as np
import pytest
import torch as th
from fakes import AnyEnv, ScriptedEnv, counting
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_snd import PPOSND, SNDCallback, VecIntrinsicReward
from sb3_snd.rewards import Step, check_reward
from sb3_snd.rewards.re3 import RE3

VECTOR = spaces.Box(-1, 1, (5,))
SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
EPISODES = [1, -3, 2, -3, 9], [3, 1, 5, 3]


def scripted():
    return DummyVecEnv([lambda: ScriptedEnv(*EPISODES), lambda: ScriptedEnv(*EPISODES[::-1])])


def plain_re3(n_neighbors, capacity=None):
    """:return: a reward whose features are the numbers themselves"""
    reward = RE3(ScriptedEnv.observation_space, features_dim=1, n_neighbors=n_neighbors, eta=0.1, device="cpu")
    reward.features = reward.select
    reward.memory = reward.memory[: capacity or 1000].clone()
    return reward


def shown():
    """:return: states in which environments 0 and 1 act"""
    sequences = [EPISODES[0][:-1] + EPISODES[1][:-1], EPISODES[1][:-1] + EPISODES[0][:-1]]
    return np.array(sequences * 2).reshape(2, 2, -1).transpose(0, 2, 1).reshape(-1, 2)  # (14, 2)


@pytest.mark.parametrize("capacity", [1000, 5])
@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_bonus_by_hand(n_neighbors, capacity):
    """Distance to the k-th nearest of all earlier states, or to the farthest if there are less; the newest are kept."""
    env = VecIntrinsicReward(scripted(), plain_re3(n_neighbors, capacity), ext_coef=0.0)
    env.reset()
    env.training = True
    memory = []
    for states in shown():
        _, rewards, _, _ = env.step(np.zeros(2, dtype=int))
        nearest = [sorted(abs(state - np.array(memory)))[:n_neighbors] if memory else [0.0] for state in states]
        np.testing.assert_allclose(rewards, [0.1 * np.log(1 + distances[-1]) for distances in nearest], atol=1e-6)
        memory = [*memory, *states][-capacity:]
    assert env.snd.n_remembered == 28


def test_the_memory_goes_on():
    """When the environments are reset, and when others take their place."""
    reward = plain_re3(1)
    env, other = (VecIntrinsicReward(venv, reward) for venv in (scripted(), DummyVecEnv([lambda: ScriptedEnv(*EPISODES)])))
    for each in (env, env, other):
        each.reset()
        each.training = True
        each.step(np.zeros(each.num_envs, dtype=int))
    assert reward.memory[: reward.n_remembered].flatten().tolist() == [1, 3, 3, 1, 1]


def test_small_distances_between_large_features():
    """The k-th of a hundred neighbours in 64 dimensions, all near to each other and far from 0."""
    rng = np.random.default_rng(0)
    reward = RE3(spaces.Box(-99, 99, (64,)), n_neighbors=3, device="cpu")
    reward.features = reward.select
    memory = (100 + 0.1 * rng.random((100, 64))).astype(np.float32)
    states = memory[:8].copy()
    reward.remember(Step(th.as_tensor(memory)))
    distances = np.sort(np.linalg.norm(memory.astype(float) - states[:, None], axis=2), axis=1)
    np.testing.assert_allclose(reward.bonus(Step(th.as_tensor(states))), np.log1p(distances[:, 2]), rtol=1e-3)
    reward.n_neighbors = 1
    assert reward.bonus(Step(th.as_tensor(states))).tolist() == [0.0] * 8


def test_more_environments_than_the_memory_holds():
    reward = plain_re3(1, capacity=4)
    reward.remember(Step(th.arange(3.0)[:, None]))
    reward.remember(Step(th.arange(10.0, 16.0)[:, None]))
    assert reward.n_remembered == 7 and sorted(reward.memory.flatten().tolist()) == [12, 13, 14, 15]
    reward.remember(Step(th.tensor([[20.0]])))
    assert sorted(reward.memory.flatten().tolist()) == [13, 14, 15, 20]


def test_a_saved_model_has_the_net_and_no_memory(tmp_path):
    model = PPOSND("MlpPolicy", scripted(), snd="re3", snd_kwargs=dict(capacity=1000, features_dim=8), **SIZES).learn(32)
    assert model.snd.trainer is None and model.snd.n_remembered == 32
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", env=scripted(), device="cpu")
    assert isinstance(loaded.snd, RE3) and loaded.snd.memory.shape == (1000, 8) and loaded.snd.n_remembered == 0
    obs = th.rand(3, 1)
    assert th.equal(loaded.snd.features(obs), model.snd.features(obs))


def test_bad_arguments_are_named():
    for bad in (dict(features_dim=0), dict(n_neighbors=0), dict(capacity=999)):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}=.* must be an integer >= 1"):
            RE3(VECTOR, device="cpu", **bad)


ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-3, 2, (2,))]


@pytest.mark.parametrize("action_space", ACTIONS, ids=str)
def test_it_conforms(action_space):
    check_reward(RE3, None if action_space is ACTIONS[0] else VECTOR, action_space)


class Emptied(RE3):
    def begin(self, frames, which):
        self.n_remembered.zero_()


class Restarted(RE3):
    def start(self, n_envs):
        self.n_remembered.zero_()


class Silent(RE3):
    """Does not say that its memory is shared."""

    shares_memory = False


@pytest.mark.parametrize(
    ("reward_class", "message"),
    [
        (Emptied, "start or begin changes a memory although shares_memory is True"),
        (Restarted, "start or begin changes a memory although shares_memory is True"),
        (Silent, "the bonus of an environment depends on another environment"),
    ],
)
def test_a_shared_memory_is_checked(reward_class, message):
    with pytest.raises(ValueError, match=message):
        check_reward(reward_class, VECTOR)


@pytest.mark.parametrize(
    ("space", "policy"),
    [
        (spaces.Box(0, 10, (7, 7, 3), np.uint8), "MlpPolicy"),
        (spaces.Discrete(9), "MlpPolicy"),
        (spaces.Dict(image=spaces.Box(0, 255, (36, 36, 3), np.uint8), other=VECTOR), "MultiInputPolicy"),
    ],
    ids=["symbols", "discrete", "dict"],
)
def test_every_kind_of_observation(space, policy):
    venv = DummyVecEnv([lambda: AnyEnv(copy.deepcopy(space), spaces.MultiDiscrete([2, 3]))] * 2)
    model = PPOSND(policy, venv, snd="re3", **SIZES).learn(32)
    assert (model.rollout_buffer.rewards[..., 1] > 0).any()


def test_off_policy_by_name():
    env = VecIntrinsicReward(counting(), "re3", ext_coef=0.0, device="cpu")
    model = DQN("MlpPolicy", env, learning_starts=4, buffer_size=64, batch_size=4, device="cpu", seed=0)
    model.learn(24, callback=SNDCallback())
    assert (model.replay_buffer.rewards[1:12] > 0).all()
