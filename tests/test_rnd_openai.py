"""RND as its authors did it: nets, normalisation, the share of the samples, the scale of all time, and the random steps."""

import copy
import itertools

import numpy as np
import pytest
import torch as th
from fakes import ActingEnv, AnyEnv, counting, image_env
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_snd import PPOSND, SNDCallback, VecIntrinsicReward
from sb3_snd.rewards import Step, check_reward
from sb3_snd.rewards.rnd_openai import RND
from sb3_snd.rewards.scale import RewardScale

IMAGE, VECTOR = spaces.Box(0, 255, (1, 44, 44), np.uint8), spaces.Box(-1, 1, (5,))
SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
SMALL = dict(features_dim=8)


def acting(action_space=None, n_envs=3):
    return DummyVecEnv([lambda i=i: ActingEnv(i, action_space or spaces.Discrete(5)) for i in range(n_envs)])


def test_the_nets_are_the_authors():
    nets = RND(IMAGE, device="cpu").nets
    convolutions = [(32, 1, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 2 * 2 * 64)]
    assert [tuple(each.shape) for each in nets.target.parameters()][::2] == convolutions
    assert [tuple(each.shape) for each in nets.predictor.parameters()][::2] == [*convolutions, (512, 512), (512, 512)]
    strides = [layer.stride for layer in nets.target if isinstance(layer, th.nn.Conv2d)]
    assert strides == [(4, 4), (2, 2), (1, 1)]
    weight = nets.target[0].weight.flatten(1)
    np.testing.assert_allclose(weight @ weight.T, 2 * np.eye(32), atol=1e-4)  # orthogonal, gain √2


def forward(net, x):
    """The layers of a net for vectors, with a leaky ReLU of slope 0.2 after the first two and ReLUs after them."""
    weights = [each.detach().double().numpy() for each in net.parameters()]
    layers = list(zip(weights[::2], weights[1::2], strict=True))
    for number, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        if number < len(layers) - 1:
            x = np.where(x > 0, x, 0.2 * x if number < 2 else 0.0)
    return x


def test_bonus_and_loss_by_numpy():
    """Of the successor, clamped; 128 environments use a quarter of the samples."""
    th.manual_seed(0)
    rng = np.random.default_rng(0)
    reward = RND(VECTOR, device="cpu", **SMALL)
    seen = rng.normal(2, 3, (64, 5)).astype(np.float32)
    reward.observe(th.as_tensor(seen))
    states, successors = (rng.normal(2, 9, (6, 5)).astype(np.float32) for _ in range(2))
    normalized = np.clip((successors - seen.mean(axis=0)) / seen.std(axis=0), -5, 5)
    assert (np.abs(normalized) == 5).any()
    errors = (forward(reward.nets.predictor, normalized) - forward(reward.nets.target, normalized)) ** 2
    bonus = reward.bonus(Step(*map(th.as_tensor, (states, np.zeros(6), successors))))
    np.testing.assert_allclose(bonus.detach(), errors.mean(axis=1), rtol=1e-3)

    for n_envs, share in ((1, 1.0), (32, 1.0), (64, 0.5), (128, 0.25)):
        reward.start(n_envs)
        uniform = th.tensor([0.1, 0.3, 0.2, 0.7, 0.24, 0.9])
        loss = reward.loss(reward.transitions(th.as_tensor(states), th.as_tensor(successors)), uniform=uniform)["loss"]
        assert loss.item() == pytest.approx(errors.mean(axis=1)[uniform.numpy() < share].mean(), rel=1e-3)
    loss.backward()
    assert all(parameter.grad is None for parameter in reward.nets.target.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in reward.nets.predictor.parameters())


def test_a_sample_is_drawn_with_the_probability_of_the_share():
    """Errors of 1 and of 0 in turn: the mean over those drawn varies about a half, and not at all if all are."""
    reward = RND(VECTOR, device="cpu", **SMALL)
    reward.nets.forward = lambda frames: (th.arange(len(frames)) % 2).float()[:, None].expand(-1, 8)
    batch = reward.transitions(th.zeros(400, 5), th.zeros(400, 5))
    th.manual_seed(0)
    for n_envs, std in ((128, 0.5 / np.sqrt(100)), (32, 0.0)):
        reward.start(n_envs)
        losses = [reward.loss(batch)["loss"].item() for _ in range(300)]
        assert np.mean(losses) == pytest.approx(0.5, abs=0.01)
        assert np.std(losses) == pytest.approx(std, rel=0.25)
    reward.share.zero_()
    assert reward.loss(batch)["loss"].item() == 0.0


