import numpy as np
import pytest
import torch as th
from fakes import CountingEnv
from gymnasium import spaces

from sb3_snd import SND
from sb3_snd.targets import TARGETS, Target
from sb3_snd.type_aliases import Rollout

VECTOR = spaces.Box(-10, 10, (4,))
GREY_STACK = spaces.Box(0, 255, (4, 40, 44), np.uint8)


def make(space=VECTOR, target="vic", **kwargs):
    th.manual_seed(0)
    return SND(space, target, device="cpu", **kwargs)


def random_obs(space, n, seed=0):
    rng = np.random.default_rng(seed)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (n, *space.shape), dtype=np.uint8)
    return rng.normal(size=(n, *space.shape)).astype(np.float32)


@pytest.mark.parametrize(("target", "term"), [("rnd", "distill"), ("v", "distill"), ("std", "target"), ("vic", "target")])
@pytest.mark.parametrize("space", [VECTOR, GREY_STACK], ids=["vector", "image"])
def test_training_reduces_the_loss(space, target, term):
    """The distance to a target that moves may grow; then it is the target's own loss that falls."""
    snd = make(space, target, batch_size=32)
    obs = random_obs(space, 64).reshape(8, 8, *space.shape)
    rollout = Rollout(obs, obs[0], {})
    first = snd.train_on_rollout(rollout)
    for _ in range(8):
        last = snd.train_on_rollout(rollout)
    assert all(np.isfinite(value) for value in last.values())
    assert last[term] < first[term]
    assert snd.novelty(obs[0]).shape == (8,)


@pytest.mark.parametrize("target", TARGETS)
def test_distillation_does_not_reach_the_target(target):
    snd = make(target=target)
    snd.loss(random_obs(VECTOR, 16), random_obs(VECTOR, 16, 1))["distill"].backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in snd.target.parameters())
    assert any(parameter.grad.any() for parameter in snd.learner.parameters())


@pytest.mark.parametrize("target", ["v", "std", "vic"])
def test_target_is_trained_and_rnd_is_not(target):
    snd = make(target=target, batch_size=16)
    before = [parameter.clone() for parameter in snd.target.parameters()]
    obs = random_obs(VECTOR, 16).reshape(4, 4, 4)
    snd.train_on_rollout(Rollout(obs, obs[0], {}))
    assert all(not th.equal(a, b) for a, b in zip(before, snd.target.parameters(), strict=True))

    rnd = make(target="rnd", batch_size=16)
    before = [parameter.clone() for parameter in rnd.target.parameters()]
    rnd.train_on_rollout(Rollout(obs, obs[0], {}))
    assert all(th.equal(a, b) for a, b in zip(before, rnd.target.parameters(), strict=True))


def test_vectors_are_normalised_and_clamped():
    snd = make()
    obs = np.stack([np.arange(8.0), 100 * np.arange(8.0), np.ones(8), np.zeros(8)], axis=1).astype(np.float32)
    snd.update_statistics(obs)
    frames = snd._frames(obs).numpy()
    expected = (np.arange(8) - 3.5) / np.arange(8).std()
    np.testing.assert_allclose(frames[:, 0], expected, rtol=1e-3)
    np.testing.assert_allclose(frames[:, 1], expected, rtol=1e-3)
    assert snd._frames(np.full((1, 4), 1e6, dtype=np.float32)).max() == 5.0


