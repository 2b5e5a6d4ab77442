"""NovelD: the difference of novelties at a first visit, by hand, and what is trained."""

import copy

import numpy as np
import pytest
import torch as th
from fakes import AnyEnv, ScriptedEnv, counting
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_snd import PPOSND, SNDCallback, VecIntrinsicReward
from sb3_snd.rewards import check_reward
from sb3_snd.rewards.noveld import NovelD

VECTOR = spaces.Box(-1, 1, (5,))
SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
SMALL = dict(features_dim=8)


@pytest.mark.parametrize(
    ("alpha", "long", "short"),
    [(0.5, [2.5, 0.5, 0, 7.5], [0, 4.5, 0]), (0.1, [2.9, 1.7, 0, 8.7], [0.7, 4.9, 0])],
)
def test_bonus_by_hand(alpha, long, short):
    """
    The novelty of a number is its size. The second -3 of one episode, and the 3 with which the other begins, are no first
    visits when they come again. Environment 1 has the episodes in the other order.
    """
    episodes = [1, -3, 2, -3, 9], [3, 1, 5, 3]
    venv = DummyVecEnv([lambda: ScriptedEnv(*episodes), lambda: ScriptedEnv(*episodes[::-1])])
    env = VecIntrinsicReward(venv, NovelD(venv.observation_space, eta=0.1, alpha=alpha, device="cpu"), ext_coef=0.0)
    env.snd.prepare = env.snd.select
    env.snd.nets.forward = lambda frames: frames.expand(-1, 4) / 2  # a vector of length |number|
    env.reset()
    env.training = True
    rewards = np.array([env.step(np.zeros(2, dtype=int))[1] for _ in range(14)])
    np.testing.assert_allclose(rewards[:, 0], 0.1 * np.array([*long, *short] * 2), atol=1e-6)
    np.testing.assert_allclose(rewards[:, 1], 0.1 * np.array([*short, *long] * 2), atol=1e-6)


def test_loss_by_hand():
    """Mean squared errors of states 1 and 2, and of successors 3 and 4."""
    reward = NovelD(spaces.Box(-9, 9, (1,)), device="cpu", **SMALL)
    reward.prepare = reward.select
    reward.nets.forward = lambda frames: frames.expand(-1, 8)
    batch = reward.transitions(th.tensor([[1.0], [2.0]]), th.tensor([[3.0], [4.0]]))
    assert reward.loss(batch)["loss"].item() == (1 + 4 + 9 + 16) / 4


def test_only_the_predictor_is_trained():
    th.manual_seed(0)
    reward = NovelD(VECTOR, device="cpu", learning_rate=1e-3, **SMALL)
    target = copy.deepcopy(reward.nets.target.state_dict())
    obs, next_obs = th.rand(2, 16, 5).unbind()
    first = reward.trainer.train_on_batch(reward.transitions(obs, next_obs))["loss"]
    for _ in range(60):
        last = reward.trainer.train_on_batch(reward.transitions(obs, next_obs))["loss"]
    assert last < 0.7 * first
    assert all(th.equal(value, target[name]) for name, value in reward.nets.target.state_dict().items())
    reward.loss(reward.transitions(obs, next_obs))["loss"].backward()
    assert all(parameter.grad is None for parameter in reward.nets.target.parameters())


def test_a_bad_argument_is_named():
    for bad, message in (
        (dict(alpha=1.5), r"alpha=1.5 must lie in \[0, 1\]"),
        (dict(features_dim=0), "features_dim=0 must be"),
    ):
        with pytest.raises(ValueError, match=message):
            NovelD(VECTOR, device="cpu", **bad)


ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-3, 2, (2,))]


@pytest.mark.parametrize("action_space", ACTIONS, ids=str)
def test_it_conforms(action_space):
    check_reward(NovelD, None if action_space is ACTIONS[0] else VECTOR, action_space, **SMALL)


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
    model = PPOSND(policy, venv, snd="noveld", snd_kwargs=SMALL, **SIZES)
    before = [parameter.clone() for parameter in model.snd.nets.predictor.parameters()]
    model.learn(32)
    assert all(not th.equal(a, b) for a, b in zip(before, model.snd.nets.predictor.parameters(), strict=True))
    assert (model.rollout_buffer.rewards[..., 1] > 0).any()


def test_off_policy_by_name():
    env = VecIntrinsicReward(counting(), "noveld", dict(batch_size=8, **SMALL), ext_coef=0.0, device="cpu")
    model = DQN("MlpPolicy", env, learning_starts=4, buffer_size=64, batch_size=4, device="cpu", seed=0)
    model.learn(24, callback=SNDCallback(), log_interval=None)
    assert (model.replay_buffer.rewards[:12] > 0).any() and model.logger.name_to_value["snd/loss"] > 0