def test_images_are_normalised_pixel_by_pixel():
    """The newest frame of a stack."""
    rng = np.random.default_rng(0)
    stack = spaces.Box(0, 255, (4, 36, 36), np.uint8)
    reward = RND(stack, device="cpu", **SMALL)
    seen = [rng.integers(0, 256, (8, *stack.shape), dtype=np.uint8) for _ in range(4)]
    for obs in seen:
        reward.observe(obs)
    newest = np.concatenate(seen)[:, -1:].astype(np.float64)  # (32, 1, 36, 36)
    expected = (seen[0][:, -1:] - newest.mean(axis=0)) / newest.std(axis=0)
    np.testing.assert_allclose(reward.prepare(seen[0]), expected.clip(-5, 5), atol=1e-3)


def test_the_scale_of_all_time():
    """By hand: sums that start at 0, the first of which counts. One environment's first bonus is divided by half of it."""
    rng = np.random.default_rng(0)
    for n_envs in (1, 3):
        scale = RewardScale(window=None, least_spread=0.0)
        scale.configure(0.1, True, th.device("cpu"))
        sums = [np.zeros(n_envs)]
        for step, bonus in enumerate(rng.random((2000, n_envs)).astype(np.float32) + 1):
            scale.update(th.as_tensor(bonus))
            sums.append(0.99 * sums[-1] + bonus)
            if step < 20 or step == 1999:
                expected = np.clip(0.1 * bonus / np.std(sums), 0, 1)
                np.testing.assert_allclose(scale(th.as_tensor(bonus)), expected, rtol=1e-4)
        assert scale.return_stats.count == 2001
        assert np.std(sums) < 0.2 * np.mean(sums)  # where others would divide by a fifth of the mean
        scale.forget()
        scale.update(th.ones(n_envs))
        expected = np.std([*sums, np.zeros(n_envs), np.ones(n_envs)])
        assert scale.normalize(th.ones(1)).item() == pytest.approx(1 / expected, rel=1e-4)


def test_it_is_normalised_by_default():
    assert RND(VECTOR, device="cpu").scale.return_stats is not None
    env = VecIntrinsicReward(counting(), "rnd_openai", dict(norm_reward=False, **SMALL), device="cpu")
    assert isinstance(env.snd, RND) and env.snd.scale.return_stats is None


def expected_means(steps, seed=0, n_envs=3):
    """:return: mean of the numbers, and of the actions, that ``ActingEnv`` shows in its first random steps"""
    space = spaces.Discrete(5, seed=seed)
    actions = np.array([[space.sample() for _ in range(n_envs)] for _ in range(steps)])
    ends = (np.arange(1, steps + 1)[:, None] % (np.arange(n_envs) + 2)) == 0  # shows the next episode's first state
    return np.mean(np.arange(n_envs)), np.where(ends, 0, actions).mean()


@pytest.mark.parametrize(
    ("algorithm", "wrap"),
    [(PPOSND, VecMonitor), *itertools.product((A2C, DQN), (VecMonitor, lambda env: VecFrameStack(env, 2), VecNormalize))],
)
def test_random_steps_start_the_statistics(algorithm, wrap):
    """Before the first training only, and then the environments are reset. They are no steps of the training."""
    kwargs = dict(device="cpu", seed=0, **(dict(learning_starts=99, buffer_size=64) if algorithm is DQN else {}))
    snd_kwargs = dict(warm_up_steps=5, batch_size=8, **SMALL)
    venv = acting()
    if algorithm is PPOSND:
        model = PPOSND("MlpPolicy", wrap(venv), snd="rnd_openai", snd_kwargs=snd_kwargs, **SIZES)
        reward, callback = model.snd, None
    else:
        env = VecIntrinsicReward(venv, "rnd_openai", snd_kwargs, device="cpu")
        model, reward, callback = algorithm("MlpPolicy", wrap(env), **kwargs), env.snd, SNDCallback()
    seen = []
    update = reward.obs_stats.update
    reward.obs_stats.update = lambda frames: (seen.append(frames.clone()), update(frames))[1]
    model.learn(24, callback=callback)
    number, action = expected_means(5)
    warm_up = th.stack(seen[:5])
    np.testing.assert_allclose(warm_up[..., [0, 2]].mean(dim=(0, 1)), [number, action], rtol=1e-6)
    assert seen[5][:, 1].tolist() == [0, 0, 0]  # the first states of the training
    n_steps = model.num_timesteps // 3
    assert reward.obs_stats.count.item() == pytest.approx(3 * (5 + n_steps), abs=1e-3)
    assert len(seen) == 5 + n_steps and reward.share == 1
    if algorithm is DQN:
        assert model.replay_buffer.observations[0].reshape(3, -1)[:, -2].tolist() == [0, 0, 0]
        assert not model.replay_buffer.full and model.replay_buffer.pos == n_steps
    model.learn(24, callback=callback)
    assert seen[5 + n_steps][:, 1].tolist() == [0, 0, 0] and len(seen) == 5 + n_steps + model.num_timesteps // 3