def test_minibatches_pair_each_state_with_its_successor():
    """Frames carry 100 * env + time; an episode of environment 1 ends at step 2, with terminal observation 777."""
    n_steps, n_envs = 4, 3
    numbers = np.arange(n_steps + 1)[:, None] + 100 * np.arange(n_envs)  # (T + 1, N)
    obs = np.repeat(numbers[..., None], 4, axis=2).astype(np.float32)
    rollout = Rollout(obs[:-1], obs[-1], {2 * n_envs + 1: np.full(4, 777, dtype=np.float32)})
    for as_type in (np.asarray, th.as_tensor):
        for batch_size in (2, 4, 6, 12):
            snd = make(batch_size=batch_size)
            snd._frames = th.as_tensor  # the numbers themselves, not normalised
            pairs = []
            sizes = []
            for batch in snd.minibatches(rollout._replace(observations=as_type(rollout.observations))):
                state, successor = batch.split(batch.frames)
                pairs += list(zip(state[:, 0].tolist(), successor[:, 0].tolist(), strict=True))
                sizes.append(len(batch.frames))
                assert batch.pool(th.tensor([0, 4]))[:, 0].tolist() == [0.0, 101.0]
            expected = [
                (float(numbers[t, n]), 777.0 if (t, n) == (2, 1) else float(numbers[t + 1, n]))
                for t in range(n_steps)
                for n in range(n_envs)
            ]
            assert pairs == expected
            assert sum(sizes) == (12 // batch_size) * (batch_size + n_envs) + 1


def test_shared_encodings_give_the_same_loss():
    """A minibatch of consecutive steps and the same transitions given pair by pair."""
    obs = random_obs(GREY_STACK, 5 * 6).reshape(5, 6, *GREY_STACK.shape)
    for target in ("vic", "std"):
        snd = make(GREY_STACK, target, batch_size=24)
        (batch,) = snd.minibatches(Rollout(obs[:4], obs[4], {}))
        shared = snd.target.loss(batch, snd.learner)
        states, successors = obs[:4].reshape(24, *GREY_STACK.shape), obs[1:].reshape(24, *GREY_STACK.shape)
        separate = snd.loss(states, successors)
        for name in ("loss", "distill", "target"):
            np.testing.assert_allclose(shared[name].item(), separate[name].item(), rtol=1e-5)


def test_save_and_load(tmp_path):
    snd = make(target="rnd", batch_size=16)
    obs = random_obs(VECTOR, 16).reshape(4, 4, 4)
    snd.update_statistics(obs[0])
    snd.train_on_rollout(Rollout(obs, obs[0], {}))
    snd.save(tmp_path / "snd.pth")
    th.manual_seed(5)
    other = SND(VECTOR, "rnd", batch_size=16, device="cpu")
    other.load(tmp_path / "snd.pth")
    for model in (snd, other):
        th.manual_seed(1)
        model.train_on_rollout(Rollout(obs, obs[0], {}))
    assert snd.state_dict().keys() == other.state_dict().keys()
    assert all(th.equal(a, b) for a, b in zip(snd.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="does not hold an SND with target 'vic'"):
        make().load(tmp_path / "snd.pth")


class ConstantTarget(Target):
    """The smallest own target: it is never trained."""

    convs = learner_convs = ()

    def loss(self, batch, learner):
        z = self(batch.states).detach()
        distill = (learner(batch.states) - z).square().mean()
        return {"loss": distill, "distill": distill, "features": z}


def test_own_target_class():
    snd = make(target=ConstantTarget, batch_size=8, features_dim=7)
    obs = random_obs(VECTOR, 8).reshape(2, 4, 4)
    assert snd.train_on_rollout(Rollout(obs, obs[0], {}))["loss"] > 0
    assert snd.target.features_dim == 7


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(target="nope"), "Unknown target 'nope': the known ones are 'v', 'std', 'vic', 'rnd'"),
        (dict(target=3), "must be a name"),
        (dict(eta=-0.1), "eta=-0.1 must be a number not below 0"),
        (dict(eta=float("nan")), "eta=nan"),
        (dict(learning_rate=0), "learning_rate=0 must be a positive number"),
        (dict(batch_size=1), "batch_size=1 must be a whole number, 2 at least"),
        (dict(batch_size=16.0), "batch_size=16.0 must be a whole number"),
        (dict(features_dim=0), "features_dim=0 must be a whole number, 1 at least"),
        (dict(n_epochs=0), "n_epochs=0 must be a whole number, 1 at least"),
        (dict(target="v", normalize_input=True), "normalize_input=True is for images"),
        (dict(target="v", noise_probability=2), r"noise_probability=2 must lie in \[0, 1\]"),
        (dict(target_width=-3), "target_width=-3 must be a whole number"),
        (dict(width=3), "Unknown SND argument 'width': VICTarget takes eta, .*obs_key, norm_reward, .*target_width"),
        (dict(space=spaces.Text(3)), "SND cannot read Text"),
        (dict(space=spaces.Box(0, 255, (20, 40, 3), np.uint8)), "20 x 40 pixels are smaller"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_numpy_numbers_are_numbers():
    snd = make(eta=np.float32(0.5), batch_size=np.int64(8), learning_rate=np.float64(1e-3))
    assert (snd.eta, snd.batch_size) == (0.5, 8)


def test_four_epochs_are_four_passes():
    """VIC draws nothing, so that passes can be repeated to the bit; the log is the mean over all of them."""
    obs = random_obs(VECTOR, 32).reshape(8, 4, 4)
    once, four = make(batch_size=16), make(batch_size=16, n_epochs=4)
    passes = [once.train_on_rollout(Rollout(obs, obs[0], {})) for _ in range(4)]
    terms = four.train_on_rollout(Rollout(obs, obs[0], {}))
    assert all(th.equal(a, b) for a, b in zip(once.parameters(), four.parameters(), strict=True))
    assert terms["loss"] == pytest.approx(np.mean([each["loss"] for each in passes]))


def test_normalised_input_of_snd_v_by_hand():
    """
    Half of the batch is 0.2 and half 0.6: mean 0.4 and variance 0.04. It counts as much as the start, mean 0 and variance 1:
    together mean 0.2 and variance (1 + 0.04 + 0.4² / 2) / 2 = 0.56.
    """
    space = spaces.Box(0, 1, (1, 36, 36))
    snd = make(space, "v", normalize_input=True)
    level = lambda value: np.full((1, 1, 36, 36), value, np.float32)  # noqa: E731
    snd.update_statistics(np.concatenate([level(0.2), level(0.6)]))
    seen = []
    snd.target.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for value, expected in [(0.5, 0.3 / 0.56**0.5), (0.2, 0.0), (0.0, -0.2 / 0.56**0.5), (1.0, 1.0)]:
        snd.novelty(level(value))
        np.testing.assert_allclose(seen.pop(), np.full((1, 1, 36, 36), expected), rtol=1e-6, atol=1e-7)

    plain = make(space, "v")
    plain.update_statistics(level(0.2))
    assert set(snd.state_dict()) - set(plain.state_dict()) == {f"target.frame_stats.{x}" for x in ("mean", "var", "count")}


def test_noise_always():
    frames = th.full((64, 1, 36, 36), 0.5)
    for probability, least, most in [(0.0, 0, 0), (0.5, 16, 48), (1.0, 64, 64)]:
        views = make(GREY_STACK, "v", noise_probability=probability).target.augment(frames)
        noisy = sum(not set(view.unique().tolist()) <= {0.0, 0.5} for view in views)
        assert least <= noisy <= most


def test_rollout_must_divide_into_minibatches():
    obs = random_obs(VECTOR, 12).reshape(3, 4, 4)
    with pytest.raises(ValueError, match=r"batch_size=8 does not divide the rollout of 12 .*: 6 would"):
        make(batch_size=8).train_on_rollout(Rollout(obs, obs[0], {}))


@pytest.mark.parametrize(
    ("size", "expected"), [(16384, 512), (2048, 512), (40, 40), (640, 320), (1000, 500), (7, 7), (513, 171)]
)
def test_minibatch_that_fits_any_rollout(size, expected):
    assert make().minibatch_size(size) == expected
    assert size % expected == 0


def test_no_minibatch_fits_a_prime_rollout():
    with pytest.raises(ValueError, match=r"batch_size=512 does not divide the rollout of 1021 .*: choose another n_steps"):
        make().minibatch_size(1021)


def test_a_fitting_minibatch_trains_on_every_transition():
    obs = random_obs(VECTOR, 36).reshape(6, 6, 4)
    assert [len(batch.next_index) for batch in make().minibatches(Rollout(obs, obs[0], {}))] == [36]
    assert [len(batch.next_index) for batch in make(batch_size=9).minibatches(Rollout(obs, obs[0], {}))] == [9] * 4


def test_novelty_in_units_of_its_discounted_sums():
    snd = make(eta=2.0, norm_reward=True)
    snd.return_stats.update(th.tensor([1.0, 3.0, 5.0, 7.0]))  # variance 5
    np.testing.assert_allclose(snd.scale(th.tensor([0.0, 0.5, 2.0])), [0, 2 * 0.5 / np.sqrt(5), 1], rtol=1e-4)
    assert "return_stats.var" in snd.state_dict()
    assert make().return_stats is None


def test_pairs_outside_of_a_rollout_train_as_in_one():
    """Two steps of eight environments in one minibatch, and the same transitions pair by pair."""
    obs = random_obs(VECTOR, 24).reshape(3, 8, 4)
    by_rollout, by_pairs = make(batch_size=16), make()
    first = by_rollout.train_on_rollout(Rollout(obs[:2], obs[2], {}))
    second = by_pairs.train_on_pairs(obs[:2].reshape(16, 4), obs[1:].reshape(16, 4))
    assert first.keys() == second.keys()
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-4)
    for a, b in zip(by_rollout.parameters(), by_pairs.parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_dict_observations_are_read_at_their_key(target):
    """The same as an SND of that entry alone, whatever the other entry holds."""
    space = spaces.Dict(seen=VECTOR, other=GREY_STACK)
    alone, keyed = make(target=target, batch_size=8), make(space, target, batch_size=8, obs_key="seen")
    obs = random_obs(VECTOR, 24).reshape(6, 4, 4)
    other = random_obs(GREY_STACK, 24).reshape(6, 4, *GREY_STACK.shape)
    ends = {5: obs[0, 0] + 1}
    as_dict = Rollout(
        {"seen": obs[:4], "other": other[:4]},
        {"seen": obs[4], "other": other[4]},
        {row: {"seen": end, "other": other[0, 0]} for row, end in ends.items()},
    )
    for snd, batch, rollout in ((alone, obs[5], Rollout(obs[:4], obs[4], ends)), (keyed, {"seen": obs[5]}, as_dict)):
        th.manual_seed(1)
        snd.update_statistics(batch)
        snd.train_on_rollout(rollout)
    assert th.equal(alone.novelty(obs[5]), keyed.novelty({"other": other[5], "seen": obs[5]}))


@pytest.mark.parametrize(
    ("made_for", "given"),
    [
        (spaces.Box(0, 255, (1, 40, 40), np.uint8), spaces.Box(0, 1, (1, 40, 40))),
        (spaces.Discrete(2), spaces.Box(-1, 1, (2,))),
        (spaces.Box(0, 255, (1, 40, 40), np.uint8), spaces.Box(0, 255, (3, 40, 40), np.uint8)),
    ],
)
def test_an_snd_fits_the_spaces_it_was_made_for(made_for, given):
    snd = make(made_for)
    snd.check_space(made_for)
    with pytest.raises(ValueError, match=r"This SND was made for frames .*, the environment gives frames"):
        snd.check_space(given)


def test_fake_environment_counts():
    """The other tests stand on it."""
    env = CountingEnv(3, length=2, truncated=True)
    assert env.reset()[0].tolist() == [3, 0]
    obs, reward, terminated, truncated, _ = env.step(0)
    assert (obs.tolist(), reward, terminated, truncated) == ([3, 1], 30.0, False, False)
    assert env.step(0)[2:4] == (False, True)
