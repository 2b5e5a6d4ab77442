"""ICM, RIDE, Disagreement and SP against numpy and by hand."""

import numpy as np
import pytest
import torch as th
from fakes import CountingEnv, counting
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_snd import PPOSND, SNDCallback, VecIntrinsicReward
from sb3_snd.envs import PlaceInfo
from sb3_snd.rewards import REWARDS, Step, check_reward
from sb3_snd.rewards.disagreement import Disagreement, mean_of_kept
from sb3_snd.rewards.icm import ICM
from sb3_snd.rewards.ride import RIDE
from sb3_snd.rewards.sp import SP

NAMES = ("disagreement", "icm", "ride", "sp")
VECTOR = spaces.Box(-9, 9, (4,))
SYMBOLS = spaces.Box(0, np.tile(np.array([10, 5, 3], dtype=np.uint8), (7, 7, 1)), (7, 7, 3), np.uint8)
PIXELS = spaces.Box(0, 255, (36, 36, 3), np.uint8)
DISCRETE = spaces.Discrete(3)
OTHER_ACTIONS = (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,)))
SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
N = 8


def make(reward_class, **kwargs):
    th.manual_seed(0)
    return reward_class(VECTOR, DISCRETE, device="cpu", **kwargs)


def transitions(reward):
    """:return: a minibatch in float64, with nets to match, and the step that it would be"""
    th.manual_seed(1)
    obs, next_obs = th.randn(2, N, 4)
    actions = th.randint(3, (N,))
    step = Step(obs, actions, next_obs, th.zeros(N, dtype=th.bool))
    batch = reward.transitions(obs, next_obs, actions)
    reward.double()
    return batch._replace(frames=batch.frames.double()), step


def linear(layer, x):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def mlp(net, x):
    """:return: the same as a net of linear and ReLU layers, by numpy"""
    for layer in net:
        x = linear(layer, x) if isinstance(layer, th.nn.Linear) else np.maximum(x, 0)
    return x


def one_hot(batch):
    return np.eye(3)[batch.actions.numpy()]


def cross_entropy(logits, batch):
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(N), batch.actions.numpy()])


def features_of(net, batch):
    """:return: features of s_t and of s_{t+1}, ``(N, D)`` each"""
    return [part.detach().numpy() for part in batch.split(net(batch.frames))]


@pytest.mark.numbers
@pytest.mark.parametrize("reward_class", [ICM, RIDE])
def test_losses_of_forward_and_inverse_model(reward_class):
    reward = make(reward_class, features_dim=5)
    batch, _ = transitions(reward)
    phi, phi_next = features_of(reward.inverse_model, batch)
    error = mlp(reward.forward_model.net, np.concatenate([phi, one_hot(batch)], axis=1)) - phi_next
    inverse = cross_entropy(mlp(reward.inverse_model.head, np.concatenate([phi, phi_next], axis=1)), batch)
    terms = reward.loss(batch)
    if reward_class is ICM:
        forward = 0.5 * (error**2).sum(axis=1).mean()
        expected = 0.8 * inverse + 0.2 * forward
    else:
        forward = np.sqrt((error**2).sum(axis=1)).mean()
        expected = 10 * forward + 0.1 * inverse
    np.testing.assert_allclose([terms[name].item() for name in ("inverse", "forward")], [inverse, forward])
    np.testing.assert_allclose(terms["loss"].item(), expected)
    widths = [layer.out_features for layer in reward.forward_model.net if isinstance(layer, th.nn.Linear)]
    assert widths == [256, 5]


