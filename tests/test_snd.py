import numpy as np
import pytest
import torch as th
from fakes import CountingEnv
from gymnasium import spaces
from rounding import assert_same, calm, copies
from stable_baselines3.common.running_mean_std import RunningMeanStd as SB3RunningMeanStd
from stable_baselines3.common.utils import LinearSchedule

from sb3_snd import SND
from sb3_snd.rewards.make import check_space
from sb3_snd.rewards.rollout import Rollout
from sb3_snd.targets import TARGETS, Target

pytestmark = pytest.mark.numbers

VECTOR = spaces.Box(-10, 10, (4,))
GREY_STACK = spaces.Box(0, 255, (4, 40, 44), np.uint8)
ACTIONS = spaces.Discrete(3)


def make(space=VECTOR, target="vic", **kwargs):
    th.manual_seed(0)
    return SND(space, target, device="cpu", action_space=ACTIONS, **kwargs)


def random_actions(*shape):
    return np.random.default_rng(0).integers(0, ACTIONS.n, shape)


def random_obs(space, n, seed=0):
    rng = np.random.default_rng(seed)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (n, *space.shape), dtype=np.uint8)
    return rng.normal(size=(n, *space.shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("target", "term"),
    [("rnd", "distill"), ("v", "distill"), *((name, "target") for name in ("std", "vic", "bt", "vinv"))],
)
@pytest.mark.parametrize("space", [VECTOR, GREY_STACK], ids=["vector", "image"])
def test_training_reduces_the_loss(space, target, term):
    """The distance to a target that moves may grow; then it is the target's own loss that falls."""
    snd = make(space, target, batch_size=32)
    obs = random_obs(space, 64).reshape(8, 8, *space.shape)
    rollout = Rollout(obs, obs[0], {}, random_actions(8, 8))
    first = snd.trainer.train_on_rollout(rollout)
    for _ in range(8):
        last = snd.trainer.train_on_rollout(rollout)
    assert all(np.isfinite(value) for value in last.values())
    assert last[term] < first[term]
    assert snd.novelty(obs[0]).shape == (8,)


@pytest.mark.parametrize("target", TARGETS)
def test_distillation_does_not_reach_the_target(target):
    snd = make(target=target)
    batch = snd.transitions(random_obs(VECTOR, 16), random_obs(VECTOR, 16, 1), th.as_tensor(random_actions(16)))
    snd.loss(batch)["distill"].backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in snd.target.parameters())
    assert any(parameter.grad.any() for parameter in snd.learner.parameters())


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "rnd"])
def test_target_is_trained_and_rnd_is_not(target):
    snd = make(target=target, batch_size=16)
    before = [parameter.clone() for parameter in snd.target.parameters()]
    obs = random_obs(VECTOR, 16).reshape(4, 4, 4)
    snd.trainer.train_on_rollout(Rollout(obs, obs[0], {}, random_actions(4, 4)))
    assert all(not th.equal(a, b) for a, b in zip(before, snd.target.parameters(), strict=True))

    rnd = make(target="rnd", batch_size=16)
    before = [parameter.clone() for parameter in rnd.target.parameters()]
    rnd.trainer.train_on_rollout(Rollout(obs, obs[0], {}))
    assert all(th.equal(a, b) for a, b in zip(before, rnd.target.parameters(), strict=True))


def test_vectors_are_normalised_and_clamped():
    snd = make()
    obs = np.stack([np.arange(8.0), 100 * np.arange(8.0), np.ones(8), np.zeros(8)], axis=1).astype(np.float32)
    snd.observe(obs)
    frames = snd.prepare(obs).numpy()
    expected = (np.arange(8) - 3.5) / np.arange(8).std()
    np.testing.assert_allclose(frames[:, 0], expected, rtol=1e-3)
    np.testing.assert_allclose(frames[:, 1], expected, rtol=1e-3)
    assert snd.prepare(np.full((1, 4), 1e6, dtype=np.float32)).max() == 5.0


