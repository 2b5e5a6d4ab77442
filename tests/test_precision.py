"""bfloat16 beside float32: what may differ, by how much, and what may not."""

import numpy as np
import pytest
import torch as th
from fakes import CountingEnv, image_env
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_snd import PPOSND, SND, VecIntrinsicReward
from sb3_snd.common.precision import Encoder, set_precision
from sb3_snd.envs import make_atari_env
from sb3_snd.rewards.rollout import Rollout
from sb3_snd.targets import TARGETS

SIZES = dict(n_steps=16, batch_size=16, n_epochs=2, device="cpu")
FRAME = spaces.Box(0, 255, (1, 64, 64), np.uint8)  # as in Procgen: fewer pixels than in Atari, to save time
IMAGE = spaces.Box(0, 255, (2, 36, 36), np.uint8)


def make(precision, space=IMAGE, target="vic", **kwargs):
    th.manual_seed(0)
    return SND(space, target, device="cpu", precision=precision, action_space=spaces.Discrete(18), **kwargs)


def encoders(module):
    return [net for net in module.modules() if isinstance(net, Encoder)]


def ranks(values):
    return np.argsort(np.argsort(values))


@pytest.fixture(scope="module")
def montezuma():
    """10 rollouts of 8 steps of 32 environments under random actions, as ``(8, 32, *FRAME.shape)``, and their ends."""
    env = make_atari_env("MontezumaRevengeNoFrameskip-v4", 32, seed=0, n_stack=1, frame_size=FRAME.shape[-1])
    rng = np.random.default_rng(0)
    obs, rollouts = env.reset(), []
    for _ in range(10):
        steps, ends = [], {}
        actions = rng.integers(env.action_space.n, size=(8, 32))
        for step in range(8):
            steps.append(np.array(obs))
            obs, _, dones, infos = env.step(actions[step])
            ends.update({step * 32 + i: infos[i]["terminal_observation"] for i in np.flatnonzero(dones)})
        rollouts.append(Rollout(np.stack(steps), np.array(obs), ends, actions))
    env.close()
    return rollouts


@pytest.mark.parametrize("target", TARGETS)  # not `numbers`: without kernels for bfloat16 nets compute in float32
def test_novelty_of_a_trained_learner(target, montezuma):
    """The mean within 1 %, the order kept: why bfloat16 may be the default."""
    snd = make("float32", FRAME, target, batch_size=128)
    set_precision(snd, "float32")  # in the layout that is faster
    fresh = snd.novelty(montezuma[-1].last_observation).mean()
    for rollout in montezuma[:-1]:
        for obs in rollout.observations:
            snd.observe(obs)
        snd.trainer.train_on_rollout(rollout)
    unseen = montezuma[-1].observations.reshape(-1, *FRAME.shape)
    exact = snd.novelty(unseen).double().numpy()
    if target not in ("v", "bt"):
        assert exact.mean() < fresh / 3  # trained indeed; the other targets move faster than the learner
    set_precision(snd, "bfloat16")
    reduced = snd.novelty(unseen).double().numpy()
    assert not np.array_equal(exact, reduced)
    assert reduced.mean() == pytest.approx(exact.mean(), rel=0.01)
    # Barlow Twins finds these states more alike: their novelty differs by 3 %, not by 20 to 30 %
    assert np.corrcoef(ranks(exact), ranks(reduced))[0, 1] >= (0.99 if target == "bt" else 0.999)


@pytest.mark.parametrize("target", TARGETS)  # not `numbers`: without kernels for bfloat16 nets compute in float32
def test_losses_and_gradients_are_near(target, montezuma):
    results = []
    for precision in ("float32", "bfloat16"):
        snd = make(precision, FRAME, target, batch_size=32)
        batch = next(snd.trainer.minibatches(montezuma[-1]))
        th.manual_seed(1)
        terms = snd.loss(batch)
        terms["loss"].backward()
        parameters = [parameter for parameter in snd.parameters() if parameter.requires_grad]
        assert (
            {parameter.grad.dtype for parameter in parameters} == {parameter.dtype for parameter in parameters} == {th.float32}
        )
        results.append((terms["loss"].item(), th.cat([parameter.grad.flatten() for parameter in parameters])))
    (loss, gradient), (reduced_loss, reduced_gradient) = results
    assert not th.equal(gradient, reduced_gradient)
    assert reduced_loss == pytest.approx(loss, rel=0.01)
    assert th.cosine_similarity(gradient, reduced_gradient, dim=0) > 0.99


def test_float32_goes_in_and_comes_out():
    snd = make("bfloat16")
    net = snd.target.encoder
    frames = th.rand(3, *snd.frame_shape)
    seen = []
    net[2].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    for part in (net, net[:4]):
        assert part.reduced and part(frames).dtype == th.float32
    assert seen == [th.bfloat16, th.bfloat16]
    assert not th.is_autocast_enabled("cpu")
    assert snd.novelty(frames * 0 + 7).dtype == th.float32