def test_what_was_loaded_or_is_not_trained_takes_no_random_steps(tmp_path):
    model = PPOSND("MlpPolicy", acting(), snd="rnd_openai", snd_kwargs=dict(warm_up_steps=5, **SMALL), **SIZES)
    model.learn(24)
    model.save(tmp_path / "model")
    model.snd.save(tmp_path / "nets.pth")
    loaded = PPOSND.load(tmp_path / "model", env=acting(), device="cpu")
    assert isinstance(loaded.snd, RND) and loaded.snd.warm_up_steps == 0 and loaded.snd.init_kwargs["warm_up_steps"] == 5
    loaded.learn(24)
    assert loaded.snd.obs_stats.count.item() == pytest.approx(3 * (5 + 8 + 8), abs=1e-3)

    env = VecIntrinsicReward(acting(), RND(acting().observation_space, device="cpu", **SMALL))
    PPO("MlpPolicy", env, **SIZES).learn(24, callback=SNDCallback(restore=tmp_path / "nets.pth"))
    assert env.snd.obs_stats.count.item() == pytest.approx(3 * (5 + 8 + 8), abs=1e-3)

    evaluation = VecIntrinsicReward(acting(), "rnd_openai", SMALL, device="cpu")
    evaluation.reset()
    evaluation.step(np.zeros(3, dtype=int))
    assert evaluation.snd.obs_stats.count < 1 and evaluation.last_obs[:, 1].tolist() == [1, 1, 1]
    without = VecIntrinsicReward(acting(), "rnd_openai", dict(warm_up_steps=0, **SMALL), device="cpu")
    PPO("MlpPolicy", without, **SIZES).learn(24, callback=SNDCallback())
    assert without.snd.obs_stats.count.item() == pytest.approx(24, abs=1e-3)


def test_a_product_passes_on_the_random_steps():
    snd_kwargs = dict(warm_up_steps=5, **SMALL)
    model = PPOSND("MlpPolicy", acting(), snd="rnd_openai", snd_kwargs=snd_kwargs, episodic="counts", **SIZES).learn(24)
    assert model.snd.lifelong.obs_stats.count.item() == pytest.approx(3 * (5 + 8), abs=1e-3)


def test_bad_arguments_are_named():
    for bad, message in (
        (dict(features_dim=0), "features_dim=0 must be an integer >= 1"),
        (dict(warm_up_steps=-1), "warm_up_steps=-1 must be an integer >= 0"),
        (dict(width=3), r"Unknown argument 'width' of RND: it takes eta, .* features_dim, warm_up_steps"),
    ):
        with pytest.raises(ValueError, match=message):
            RND(VECTOR, device="cpu", **bad)


ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-3, 2, (2,))]


@pytest.mark.parametrize("action_space", ACTIONS, ids=str)
def test_it_conforms(action_space):
    check_reward(RND, None if action_space is ACTIONS[0] else VECTOR, action_space, **SMALL)


@pytest.mark.parametrize(
    ("space", "policy"),
    [
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), "MlpPolicy"),
        (spaces.Discrete(4), "MlpPolicy"),
        (spaces.Dict(image=spaces.Box(0, 255, (36, 40, 3), np.uint8), other=VECTOR), "MultiInputPolicy"),
    ],
    ids=["grid", "discrete", "dict"],
)
def test_every_kind_of_observation(space, policy):
    make = lambda: AnyEnv(copy.deepcopy(space), spaces.MultiDiscrete([2, 3]))  # noqa: E731
    snd_kwargs = dict(warm_up_steps=3, **SMALL)
    model = PPOSND(policy, DummyVecEnv([make] * 2), snd="rnd_openai", snd_kwargs=snd_kwargs, **SIZES)
    before = [parameter.clone() for parameter in model.snd.nets.predictor.parameters()]
    model.learn(32)
    assert all(not th.equal(a, b) for a, b in zip(before, model.snd.nets.predictor.parameters(), strict=True))
    assert (model.rollout_buffer.rewards[..., 1] > 0).all()


def test_off_policy_by_name():
    snd_kwargs = dict(batch_size=8, warm_up_steps=3, **SMALL)
    env = VecIntrinsicReward(image_env(length=3), "rnd_openai", snd_kwargs, ext_coef=0.0, device="cpu")
    model = DQN("CnnPolicy", env, learning_starts=4, buffer_size=64, batch_size=4, device="cpu", seed=0)
    model.learn(24, callback=SNDCallback(), log_interval=None)
    assert (model.replay_buffer.rewards[:12] > 0).all() and model.logger.name_to_value["snd/loss"] > 0
    continuous = VecIntrinsicReward(acting(spaces.Box(-3, 2, (2,))), "rnd_openai", snd_kwargs, device="cpu")
    SAC("MlpPolicy", continuous, buffer_size=64, learning_starts=99, device="cpu").learn(9, callback=SNDCallback())