def test_minibatches_pair_each_state_with_its_successor():
    """Frames carry 100 * env + time; an episode of environment 1 ends at step 2, with terminal observation 777."""
    n_steps, n_envs = 4, 3
    numbers = np.arange(n_steps + 1)[:, None] + 100 * np.arange(n_envs)  # (T + 1, N)
    obs = np.repeat(numbers[..., None], 4, axis=2).astype(np.float32)
    rollout = Rollout(obs[:-1], obs[-1], {2 * n_envs + 1: np.full(4, 777, dtype=np.float32)})
    for as_type in (np.asarray, th.as_tensor):
        for batch_size in (2, 4, 6, 12):
            snd = make(batch_size=batch_size)
            snd.prepare = th.as_tensor  # the numbers themselves, not normalised
            pairs = []
            sizes = []
            for batch in snd.trainer.minibatches(rollout._replace(observations=as_type(rollout.observations))):
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
        (batch,) = snd.trainer.minibatches(Rollout(obs[:4], obs[4], {}))
        shared = snd.target.loss(batch, snd.learner)
        states, successors = obs[:4].reshape(24, *GREY_STACK.shape), obs[1:].reshape(24, *GREY_STACK.shape)
        separate = snd.loss(snd.transitions(states, successors))
        assert {"invariance", "infonce"} & shared.keys()  # terms of both states of a pair
        for name in shared.keys() - {"features"}:
            np.testing.assert_allclose(shared[name].item(), separate[name].item(), rtol=1e-4, err_msg=name)