@pytest.mark.numbers
def test_icms_bonus_is_half_the_summed_squared_error():
    reward = make(ICM, features_dim=5)
    assert reward.scale.eta == 0.01 and ICM(VECTOR, DISCRETE).inverse_model.features_dim == 288
    batch, step = transitions(reward)
    phi, phi_next = features_of(reward.inverse_model, batch)
    error = mlp(reward.forward_model.net, np.concatenate([phi, one_hot(batch)], axis=1)) - phi_next
    bonus = reward.float().bonus(step)
    np.testing.assert_allclose(bonus, 0.5 * (error**2).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(reward.scale.clip(100 * bonus), np.minimum(bonus, 1), rtol=1e-5)


@pytest.mark.numbers
def test_sp_is_the_tangent_of_the_mean_squared_error():
    """ST-DIM's terms are those of SND-STD."""
    reward = make(SP, features_dim=6)
    batch, step = transitions(reward)
    phi, phi_next = features_of(reward.target, batch)
    squares = (mlp(reward.forward_model.net, np.concatenate([phi, one_hot(batch)], axis=1)) - phi_next) ** 2
    terms, std = reward.loss(batch), reward.target.loss(batch, reward.target.make_learner().double())
    expected = [std["infonce"].item(), std["logit_norm"].item(), squares.mean()]
    np.testing.assert_allclose([terms[name].item() for name in ("infonce", "logit_norm", "forward")], expected)
    np.testing.assert_allclose(terms["loss"].item(), np.dot([1, 1e-4, 1], expected))
    np.testing.assert_allclose(reward.float().bonus(step), np.tanh(squares.mean(axis=1)), rtol=1e-4)
    widths = [layer.out_features for layer in reward.forward_model.net if isinstance(layer, th.nn.Linear)]
    assert widths == [6, 6, 6] and reward.scale.eta == 1


@pytest.mark.numbers
def test_disagreement_is_the_variance_of_the_models():
    """Residual blocks by numpy. Five copies of one model agree."""
    reward = make(Disagreement, features_dim=6)
    assert reward.scale.return_stats is not None and len(reward.models) == 5
    batch, step = transitions(reward)
    phi, phi_next = features_of(reward.encoder, batch)
    action, predictions = one_hot(batch), []
    for model in reward.models:
        layer = lambda k, x, model=model: linear(model.layers[k], np.concatenate([x, action], axis=1))  # noqa: E731
        leaky = lambda x: np.where(x > 0, x, 0.01 * x)  # noqa: E731
        x = leaky(layer(0, phi))
        for k in (1, 3, 5, 7):
            x = x + layer(k + 1, leaky(layer(k, x)))
        predictions.append(layer(9, x))
        assert len(model.layers) == 10
    errors = ((np.array(predictions) - phi_next) ** 2).mean(axis=2)  # (5, N)
    th.manual_seed(2)
    uniform = th.rand(5, N, dtype=th.double)
    th.manual_seed(2)
    np.testing.assert_allclose(reward.loss(batch)["loss"].item(), np.mean(errors * (uniform.numpy() >= 0.2)) / 0.8)
    np.testing.assert_allclose(reward.float().bonus(step), np.var(predictions, axis=0).mean(axis=1), rtol=1e-4)
    for model in reward.models:
        model.load_state_dict(reward.models[0].state_dict())
    np.testing.assert_allclose(reward.bonus(step), 0, atol=1e-12)


def test_dropped_errors_by_hand():
    errors, uniform = th.tensor([[1.0, 2.0], [3.0, 4.0]]), th.tensor([[0.19, 0.2], [0.9, 0.0]])
    assert mean_of_kept(errors, uniform).item() == pytest.approx((2 + 3) / 4 / 0.8)


def nets(reward):
    """:return: the parameters of each net by its name"""
    groups = {}
    for name, parameter in reward.named_parameters():
        part = ".".join(name.split(".")[:2])
        groups.setdefault(part, []).append(parameter)
    return groups


@pytest.mark.parametrize(
    ("reward_class", "term", "reached"),
    [
        (ICM, "inverse", {"inverse_model.encoder", "inverse_model.head"}),
        (ICM, "forward", {"inverse_model.encoder", "forward_model.net"}),
        (RIDE, "inverse", {"inverse_model.encoder", "inverse_model.head"}),
        (RIDE, "forward", {"inverse_model.encoder", "forward_model.net"}),
        (SP, "infonce", {"target.encoder", "target.global_projection", "target.local_projection"}),
        (SP, "forward", {"target.encoder", "forward_model.net"}),
        (Disagreement, "loss", {f"models.{k}" for k in range(5)}),
    ],
)
def test_what_each_loss_trains(reward_class, term, reached):
    """The error of a prediction trains the features of the successor, too, unless they are random."""
    reward = make(reward_class, features_dim=5)
    batch, _ = transitions(reward)
    frames = batch.frames.requires_grad_()
    value = reward.loss(batch._replace(frames=frames))[term]
    trained = {
        part
        for part, parameters in nets(reward).items()
        for gradient in th.autograd.grad(
            value, [p for p in parameters if p.requires_grad] or [frames], retain_graph=True, allow_unused=True
        )
        if gradient is not None and gradient.any()
    }
    if reward_class is Disagreement:
        assert not any(parameter.requires_grad for parameter in reward.encoder.parameters())
        trained -= {part for part in trained if part.startswith("encoder")}
    assert trained == reached
    (gradient,) = th.autograd.grad(value, frames)
    assert gradient[batch.next_index].abs().max() > 0


class Walk(CountingEnv):
    """The observation is the step, back and forth: 0 2 4 2 0 2 4 ..., the same in all environments."""

    def _obs(self):
        return np.array([0, [0, 2, 4, 2][self.step_count % 4]], dtype=np.float32)

    def get_place(self):
        return self.step_count // 2


@pytest.mark.parametrize(("place", "visits"), [(False, [1, 1, 2, 2, 3]), (True, [2, 1, 2, 1, 2])])
def test_ride_by_hand(place, visits):
    """
    With the observation itself as its features, each step moves by 2. 2, 4, 2, 0, 2 are seen for the 1st, 1st, 2nd, 2nd
    and 3rd time; then the episode ends, and the next one begins at 0. The places are 0 | 0 1 1 2 2.
    """
    venv = DummyVecEnv([lambda: PlaceInfo(Walk(length=5)) for _ in range(2)])
    reward = RIDE(venv.observation_space, venv.action_space, device="cpu", place=place)
    assert reward.scale.eta == 0.1 and reward.inverse_model.features_dim == 128
    reward.obs_stats = None
    reward.inverse_model.encoder = th.nn.Identity()
    env = VecIntrinsicReward(venv, reward, ext_coef=0.0, device="cpu")
    env.reset()
    env.training = True
    found = [env.step(np.zeros(2, dtype=int))[1] for _ in range(10)]
    expected = 0.1 * 2 * np.array(visits * 2) ** -0.5
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 2, axis=1), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_transitions_that_repeat_are_learnt(name):
    """The loss falls, and with it the bonus of ICM and of Disagreement; the features of the others grow meanwhile."""
    reward = make(REWARDS[name], features_dim=8, learning_rate=3e-3)
    obs, actions = th.randn(32, 4), th.randint(3, (32,))
    next_obs = obs.roll(1, dims=1) + actions[:, None]
    step = Step(obs, actions, next_obs, th.zeros(32, dtype=th.bool))
    if name != "ride":
        before = reward.bonus(step).mean()
    losses = [reward.trainer.train_on_batch(reward.transitions(obs, next_obs, actions))["loss"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    if name in ("icm", "disagreement"):
        assert reward.bonus(step).mean() < 0.3 * before


@pytest.mark.parametrize("name", NAMES)
def test_they_conform(name):
    small = {"features_dim": 8, **{"sp": {"target_width": 8}, "disagreement": {"n_models": 3}}.get(name, {})}
    for space in (VECTOR, SYMBOLS, PIXELS):
        check_reward(REWARDS[name], space, **small)
    for action_space in OTHER_ACTIONS:
        check_reward(REWARDS[name], VECTOR, action_space, **small)


@pytest.mark.parametrize("name", NAMES)
def test_training_by_name(name, tmp_path):
    """On- and off-policy. A saved model loads with the same nets."""
    snd_kwargs = {"features_dim": 7}
    model = PPOSND("MlpPolicy", counting(2), snd=name, snd_kwargs=snd_kwargs, **SIZES).learn(48)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", counting(2), device="cpu")
    assert type(loaded.snd) is REWARDS[name] and loaded.snd.init_kwargs["features_dim"] == 7
    assert loaded.snd.features(model._last_obs).shape == (2, 7)
    assert th.equal(loaded.snd.features(model._last_obs), model.snd.features(model._last_obs))
    loaded.learn(16)
    env = VecIntrinsicReward(counting(2), name, snd_kwargs, device="cpu")
    DQN("MlpPolicy", env, learning_starts=4, device="cpu", seed=0).learn(40, callback=SNDCallback())
    env = VecIntrinsicReward(counting(2), name, snd_kwargs, device="cpu")
    PPO("MlpPolicy", env, **SIZES).learn(16, callback=SNDCallback())


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        *((name, dict(features_dim=0), "features_dim=0 must be an integer >= ") for name in NAMES),
        ("disagreement", dict(n_models=1), "n_models=1 must be an integer >= 2"),
        ("ride", dict(place=1), "place=1 must be True or False"),
        ("sp", dict(target_width=0), "target_width=0 must be an integer >= 1"),
        ("icm", dict(beta=0.2), "Unknown argument 'beta' of ICM: it takes eta, .*, features_dim"),
    ],
)
def test_bad_input(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        PPOSND("MlpPolicy", counting(2), snd=name, snd_kwargs=kwargs, **SIZES)


@pytest.mark.parametrize("name", NAMES)
def test_they_need_the_space_of_the_actions(name):
    reward_class = REWARDS[name]
    with pytest.raises(ValueError, match=rf"{reward_class.__name__} reads actions: give it action_space=env\.action_space"):
        reward_class(VECTOR)
