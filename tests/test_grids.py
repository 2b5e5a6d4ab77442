"""Small grids of symbols: MiniGrid's views, and the nets that read them."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from minigrid.wrappers import FullyObsWrapper, ImgObsWrapper, RGBImgPartialObsWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_snd import PPOSND, SNDCallback, VecIntrinsicReward
from sb3_snd.envs import MiniGridMap, MiniGridWrapper
from sb3_snd.policies import CnnPolicy, GridPolicy

SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
ID = "MiniGrid-DoorKey-8x8-v0"


def grids(n_envs=2, wrapper=MiniGridWrapper):
    return make_vec_env(ID, n_envs, seed=0, wrapper_class=wrapper)


@pytest.mark.parametrize("full", [False, True])
def test_the_wrapper_returns_the_image_with_its_bounds(full):
    """The numbers of MiniGrid's own wrapper, on 500 random steps; the bounds are those of MiniGrid's tables."""
    inner = FullyObsWrapper if full else lambda env: env
    env, reference = MiniGridWrapper(inner(gym.make(ID))), ImgObsWrapper(inner(gym.make(ID)))
    assert env.observation_space.shape == reference.observation_space.shape == ((8, 8, 3) if full else (7, 7, 3))
    assert env.observation_space.high.reshape(-1, 3).max(axis=0).tolist() == [10, 5, 3]
    obs, expected = env.reset(seed=3)[0], reference.reset(seed=3)[0]
    rng = np.random.default_rng(0)
    for _ in range(500):
        np.testing.assert_array_equal(obs, expected)
        assert env.observation_space.contains(obs)
        action = int(rng.integers(7))
        obs, _, *ended, _ = env.step(action)
        expected = reference.step(action)[0]
        if any(ended):
            obs, expected = env.reset(seed=5)[0], reference.reset(seed=5)[0]


def test_only_what_has_an_image_is_wrapped():
    for env in (gym.make("CartPole-v1"), RGBImgPartialObsWrapper(gym.make(ID))):
        with pytest.raises(ValueError, match="MiniGridWrapper needs MiniGrid's observations with an 'image'"):
            MiniGridWrapper(env)


def test_the_policy_reads_symbols_one_hot():
    """Its first convolution sees 11 + 6 + 4 planes, each the indicator of one symbol, by numpy."""
    venv = grids()
    model = PPOSND(GridPolicy, venv, snd="counts", **SIZES)
    layers = [layer for layer in model.policy.features_extractor.net if hasattr(layer, "weight")]
    assert [tuple(layer.weight.shape) for layer in layers] == [(32, 21, 2, 2), (64, 32, 2, 2), (64, 64, 2, 2), (64, 64 * 16)]
    seen = []
    layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    obs = venv.reset()
    model.policy.predict_values(model.policy.obs_to_tensor(obs)[0])
    planes = np.concatenate([np.eye(size)[obs[..., channel]] for channel, size in enumerate((11, 6, 4))], axis=-1)
    np.testing.assert_array_equal(seen[0], np.moveaxis(planes, 3, 1))
    assert [type(layer) for layer in model.policy.mlp_extractor.policy_net] == [nn.Linear, nn.ReLU]


def test_ppo_and_one_stream_are_the_same_net():
    models = [algorithm(GridPolicy, grids(), **SIZES, **kwargs) for algorithm, kwargs in ((PPO, {}), (PPOSND, {"snd": None}))]
    states = [model.policy.state_dict() for model in models]
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert th.equal(value, states[1][name]), name


@pytest.mark.parametrize("wrapper", [MiniGridWrapper, ImgObsWrapper])
@pytest.mark.parametrize("snd", ["v", "std", "vic", "rnd", "e3b", "ngu"])
def test_every_reward_trains_on_grids(snd, wrapper):
    """With bounds, whose symbols are encoded, and without, where statistics normalise them."""
    model = PPOSND(CnnPolicy, grids(wrapper=wrapper), snd=snd, **SIZES).learn(32)
    assert (model.snd.obs_stats is None) == (wrapper is MiniGridWrapper)
    assert model.snd.frame_shape == ((21, 7, 7) if wrapper is MiniGridWrapper else (3, 7, 7))


def test_unmodified_ppo_trains_on_grids():
    env = VecIntrinsicReward(grids(), "vic", episodic="counts", device="cpu")
    PPO(GridPolicy, env, **SIZES).learn(32, callback=SNDCallback())


def test_grids_of_floats_are_normalised():
    space = spaces.Box(-1, 1, (5, 6, 2))

    class Grids(gym.Env):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return space.sample(), {}

        def step(self, action):
            return space.sample(), 1.0, bool(action), False, {}

    model = PPOSND(CnnPolicy, make_vec_env(Grids, 2), snd="vic", **SIZES).learn(32)
    assert model.snd.obs_stats.mean.shape == (2, 5, 6)


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_grids_are_computed_in_float32(precision):
    """Whatever the processor is fast in."""
    model = PPOSND(GridPolicy, grids(wrapper=ImgObsWrapper), snd="vic", precision=precision, **SIZES)
    nets = [model.policy.features_extractor.net, model.snd.target.encoder, model.snd.learner]
    for net in nets:
        seen = []
        net[0].register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.dtype))
        net(th.zeros(1, 3, 7, 7))
        assert seen == [th.float32] and not net.reduced


@pytest.mark.parametrize("see_through_walls", [False, True])
def test_the_map_is_where_things_are(see_through_walls):
    """
    On random walks: whatever a key says stands there in MiniGrid's own grid, and all that MiniGrid shows has a key. What
    is carried is nowhere.
    """
    env = MiniGridMap(gym.make(ID, see_through_walls=see_through_walls))
    inner, rng, carried = env.unwrapped, np.random.default_rng(0), 0
    _, info = env.reset(seed=1)
    for step in range(600):
        keys = info["place"]
        assert keys.dtype == np.int64 and keys.shape == (49,)
        found = {}
        for key in keys[keys != 0].tolist():
            rest, state = divmod(key - 1, 16)
            rest, colour = divmod(rest, 16)
            rest, kind = divmod(rest, 16)
            found[rest // 256 - 1, rest % 256 - 1] = kind, colour, state
        assert len(found) == np.count_nonzero(keys)
        if inner.carrying is not None:
            carried += 1
            assert found.pop((-1, -1)) == inner.carrying.encode()
        visible = {tuple(map(int, cell)) for cell in np.argwhere(shown_cells(inner))} - {tuple(map(int, inner.agent_pos))}
        assert set(found) == visible
        for cell, symbols in found.items():
            thing = inner.grid.get(*cell)
            assert symbols == ((1, 0, 0) if thing is None else thing.encode())
        action = int(rng.choice([0, 1, 2, 2, 2, 3, 5]))
        _, _, *ended, info = env.step(action)
        if any(ended):
            _, info = env.reset(seed=step)
    assert carried > 0


def shown_cells(env):
    """MiniGrid's own mask of what the agent sees, in the coordinates of the world, ``(width, height)`` bool"""
    _, mask = env.gen_obs_grid()
    shown = np.zeros((env.width, env.height), dtype=bool)
    for x in range(env.width):
        for y in range(env.height):
            place = env.relative_coords(x, y)
            shown[x, y] = place is not None and mask[place]
    return shown