def test_save_and_load(tmp_path):
    snd = make(target="rnd", batch_size=16)
    obs = random_obs(VECTOR, 16).reshape(4, 4, 4)
    snd.observe(obs[0])
    snd.trainer.train_on_rollout(Rollout(obs, obs[0], {}))
    snd.save(tmp_path / "snd.pth")
    th.manual_seed(5)
    other = SND(VECTOR, "rnd", batch_size=16, device="cpu")
    other.load(tmp_path / "snd.pth")
    for model in (snd, other):
        th.manual_seed(1)
        model.trainer.train_on_rollout(Rollout(obs, obs[0], {}))
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
    assert snd.trainer.train_on_rollout(Rollout(obs, obs[0], {}))["loss"] > 0
    assert snd.target.features_dim == 7


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(target="nope"), "Unknown target 'nope': choose one of 'v', 'std', 'vic', 'rnd', 'bt', 'vinv'"),
        (dict(target=3), "must be a name"),
        (dict(eta=-0.1), "eta=-0.1 must be a non-negative number"),
        (dict(eta=float("nan")), "eta=nan"),
        (dict(learning_rate=0), "learning_rate=0 must be a positive number"),
        (dict(batch_size=1), "batch_size=1 must be an integer >= 2"),
        (dict(batch_size=16.0), "batch_size=16.0 must be an integer >= 2"),
        (dict(features_dim=0), "features_dim=0 must be an integer >= 1"),
        (dict(n_epochs=0), "n_epochs=0 must be an integer >= 1"),
        (dict(target="v", normalize_input=True), "normalize_input=True is for images only: omit it"),
        (dict(target="v", noise_probability=2), r"noise_probability=2 must lie in \[0, 1\]"),
        (dict(target_width=-3), "target_width=-3 must be an integer >= 1"),
        (dict(width=3), "Unknown SND argument 'width': VICTarget takes eta, .*obs_key, norm_reward, .*target_width"),
        (dict(space=spaces.Text(3)), "SND cannot read Text"),
        (dict(space=spaces.Box(0, 255, (3, 40, 3), np.uint8)), "40 x 3 cells are smaller"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_numpy_numbers_are_numbers():
    snd = make(eta=np.float32(0.5), batch_size=np.int64(8), learning_rate=np.float64(1e-3))
    assert (snd.scale.eta, snd.trainer.batch_size) == (0.5, 8)


def test_four_epochs_are_four_passes():
    """VIC draws nothing, so that passes can be repeated to the bit; the log is the mean over all of them."""
    obs = random_obs(VECTOR, 32).reshape(8, 4, 4)
    once, four = make(batch_size=16), make(batch_size=16, n_epochs=4)
    passes = [once.trainer.train_on_rollout(Rollout(obs, obs[0], {})) for _ in range(4)]
    terms = four.trainer.train_on_rollout(Rollout(obs, obs[0], {}))
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
    snd.observe(np.concatenate([level(0.2), level(0.6)]))
    seen = []
    snd.target.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for value, expected in [(0.5, 0.3 / 0.56**0.5), (0.2, 0.0), (0.0, -0.2 / 0.56**0.5), (1.0, 1.0)]:
        snd.novelty(level(value))
        np.testing.assert_allclose(seen.pop(), np.full((1, 1, 36, 36), expected), rtol=1e-5, atol=1e-6)

    plain = make(space, "v")
    plain.observe(level(0.2))
    assert set(snd.state_dict()) - set(plain.state_dict()) == {f"target.frame_stats.{x}" for x in ("mean", "var", "count")}


def test_noise_always():
    frames = th.full((64, 1, 36, 36), 0.5)
    for probability, least, most in [(0.0, 0, 0), (0.5, 16, 48), (1.0, 64, 64)]:
        views = make(GREY_STACK, "v", noise_probability=probability).target.augment(frames)
        noisy = sum(not set(view.unique().tolist()) <= {0.0, 0.5} for view in views)
        assert least <= noisy <= most


@pytest.mark.parametrize(
    ("size", "expected"), [(16384, 512), (2048, 512), (40, 40), (640, 320), (1000, 500), (7, 7), (513, 171)]
)
def test_minibatch_that_fits_any_rollout(size, expected):
    assert make().trainer.minibatch_size(size) == expected
    assert size % expected == 0


@pytest.mark.parametrize(
    ("batch_size", "size", "expected"),
    [
        (None, 521, [512, 9]),  # a prime number
        (None, 1042, [512, 512, 18]),  # whose largest divisor below 512 is 2
        (None, 7, [7]),
        (8, 12, [8, 4]),
        (8, 9, [9]),  # one transition alone has no variance
        (2, 5, [2, 3]),
        (64, 12, [12]),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_minibatches_that_do_not_divide_the_rollout(target, batch_size, size, expected):
    """Every transition is in one minibatch, and its successor is that of the step after it, or the end of its episode."""
    snd = make(target=target, batch_size=batch_size)
    obs = np.arange(4 * (size + 1), dtype=np.float32).reshape(size + 1, 1, 4)  # one environment
    ends = {row: -obs[row, 0] - 1 for row in (0, size // 2, size - 1)}
    rollout = Rollout(obs[:-1], obs[-1], ends, random_actions(size, 1))
    snd.prepare = th.as_tensor  # the numbers themselves, not normalised
    pairs = [batch.split(batch.frames) for batch in snd.trainer.minibatches(rollout)]
    assert [len(states) for states, _ in pairs] == expected
    states, successors = (th.cat(part) for part in zip(*pairs, strict=True))
    right = th.as_tensor(obs[1:, 0].copy())
    right[list(ends)] = th.as_tensor(np.stack([*ends.values()]))
    assert th.equal(states, th.as_tensor(obs[:-1, 0])) and th.equal(successors, right)
    del snd.prepare
    assert np.isfinite(list(snd.trainer.train_on_rollout(rollout).values())).all()


def test_a_rollout_of_one_transition_is_refused():
    obs = random_obs(VECTOR, 2).reshape(2, 1, 4)
    with pytest.raises(ValueError, match=r"rollout of one transition .*: raise n_steps or n_envs"):
        make().trainer.train_on_rollout(Rollout(obs[:1], obs[1], {}))


def test_a_fitting_minibatch_trains_on_every_transition():
    obs = random_obs(VECTOR, 36).reshape(6, 6, 4)
    assert [len(batch.next_index) for batch in make().trainer.minibatches(Rollout(obs, obs[0], {}))] == [36]
    assert [len(batch.next_index) for batch in make(batch_size=9).trainer.minibatches(Rollout(obs, obs[0], {}))] == [9] * 4


def test_novelty_in_units_of_its_discounted_sums():
    snd = make(eta=2.0, norm_reward=True)
    snd.scale.return_stats.update(th.tensor([1.0, 3.0, 5.0, 7.0]))  # variance 5
    np.testing.assert_allclose(snd.scale(th.tensor([0.0, 0.5, 2.0])), [0, 2 * 0.5 / np.sqrt(5), 1], rtol=1e-4)
    assert "scale.return_stats.var" in snd.state_dict()
    assert make().scale.return_stats is None


def test_pairs_outside_of_a_rollout_train_as_in_one():
    """Two steps of eight environments in one minibatch, and the same transitions pair by pair."""
    obs = random_obs(VECTOR, 24).reshape(3, 8, 4)
    by_rollout, by_pairs = make(batch_size=16), make()
    for snd in (by_rollout, by_pairs):
        calm(snd.trainer.optimizer)
    before = copies(by_pairs)
    first = by_rollout.trainer.train_on_rollout(Rollout(obs[:2], obs[2], {}))
    second = by_pairs.trainer.train_on_batch(by_pairs.transitions(obs[:2].reshape(16, 4), obs[1:].reshape(16, 4)))
    assert first.keys() == second.keys()
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-4)
    assert_same(before, copies(by_rollout), copies(by_pairs))


@pytest.mark.parametrize("target", TARGETS)
def test_dict_observations_are_read_at_their_key(target):
    """The same as an SND of that entry alone, whatever the other entry holds."""
    space = spaces.Dict(seen=VECTOR, other=GREY_STACK)
    alone, keyed = make(target=target, batch_size=8), make(space, target, batch_size=8, obs_key="seen")
    obs = random_obs(VECTOR, 24).reshape(6, 4, 4)
    other = random_obs(GREY_STACK, 24).reshape(6, 4, *GREY_STACK.shape)
    ends, actions = {5: obs[0, 0] + 1}, random_actions(4, 4)
    as_dict = Rollout(
        {"seen": obs[:4], "other": other[:4]},
        {"seen": obs[4], "other": other[4]},
        {row: {"seen": end, "other": other[0, 0]} for row, end in ends.items()},
        actions,
    )
    for snd, batch, rollout in ((alone, obs[5], Rollout(obs[:4], obs[4], ends, actions)), (keyed, {"seen": obs[5]}, as_dict)):
        th.manual_seed(1)
        snd.observe(batch)
        snd.trainer.train_on_rollout(rollout)
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
    check_space(snd, made_for)
    with pytest.raises(ValueError, match=r"This SND was made for frames .*, but the environment gives frames"):
        check_space(snd, given)


def test_fake_environment_counts():
    """The other tests stand on it."""
    env = CountingEnv(3, length=2, truncated=True)
    assert env.reset()[0].tolist() == [3, 0]
    obs, reward, terminated, truncated, _ = env.step(0)
    assert (obs.tolist(), reward, terminated, truncated) == ([3, 1], 30.0, False, False)
    assert env.step(0)[2:4] == (False, True)


def test_equal_novelty_is_never_the_top_reward():
    """Its discounted sums are 100 times it, their standard deviation is 0, and a fifth of their mean is the unit."""
    snd = make(norm_reward=True, eta=1.0)
    stats = snd.scale.return_stats
    for step in range(3000):
        stats.update(th.full((4,), 100 * 0.3 * (1 + step % 2 * 1e-6)))
        if step in (0, 1, 10, 2999):
            np.testing.assert_allclose(snd.scale(th.full((4,), 0.3)), 1 / 20, rtol=1e-4)


@pytest.mark.parametrize("size", [1e19, 1e30, 3e38])
def test_huge_observations_are_normalised(size):
    """As VecNormalize does: a mean of 2 and a standard deviation of 1 times their size."""
    snd = make()
    obs = np.array([[1, 1, 0.5, 1], [3, -1, 0.5, 1]] * 50, np.float32) * np.float32(size / 4)
    snd.observe(obs)
    stock = SB3RunningMeanStd(shape=(4,))
    stock.update(obs.astype(np.float64))
    expected = np.clip((obs[:2] - stock.mean) / np.sqrt(stock.var + 1e-8), -5, 5)
    assert np.isfinite(expected).all() and np.abs(expected[:, :2]).max() > 0.9
    np.testing.assert_allclose(snd.prepare(obs[:2]), expected, rtol=1e-4, atol=1e-4)
    assert snd.novelty(obs).isfinite().all() and snd.novelty(obs).max() > 0


def saved(tmp_path, **kwargs):
    snd = make(**{"eta": 3.0, "learning_rate": 5e-4, "batch_size": 12, "n_epochs": 2, **kwargs})
    snd.trainer.train_on_batch(snd.transitions(random_obs(VECTOR, 8), random_obs(VECTOR, 8)))
    if snd.scale.return_stats is not None:
        snd.scale.return_stats.update(th.tensor([1.0, 5.0]))
    snd.save(tmp_path / "snd.pth")
    return snd


def rate(snd):
    return [group["lr"] for group in snd.trainer.optimizer.param_groups]


def test_settings_that_are_not_given_are_those_that_were_saved(tmp_path):
    saved(tmp_path)
    snd = make()
    snd.load(tmp_path / "snd.pth")
    assert (snd.scale.eta, snd.trainer.batch_size, snd.trainer.n_epochs, rate(snd)) == (3.0, 12, 2, [5e-4])
    other = make(target="vic", **{name: snd.init_kwargs[name] for name in ("eta", "n_epochs")})
    assert (other.scale.eta, other.trainer.n_epochs) == (3.0, 2)


def test_settings_that_are_given_win(tmp_path):
    saved(tmp_path)
    snd = make(eta=0.5, learning_rate=1e-3, batch_size=6, n_epochs=1)
    snd.load(tmp_path / "snd.pth")
    assert (snd.scale.eta, snd.trainer.batch_size, snd.trainer.n_epochs, rate(snd)) == (0.5, 6, 1, [1e-3])
    # also where they are the defaults
    snd = make(learning_rate=1e-4)
    snd.load(tmp_path / "snd.pth")
    assert rate(snd) == [1e-4]


@pytest.mark.parametrize("was", [False, True])
@pytest.mark.parametrize("given", [None, False, True])
def test_norm_reward_follows_the_same_rule(was, given, tmp_path):
    source = saved(tmp_path, norm_reward=was)
    snd = make(norm_reward=given)
    snd.load(tmp_path / "snd.pth")
    assert (snd.scale.return_stats is not None) == (was if given is None else given)
    if was and given is not False:
        assert snd.scale.return_stats.var == source.scale.return_stats.var == 4
    obs = random_obs(VECTOR, 8)
    assert th.equal(snd.novelty(obs), source.novelty(obs))


def test_eta_and_learning_rate_follow_schedules():
    """Both fall in a straight line, whatever optimiser is loaded in between."""
    snd = make(eta=LinearSchedule(2.0, 0.0, 1.0), learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    assert (snd.scale.eta, rate(snd)) == (2.0, [1e-3])
    for remaining in (1.0, 0.75, 0.25, 0.0):
        snd.set_progress(remaining)
        snd.trainer.optimizer.load_state_dict(snd.trainer.optimizer.state_dict())
        assert snd.scale.eta == pytest.approx(2 * remaining) and rate(snd) == [pytest.approx(1e-3 * remaining)]
    snd.set_progress(-0.01)  # SB3's last rollout may be longer than the training
    assert snd.scale.eta == 0 and rate(snd) == [0]
    constant = make(eta=2.0)
    constant.scale.eta = 5.0
    constant.set_progress(0.5)
    assert constant.scale.eta == 5.0  # what is no schedule is left alone


@pytest.mark.parametrize("bad", [lambda _: -1.0, lambda _: np.nan, lambda: 1.0])
def test_bad_schedules(bad):
    with pytest.raises(ValueError, match=r"eta=.* or a function of the remaining progress"):
        make(eta=bad)


def test_entries_of_a_dict_are_joined():
    """Discrete ones one-hot, in the order of the space; trained as an SND of the joined vector is."""
    space = spaces.Dict(a=spaces.Discrete(3), text=spaces.Text(4), b=spaces.Box(-9, 9, (2,)))
    joined, alone = make(space, batch_size=6), make(spaces.Box(-9, 9, (5,)), batch_size=6)
    assert joined.reader.keys == ("a", "b") and joined.frame_shape == (5,)
    rng = np.random.default_rng(0)
    numbers, vectors = rng.integers(3, size=(7, 2)), rng.normal(size=(7, 2, 2)).astype(np.float32)
    plain = np.concatenate([np.eye(3, dtype=np.float32)[numbers], vectors], axis=-1)

    def as_dict(*at):
        return {"a": numbers[at], "b": vectors[at]}

    ends = {3: (1, 0), 8: (4, 1)}
    rollouts = (
        Rollout(as_dict(slice(6)), as_dict(6), {row: as_dict(*at) for row, at in ends.items()}),
        Rollout(plain[:6], plain[6], {row: plain[at] for row, at in ends.items()}),
    )
    for snd, obs, rollout in zip((joined, alone), (as_dict(0), plain[0]), rollouts, strict=True):
        th.manual_seed(1)
        snd.observe(obs)
        snd.trainer.train_on_rollout(rollout)
    assert th.equal(joined.novelty(as_dict(5)), alone.novelty(plain[5]))
    assert th.equal(joined.novelty(joined.select(as_dict(5))), alone.novelty(plain[5]))