def test_who_computes_in_bfloat16(monkeypatch):
    """``auto`` leaves vectors alone. An SND of its own, and PPO without SND, do without it unless asked."""
    monkeypatch.setattr(th.cpu, "_is_avx512_bf16_supported", lambda: True)
    vector = spaces.Box(-1, 1, (3,))
    assert [net.reduced for net in encoders(make("auto"))] == [True, True]
    layouts = {
        precision: encoders(make(precision))[0][2].weight.is_contiguous(memory_format=th.channels_last)
        for precision in ("auto", "bfloat16", "float32")
    }
    assert layouts == {"auto": True, "bfloat16": True, "float32": False}
    assert [net.reduced for net in encoders(make("auto", vector))] == [False, False]
    assert [net.reduced for net in encoders(make("bfloat16", vector))] == [True, True]
    assert not any(net.reduced for net in encoders(SND(IMAGE, device="cpu")))
    assert all(net.reduced for net in encoders(VecIntrinsicReward(image_env(), device="cpu").snd))
    for arguments, reduced in (
        ({}, True),
        (dict(precision="float32"), False),
        (dict(snd=None), False),
        (dict(snd=None, precision="auto"), True),
        (dict(snd=None, precision="bfloat16"), True),
        (dict(precision="bfloat16", snd_kwargs=dict(precision="bfloat16")), True),
    ):
        model = PPOSND("CnnPolicy", image_env(), **SIZES, **arguments)
        nets = [*encoders(model.policy), *([] if model.snd is None else encoders(model.snd))]
        assert {net.reduced for net in nets} == {reduced}, arguments
    model = PPOSND("CnnPolicy", image_env(), snd_kwargs=dict(precision="float32"), **SIZES)
    assert encoders(model.policy)[0].reduced and not encoders(model.snd)[0].reduced


def test_bad_precision_is_refused_before_anything_is_made():
    for build in (lambda: make("half"), lambda: PPOSND("CnnPolicy", image_env(), precision="half", **SIZES)):
        with pytest.raises(ValueError, match="precision='half' must be one of"):
            build()


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_seed_gives_the_same_run(target):
    sizes = {**SIZES, "n_steps": 8, "batch_size": 8, "n_epochs": 1}  # bfloat16 is slow on processors without it
    runs = []
    for _ in range(2):
        model = PPOSND("CnnPolicy", image_env(), snd=target, precision="bfloat16", seed=3, **sizes).learn(32)
        runs.append(th.cat([p.detach().flatten() for p in (*model.policy.parameters(), *model.snd.parameters())]))
    assert th.equal(*runs)


@pytest.mark.numbers
def test_policy_in_bfloat16_is_near_the_one_in_float32():
    """Values, log-probabilities and the gradient of both on uint8 images; SB3's preprocessing is passed by."""
    obs = th.randint(0, 256, (64, 2, 36, 36), dtype=th.uint8, generator=th.Generator().manual_seed(0))
    results = []
    for precision in ("float32", "bfloat16"):
        model = PPOSND("CnnPolicy", image_env(), precision=precision, seed=0, **SIZES)
        values, log_prob, _ = model.policy.evaluate_actions(obs, th.zeros(64, dtype=th.long))
        np.testing.assert_allclose(model.policy.predict_values(obs).detach(), values.detach(), rtol=1e-3, atol=1e-4)
        logits = model.policy.get_distribution(obs).log_prob(th.zeros(64, dtype=th.long))
        np.testing.assert_allclose(logits.detach(), log_prob.detach(), rtol=1e-4)
        assert values.dtype == log_prob.dtype == th.float32
        (values.square().mean() - log_prob.mean()).backward()
        gradient = th.cat([p.grad.flatten() for p in model.policy.parameters()])
        results.append((values.detach(), log_prob.detach(), gradient))
    for exact, reduced in zip(*results, strict=True):
        assert not th.equal(exact, reduced)
        assert (exact - reduced).norm() < 0.02 * exact.norm()


@pytest.mark.numbers
def test_images_that_sb3_does_not_scale_are_not_scaled():
    """Frames of 0 and 1 in uint8: the policy sees them as they are when it acts, evaluates and learns."""

    class Bits(CountingEnv):
        def __init__(self):
            super().__init__(image=True)
            self.observation_space = spaces.Box(0, 1, (36, 36, 1), np.uint8)

        def _obs(self):
            return super()._obs() % 2

    model = PPOSND("CnnPolicy", DummyVecEnv([Bits]), precision="bfloat16", seed=0, **SIZES)
    obs = th.ones(2, *model.observation_space.shape, dtype=th.uint8)
    values = model.policy(obs)[1]
    np.testing.assert_allclose(values.detach(), model.policy.predict_values(obs).detach(), rtol=1e-3)


@pytest.mark.parametrize(("saved", "loaded"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_optimisers_go_on_in_another_layout(saved, loaded, tmp_path):
    """Adam's averages belong to the weights that they were made for: loaded into the other layout, they are still equal."""
    model = PPOSND("CnnPolicy", image_env(), precision=saved, **SIZES).learn(32)
    model.save(tmp_path / "model")
    other = PPOSND.load(tmp_path / "model", env=image_env(), device="cpu", precision=loaded)
    assert other.policy.features_extractor.net[2].weight.stride() != model.policy.features_extractor.net[2].weight.stride()
    for before, after in ((model.policy, other.policy), (model.snd, other.snd)):
        optimizers = [getattr(part, "trainer", part).optimizer for part in (before, after)]
        n_convolutions = 0
        for old, new in zip(before.parameters(), after.parameters(), strict=True):
            for name in ("exp_avg", "exp_avg_sq"):
                average = optimizers[1].state[new][name]
                assert th.equal(average, optimizers[0].state[old][name])
                assert average.stride() == new.stride()
            n_convolutions += old.stride() != new.stride()
        assert n_convolutions >= 3


def test_precision_is_saved(tmp_path):
    PPOSND("CnnPolicy", image_env(), precision="bfloat16", **SIZES).save(tmp_path / "model")
    model = PPOSND.load(tmp_path / "model", env=image_env(), device="cpu")
    assert model.precision == "bfloat16" and all(net.reduced for net in encoders(model.policy) + encoders(model.snd))
    assert not encoders(PPOSND.load(tmp_path / "model", device="cpu", precision="float32").policy)[0].reduced