def test_a_map_is_rewarded_for_what_is_new_on_it():
    """By a set of keys for each environment, over several episodes; the first view pays nothing."""
    venv = make_vec_env(
        ID, 3, seed=0, wrapper_class=lambda env: MiniGridWrapper(MiniGridMap(env)), env_kwargs={"max_steps": 25}
    )
    env = VecIntrinsicReward(venv, "counts", {"place": True, "eta": 0.01}, ext_coef=0.0, device="cpu")
    env.reset()
    env.training = True
    maps = [set(info["place"].tolist()) for info in venv.reset_infos]
    rng = np.random.default_rng(0)
    for _ in range(80):
        _, rewards, dones, infos = env.step(rng.integers(0, 6, 3))
        for n in range(3):
            keys = set(infos[n]["place"].tolist()) - {0}
            assert rewards[n] == pytest.approx(min(0.01 * len(keys - maps[n]), 1.0))
            maps[n] = set(venv.reset_infos[n]["place"].tolist()) if dones[n] else maps[n] | keys
    assert sum(map(len, maps)) > 60


def test_a_map_needs_the_agents_view():
    for env in (gym.make("CartPole-v1"), MiniGridWrapper(gym.make(ID)), FullyObsWrapper(gym.make(ID))):
        with pytest.raises(ValueError, match="MiniGridMap needs an environment of MiniGrid with the agent's own view"):
            MiniGridMap(env)
