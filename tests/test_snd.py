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


def test_newest_frame_of_every_layout():
    """An RGB stack or a grey stack, channels first or last, gives the same newest frame."""
    rng = np.random.default_rng(0)
    for channels, stack in ((1, 4), (3, 2), (1, 1), (3, 1)):
        first = rng.integers(0, 256, (2, channels * stack, 40, 44), dtype=np.uint8)
        expected = first[:, -channels:] / np.float32(255)
        for obs in (first, first.transpose(0, 2, 3, 1)):
            snd = make(spaces.Box(0, 255, obs.shape[1:], np.uint8))
            assert snd.frame_shape == (channels, 40, 44)
            np.testing.assert_allclose(snd._frames(obs), expected, rtol=1e-6)
            np.testing.assert_allclose(snd._frames(first), expected, rtol=1e-6)


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
        (dict(target_width=-3), "target_width=-3 must be a whole number"),
        (dict(width=3), "Unknown SND argument 'width': VICTarget takes eta, .*target_width"),
        (dict(space=spaces.Discrete(3)), "SND cannot read Discrete"),
        (dict(space=spaces.Dict(a=VECTOR)), "SND cannot read Dict"),
        (dict(space=spaces.Box(0, 1, (3, 3))), "SND cannot read Box"),
        (dict(space=spaces.Box(0, 255, (20, 40, 3), np.uint8)), "20 x 40 pixels are smaller"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_numpy_numbers_are_numbers():
    snd = make(eta=np.float32(0.5), batch_size=np.int64(8), learning_rate=np.float64(1e-3))
    assert (snd.eta, snd.batch_size) == (0.5, 8)


def test_wrong_observation_shape():
    with pytest.raises(ValueError, match=r"Expected observations of shape \(n, 4\)"):
        make().novelty(np.zeros((2, 5), dtype=np.float32))
    with pytest.raises(ValueError, match="frames of shape"):
        make(GREY_STACK).novelty(np.zeros((2, 4, 50, 50), dtype=np.uint8))


def test_rollout_must_divide_into_minibatches():
    obs = random_obs(VECTOR, 12).reshape(3, 4, 4)
    with pytest.raises(ValueError, match=r"batch_size=8 does not divide the rollout of 12 .*: 6 would"):
        make(batch_size=8).train_on_rollout(Rollout(obs, obs[0], {}))


def test_fake_environment_counts():
    """The other tests stand on it."""
    env = CountingEnv(3, length=2, truncated=True)
    assert env.reset()[0].tolist() == [3, 0]
    obs, reward, terminated, truncated, _ = env.step(0)
    assert (obs.tolist(), reward, terminated, truncated) == ([3, 1], 30.0, False, False)
    assert env.step(0)[2:4] == (False, True)
