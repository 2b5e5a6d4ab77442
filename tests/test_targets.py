"""The registry, and the conformance test: it passes the package's own models and finds each flaw."""

import pytest
import torch as th
from gymnasium import spaces

from sb3_snd import SND
from sb3_snd.targets import TARGETS, Target, VICTarget, VINVTarget, check_target, register

pytestmark = pytest.mark.numbers


class Mean(Target):
    """The smallest own target: it is trained to give features near 1."""

    convs = learner_convs = ()

    def loss(self, batch, learner):
        z = self(batch.states)
        distill = (learner(batch.states) - z.detach()).square().mean()
        target = (z - 1).square().mean()
        return {"loss": distill + target, "distill": distill, "target": target, "features": z.detach()}


@pytest.fixture
def registry():
    before = dict(TARGETS)
    yield
    TARGETS.clear()
    TARGETS.update(before)


@pytest.mark.usefixtures("registry")
def test_registered_names_work_everywhere():
    register("mean", Mean)
    register("mean", Mean)  # a module that is imported twice
    assert type(SND(spaces.Box(-1, 1, (3,)), "mean", device="cpu").target) is Mean
    with pytest.raises(ValueError, match="'vic' already stands for VICTarget"):
        register("vic", Mean)
    with pytest.raises(ValueError, match=r"must be a subclass of sb3_snd\.targets\.Target"):
        register("list", list)


@pytest.mark.parametrize("target", [*TARGETS.values(), Mean])
def test_sound_models_pass(target):
    state = th.get_rng_state()
    check_target(target)
    assert th.equal(th.get_rng_state(), state)  # the caller's random numbers stay


@pytest.mark.parametrize(
    "action_space",
    [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2, 2))],
    ids=lambda space: type(space).__name__,
)
def test_a_target_that_reads_actions_takes_all_of_them(action_space):
    check_target(VINVTarget, [(5,)], action_space, features_dim=8)


def test_a_target_that_reads_actions_needs_their_space():
    with pytest.raises(ValueError, match=r"VINVTarget reads actions: give it action_space=env\.action_space"):
        SND(spaces.Box(-1, 1, (3,)), "vinv", device="cpu")


def test_arguments_reach_the_class():
    check_target(VICTarget, [(3, 40, 36)], features_dim=8, target_width=4)
    with pytest.raises(TypeError, match="width"):
        check_target(VICTarget, width=3)
    with pytest.raises(TypeError, match="not a subclass"):
        check_target(dict)


class WrongFeatures(Mean):
    def forward(self, frames):
        return super().forward(frames)[:, :-1]


class WrongNovelty(Mean):
    def novelty(self, prediction, features):
        return (prediction - features).square()


class NegativeNovelty(Mean):
    def novelty(self, prediction, features):
        return (prediction - features).mean(dim=1) - 99


class BatchNovelty(Mean):
    def novelty(self, prediction, features):
        return (prediction - features + features.mean(dim=0)).square().mean(dim=1)


class NoDistill(Mean):
    def loss(self, batch, learner):
        return {name: term for name, term in super().loss(batch, learner).items() if name != "distill"}


class NoDistillation(Mean):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        return {**terms, "loss": terms["target"]}


class NoTensor(Mean):
    def loss(self, batch, learner):
        return {**super().loss(batch, learner), "extra": 0.5}


class NoScalar(Mean):
    def loss(self, batch, learner):
        return {**super().loss(batch, learner), "extra": th.zeros(2)}


class Leaky(Mean):
    def loss(self, batch, learner):
        z = self(batch.states)
        distill = (learner(batch.states) - z).square().mean()
        return {"loss": distill, "distill": distill, "features": z.detach()}


class Backwards(Mean):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        terms["target"] = (self(batch.states) - learner(batch.states)).square().mean()
        return terms


class Untrained(Mean):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        return {**terms, "target": terms["target"].detach()}


class DividesBySpread(Mean):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        z = self(batch.states)
        return {**terms, "loss": terms["loss"] + (z / z.std(dim=0)).mean()}


class Forgetful(Mean):
    """A running mean that is no buffer."""

    seen = 0.0

    def update_statistics(self, frames):
        self.seen = 0.9 * self.seen + 0.1 * frames.mean()

    def preprocess(self, frames):
        return frames - self.seen


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (WrongFeatures, r"forward gave \(4, 511\), not \(n, features_dim\)"),
        (WrongNovelty, r"novelty gave \(4, 512\), not \(n,\)"),
        (NegativeNovelty, "novelty must be finite and >= 0"),
        (BatchNovelty, "depends on the other frames of its batch"),
        (NoDistill, "loss gave no 'distill'"),
        (NoDistillation, "'loss', which is minimised, does not train the learner"),
        (NoTensor, "the loss's term 'extra' is not a scalar"),
        (NoScalar, "the loss's term 'extra' is not a scalar"),
        (Leaky, "'distill' reaches the target's weights: detach its features"),
        (Backwards, "'target' reaches the learner's weights"),
        (Untrained, "'target' does not train the target"),
        (DividesBySpread, "training on constant frames gave weights that are not finite"),
        (Forgetful, "novelty differs after a round trip through state_dict"),
    ],
)
def test_each_flaw_is_named(target, sentence):
    with pytest.raises(ValueError, match=rf"^{target.__name__} with frames of shape \(1, 36, 40\): .*{sentence}"):
        check_target(target)


def test_who_keeps_statistics():
    """Whoever updates them, in a class of its own or of a parent."""

    class Child(Forgetful):
        pass

    classes = (*TARGETS.values(), Mean, Forgetful, Child)
    spaces_read = {True: {"action_space": spaces.Discrete(2)}, False: {}}
    kept = {cls: cls((5,), **spaces_read[cls.reads_actions]).keeps_statistics for cls in classes}
    assert {cls for cls, keeps in kept.items() if keeps} == {TARGETS["rnd"], Forgetful, Child}
    assert TARGETS["v"]((1, 36, 36), normalize_input=True).keeps_statistics
