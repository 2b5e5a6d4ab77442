"""Every space of observations and actions, with ``PPOSND`` and with a bonus around unmodified PPO."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.envs import (
    BitFlippingEnv,
    FakeImageEnv,
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_snd import PPOSND, SNDCallback, VecIntrinsicReward

SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)


class AnyEnv(gym.Env):
    """Random observations of a space; episodes of three steps."""

    def __init__(self, observation_space, action_space=None):
        self.observation_space, self.action_space = observation_space, action_space or spaces.Discrete(2)
        self.observation_space.seed(0)

    def reset(self, *, seed=None, options=None):
        self.left = 3
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


def check(make_env, policy, wrap=lambda env: env, **snd_kwargs):
    """Both ways train the nets and give a bonus."""
    snd_kwargs = dict(batch_size=8, **snd_kwargs)
    two_streams = PPOSND(policy, wrap(DummyVecEnv([make_env] * 2)), snd="vic", snd_kwargs=snd_kwargs, **SIZES)
    env = VecIntrinsicReward(wrap(DummyVecEnv([make_env] * 2)), "std", snd_kwargs, device="cpu")
    # SB3's own CnnPolicy takes uint8 images
    floats = policy == "CnnPolicy" and env.observation_space.dtype != np.uint8
    one_reward = PPO("MlpPolicy" if floats else policy, env, **SIZES)
    for model, snd, callback in ((two_streams, two_streams.snd, None), (one_reward, env.snd, SNDCallback())):
        before = [parameter.clone() for parameter in snd.parameters()]
        model.learn(32, callback=callback, log_interval=None)
        assert not any(th.equal(a, b) for a, b in zip(before, snd.parameters(), strict=True))
        bonus = snd.scale(snd.novelty(model._last_obs))
        assert bonus.shape == (2,) and (bonus > 0).all()
        assert model.logger.name_to_value["rollout/intrinsic_reward_mean"] > 0
    return two_streams


@pytest.mark.filterwarnings("ignore:.*not a multi.*:UserWarning")
@pytest.mark.parametrize(
    ("env", "policy", "snd_kwargs"),
    [
        (IdentityEnv, "MlpPolicy", {}),
        (IdentityEnvBox, "MlpPolicy", {}),
        (lambda: IdentityEnvMultiDiscrete(dim=3), "MlpPolicy", {}),
        (lambda: IdentityEnvMultiBinary(dim=3), "MlpPolicy", {}),
        (FakeImageEnv, "CnnPolicy", {}),
        (lambda: FakeImageEnv(screen_height=36, screen_width=48, n_channels=3, channel_first=True), "CnnPolicy", {}),
        (SimpleMultiObsEnv, "MultiInputPolicy", dict(obs_key="img")),
        (lambda: SimpleMultiObsEnv(discrete_actions=False), "MultiInputPolicy", dict(obs_key="vec")),
        (BitFlippingEnv, "MultiInputPolicy", dict(obs_key="observation")),
    ],
)
def test_sb3s_example_environments(env, policy, snd_kwargs):
    check_env(env(), warn=False)
    check(env, policy, **snd_kwargs)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Box(-1, 1, (2,)),
        spaces.Box(-1, 1, (2, 2)),
    ],
    ids=str,
)
def test_actions(space):
    check(lambda: AnyEnv(spaces.Box(-1, 1, (3,)), space), "MlpPolicy")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(1, 36, 36), (36, 44, 3), (64, 36, 4), (6, 40, 40)])
def test_images(shape, dtype):
    high = 255 if dtype == np.uint8 else 1
    model = check(lambda: AnyEnv(spaces.Box(0, high, shape, dtype)), "CnnPolicy")
    assert model.policy.features_extractor.net[0].in_channels == min(shape)


@pytest.mark.parametrize(
    "wrap",
    [VecNormalize, VecMonitor, lambda env: VecFrameStack(env, 3), lambda env: VecNormalize(VecFrameStack(VecMonitor(env), 2))],
)
def test_wrappers_below(wrap):
    check(lambda: AnyEnv(spaces.Box(-1, 1, (3,))), "MlpPolicy", wrap)


@pytest.mark.parametrize("obs_key", ["frames", "position"])
def test_dict_observations(obs_key, tmp_path):
    space = spaces.Dict(frames=spaces.Box(0, 255, (40, 36, 3), np.uint8), position=spaces.Box(-1, 1, (2,)))
    model = check(lambda: AnyEnv(space), "MultiInputPolicy", obs_key=obs_key)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", env=model.get_env(), device="cpu")
    obs = model.get_env().reset()
    assert th.equal(model.snd.novelty(obs), loaded.snd.novelty(obs))
    assert loaded.snd.reader.obs_key == obs_key
    loaded.learn(16)


def test_without_snd_the_multi_input_policy_is_stock_ppo_bit_for_bit():
    models = []
    for algorithm, kwargs in ((PPOSND, dict(snd=None)), (PPO, {})):
        np.random.seed(0)  # the environment's images
        env = DummyVecEnv([lambda: SimpleMultiObsEnv(random_start=False)] * 2)
        models.append(algorithm("MultiInputPolicy", env, **kwargs, **SIZES).learn(48))
    for ours, stock in zip(*(model.policy.parameters() for model in models), strict=True):
        assert th.equal(ours, stock)


def test_novelty_of_an_entry_that_is_missing():
    with pytest.raises(ValueError, match=r"obs_key='nope' must choose .* have 'img', 'vec'"):
        check(SimpleMultiObsEnv, "MultiInputPolicy", obs_key="nope")


DICTS = [
    (dict(frames=spaces.Box(0, 255, (40, 36, 3), np.uint8), position=spaces.Box(-1, 1, (2,))), None, (3, 40, 36)),
    (dict(position=spaces.Box(-1, 1, (2,)), held=spaces.Discrete(3), lamps=spaces.MultiBinary(4)), None, (9,)),
    (dict(position=spaces.Box(-1, 1, (2,)), held=spaces.Discrete(3), lamps=spaces.MultiBinary(4)), ["held", "lamps"], (7,)),
    (
        dict(a=spaces.Box(0, 255, (40, 36, 3), np.uint8), b=spaces.Box(0, 255, (36, 36, 1), np.uint8), c=spaces.Discrete(5)),
        None,
        (5,),
    ),
]


@pytest.mark.parametrize(("entries", "obs_key", "shape"), DICTS)
def test_dict_observations_out_of_the_box(entries, obs_key, shape, tmp_path):
    snd_kwargs = {} if obs_key is None else dict(obs_key=obs_key)
    model = check(lambda: AnyEnv(spaces.Dict(**entries)), "MultiInputPolicy", **snd_kwargs)
    assert model.snd.frame_shape == shape
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", env=model.get_env(), device="cpu")
    obs = model.get_env().reset()
    assert th.equal(model.snd.novelty(obs), loaded.snd.novelty(obs))
    loaded.learn(16)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@pytest.mark.parametrize(("entries", "obs_key", "shape"), DICTS)
def test_dict_observations_with_the_callback(algorithm, entries, obs_key, shape):
    snd_kwargs = dict(batch_size=8, **({} if obs_key is None else dict(obs_key=obs_key)))
    venv = DummyVecEnv([lambda: AnyEnv(spaces.Dict(**entries))] * 2)
    env = VecIntrinsicReward(venv, "vic", snd_kwargs, device="cpu")
    assert env.snd.frame_shape == shape
    sizes = dict(n_steps=16, batch_size=16) if algorithm is PPO else dict(learning_starts=4, buffer_size=64)
    before = next(env.snd.parameters()).clone()
    algorithm("MultiInputPolicy", env, device="cpu", **sizes).learn(32, callback=SNDCallback())
    assert not th.equal(before, next(env.snd.parameters()))
