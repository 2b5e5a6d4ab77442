import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_snd.ppo_snd.policies import CnnPolicy, MlpPolicy

pytestmark = pytest.mark.numbers

STACK = spaces.Box(0, 255, (4, 96, 96), np.uint8)
ACTIONS = spaces.Discrete(18)


def make(cls=CnnPolicy, space=STACK, **kwargs):
    th.manual_seed(0)
    return cls(space, ACTIONS, lambda _: 1e-4, **kwargs)


def gain(layer):
    """Of an orthogonal matrix times g, all singular values are g."""
    values = th.linalg.svdvals(layer.weight.detach().flatten(1))
    assert values.max() - values.min() < 1e-3 * values.max()
    return values.mean().item()


@pytest.fixture(scope="module")
def policy():
    return make(n_streams=2)


def test_paper_network(policy):
    trunk = [tuple(layer.weight.shape) for layer in policy.features_extractor.net if hasattr(layer, "weight")]
    assert trunk == [(32, 4, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (512, 18432)]
    assert isinstance(policy.features_extractor.net[-1], nn.Linear)
    assert [type(layer) for layer in policy.mlp_extractor.policy_net] == [nn.ReLU, nn.Linear, nn.ReLU]
    assert [type(layer) for layer in policy.mlp_extractor.value_net] == [nn.Linear, nn.ReLU]
    assert policy.action_net.weight.shape == (18, 512) and policy.value_net.weight.shape == (2, 512)
    strides = [layer.stride for layer in policy.features_extractor.net if isinstance(layer, nn.Conv2d)]
    assert strides == [(2, 2), (2, 2), (2, 2), (1, 1)]


def test_gains(policy):
    for layer in policy.features_extractor.net:
        if hasattr(layer, "weight"):
            assert gain(layer) == pytest.approx(2**0.5, rel=1e-3)
    assert gain(policy.mlp_extractor.policy_net[1]) == pytest.approx(0.01, rel=1e-3)
    assert gain(policy.action_net) == pytest.approx(0.01, rel=1e-3)
    assert gain(policy.mlp_extractor.value_net[0]) == pytest.approx(0.1, rel=1e-3)
    assert gain(policy.value_net) == pytest.approx(0.01, rel=1e-3)
    assert all(not parameter.any() for name, parameter in policy.named_parameters() if name.endswith("bias"))


def test_optimiser_holds_every_parameter(policy):
    (group,) = policy.optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in policy.parameters()}
    assert (group["lr"], group["eps"]) == (1e-4, 1e-8)


def test_baseline_critic_begins_with_relu():
    policy = make(space=spaces.Box(0, 255, (4, 36, 36), np.uint8))
    assert [type(layer) for layer in policy.mlp_extractor.value_net] == [nn.ReLU, nn.Linear, nn.ReLU]
    assert policy.value_net.weight.shape == (1, 512)


def test_width_is_an_argument():
    space = spaces.Box(0, 255, (6, 64, 64), np.uint8)
    policy = make(space=space, features_extractor_kwargs=dict(width=64))
    assert policy.features_extractor.net[-1].weight.shape == (512, 4096)


@pytest.mark.parametrize(("cls", "space"), [(MlpPolicy, spaces.Box(-1, 1, (3,))), (CnnPolicy, STACK)])
def test_shapes_and_saving(cls, space, tmp_path):
    policy = make(cls, space, n_streams=2)
    obs = th.as_tensor(np.stack([space.sample() for _ in range(5)]))
    actions, values, log_prob = policy(obs)
    assert (actions.shape, values.shape, log_prob.shape) == ((5,), (5, 2), (5,))
    assert policy.predict_values(obs).shape == (5, 2)
    policy.save(tmp_path / "policy.pth")
    loaded = cls.load(tmp_path / "policy.pth", device="cpu")
    assert loaded.n_streams == 2
    assert th.equal(loaded.predict_values(obs), policy.predict_values(obs))


def test_one_stream_is_sb3s_policy():
    space = spaces.Box(-1, 1, (3,))
    for a, b in zip(make(MlpPolicy, space).parameters(), make(ActorCriticPolicy, space).parameters(), strict=True):
        assert th.equal(a, b)


def test_bad_input():
    with pytest.raises(ValueError, match="CnnPolicy needs images"):
        make(space=spaces.Box(-1, 1, (3,)))
    with pytest.raises(ValueError, match="20 x 3 cells are smaller"):
        make(space=spaces.Box(0, 255, (3, 20, 3), np.uint8))
