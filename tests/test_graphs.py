"""Recorded calls, on a CPU: PyTorch's tracer stands for the CUDA graph. It keeps the operations on their memory and
nothing of the Python around them, bakes numbers of the host in, and fails where the host would read a tensor."""

import copy
import functools
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import CountingEnv
from gymnasium import spaces
from rounding import assert_same, calm, copies
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_snd import PPOSND, SND
from sb3_snd.common import check_nan, cuda_graphs
from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.common.cuda_graphs import MAX_SHAPES, WARM_UP, Replay
from sb3_snd.ppo_snd.policies import CnnPolicy
from sb3_snd.rewards.rollout import Rollout
from sb3_snd.targets import TARGETS

pytestmark = [pytest.mark.numbers, pytest.mark.filterwarnings("ignore:cuda_graphs=True")]
IMAGES = dict(n_steps=8, batch_size=8, n_epochs=2, seed=0, device="cpu", precision="float32")
SMALL = 32  # size of the features: the number of operations counts here, not their size


@pytest.fixture
def recordings(monkeypatch):
    """Recording on the CPU; a list of what was recorded."""
    recorded = []

    def record(function, inputs, _):
        results = []

        def once(*arguments):
            results.append(function(*arguments))
            return results[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(check_nan, "is_recording", lambda: True)
            traced = make_fx(once)(*inputs)  # which executes it, as a real recording would not
        recorded.append(traced)
        return th.no_grad()(lambda: results.pop() if results else traced(*inputs))

    monkeypatch.setattr(cuda_graphs, "can_record", lambda _: True)
    monkeypatch.setattr(cuda_graphs, "make_stream", lambda _: None)
    monkeypatch.setattr(cuda_graphs, "warm_up", lambda function, inputs, _: function(*inputs))
    monkeypatch.setattr(cuda_graphs, "record", record)
    return recorded


def image_env():
    venv = DummyVecEnv([lambda n=n: CountingEnv(n, length=3 + n, truncated=n == 1, image=True) for n in range(4)])
    return VecFrameStack(venv, 2)


def train(cuda_graphs, snd="vic", steps=4 * 8 * 2, policy="CnnPolicy", env=None, stock=False, **kwargs):
    """With ``stock`` by SB3's own update."""
    settings = {**IMAGES, **kwargs}
    if snd is not None:
        settings["snd_kwargs"] = {"features_dim": SMALL, "batch_size": 8, **settings.get("snd_kwargs", {})}
    if policy == "CnnPolicy":
        settings["policy_kwargs"] = dict(features_extractor_kwargs=dict(features_dim=SMALL, width=SMALL))
    model = PPOSND(policy, env or image_env(), snd=snd, cuda_graphs=cuda_graphs, **settings)
    if stock:
        model._update.train = functools.partial(PPO.train, model)
    return prepared(model).learn(steps)


def prepared(model):
    """With Adams that are calm, and weights that are remembered."""
    for part in (model.policy, model.snd and model.snd.trainer):
        if part is not None:
            calm(part.optimizer)
    model.before = parameters(model)
    return model


def parameters(model):
    return copies(model.policy) + ([] if model.snd is None else copies(model.snd))


def statistics(model):
    return [] if model.snd is None else list(model.snd.buffers())


def test_a_call_is_recorded_after_its_warm_up(recordings):
    calls = []
    state = th.zeros(2)

    def function(numbers):
        calls.append(len(numbers))
        state.add_(numbers.sum())
        return (state * 2,)

    replay = Replay(function, lambda: [state])
    results = [replay(th.full((3,), float(n)))[0] for n in range(WARM_UP + 3)]  # 3 * (0 + 1 + ... + n) * 2
    assert [result.tolist() for result in results] == [[3.0 * n * (n + 1)] * 2 for n in range(WARM_UP + 3)]
    assert len(calls) == WARM_UP + 1 and len(recordings) == 1


def test_two_shapes_are_recorded_and_others_run_as_they_are(recordings):
    replay = Replay(lambda numbers: (numbers.square(),), list)
    for call in range(WARM_UP + 3):
        for n in (3, 5, 7):
            assert replay(th.full((n,), float(call)))[0].tolist() == [call**2] * n
    assert len(recordings) == MAX_SHAPES == 2 and replay.is_recorded


def test_what_has_moved_is_recorded_anew(recordings):
    held = {"state": th.zeros(1), "factor": 0.0}
    replay = Replay(lambda numbers: (numbers * held["factor"] + held["state"],), lambda: held.values())
    for value, factor in ((1.0, 1.0), (2.0, 1.0), (2.0, 3.0)):
        if held["state"].item() != value:
            held["state"] = th.full((1,), value)
        held["factor"] = factor
        replay.check()
        for _ in range(WARM_UP + 2):
            assert replay(th.ones(1))[0].item() == factor + value
        replay.check()
        assert replay.is_recorded
    assert len(recordings) == 3


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(recordings, monkeypatch):
    probed = []
    monkeypatch.setattr(cuda_graphs, "check_random_numbers", probed.append)
    replay = Replay(lambda numbers: (numbers * numbers.sum().item(),), list)
    for _ in range(WARM_UP):
        replay(th.ones(2))
    with pytest.warns(
        UserWarning, match=r"failed \(It appears that you're trying to get value.*\): continuing without cuda_graphs\."
    ):
        assert replay(th.ones(2))[0].tolist() == [2.0, 2.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replay(th.ones(3))[0].tolist() == [9.0 / 3] * 3
    assert recordings == [] and probed == [th.device("cpu")]


def test_where_a_failed_recording_left_the_device_unfit_one_sentence_says_what_to_do(recordings, monkeypatch):
    def unfit(_):
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    monkeypatch.setattr(cuda_graphs, "check_random_numbers", unfit)
    replay = Replay(lambda numbers: (numbers * numbers.sum().item(),), list)
    for _ in range(WARM_UP):
        replay(th.ones(2))
    with pytest.raises(RuntimeError, match=r"Capturing a CUDA graph failed \(It appears .*\): set cuda_graphs=False\."):
        replay(th.ones(2))
    assert recordings == []


UPDATES = {
    "two streams": {},
    "plain PPO": dict(snd=None),
    "value clipping, normalised advantages": dict(clip_range_vf=0.1, normalize_advantage=True),
    "schedules": dict(learning_rate=lambda left: 1e-3 * left + 1e-4, clip_range=lambda left: 0.3 * left + 0.05),
}


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("kwargs", UPDATES.values(), ids=UPDATES)
def test_update_on_the_device_is_that_of_sb3(kwargs, cuda_graphs):
    stock, ours = train(cuda_graphs, stock=True, **kwargs), train(cuda_graphs, **kwargs)
    assert_same(stock.before, parameters(stock), parameters(ours))
    th.testing.assert_close(statistics(stock), statistics(ours))
    logged = {key: value for key, value in stock.logger.name_to_value.items() if "train/" in key}
    assert len(logged) >= 9
    for key, value in logged.items():
        assert ours.logger.name_to_value[key] == pytest.approx(value, rel=1e-3, abs=1e-6), key


class Noisy(gym.Env):
    """Random observations and rewards."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(np.sum(action) % 3), False, False, {}


DICT = spaces.Dict(image=spaces.Box(0, 255, (3, 36, 36), np.uint8), vector=spaces.Box(-1, 1, (3,)))


@pytest.mark.parametrize("action_space", [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3), spaces.Box(-1, 1, (2,))])
def test_update_of_other_actions_and_of_dicts(action_space):
    models = []
    for stock in (True, False):
        env = DummyVecEnv([lambda: Noisy(DICT, action_space)] * 2)
        env.seed(0)
        snd_kwargs = dict(obs_key="image")
        models.append(train(False, stock=stock, policy="MultiInputPolicy", env=env, snd_kwargs=snd_kwargs, steps=2 * 8 * 2))
    assert_same(models[0].before, *map(parameters, models))


def test_update_of_continuous_actions_and_of_a_last_small_minibatch():
    settings = dict(policy="MlpPolicy", env="Pendulum-v1", snd=None, batch_size=24, n_steps=64, n_epochs=2, steps=128)
    stock, ours = train(False, stock=True, **settings), train(False, **settings)
    assert_same(stock.before, parameters(stock), parameters(ours))
    assert all(map(th.equal, parameters(stock), parameters(ours)))
    assert ours.logger.name_to_value["train/std"] == pytest.approx(stock.logger.name_to_value["train/std"], rel=1e-6)


@pytest.mark.parametrize("snd", [*TARGETS, None])
def test_recorded_updates_are_the_same(snd, recordings, monkeypatch):
    """With episodes that end within minibatches, and rates that fall from rollout to rollout."""
    settings = dict(
        snd=snd, learning_rate=lambda left: 1e-3 * left + 1e-4, clip_range=lambda left: 0.3 * left + 0.05, steps=4 * 8 * 3
    )
    recorded = train(True, **settings)
    assert len(recordings) == (2 if snd is None else 3)  # acting, both updates
    monkeypatch.setattr(cuda_graphs, "can_record", lambda _: False)
    plain = train(True, **settings)
    assert_same(plain.before, parameters(recorded), parameters(plain))
    th.testing.assert_close(statistics(recorded), statistics(plain))
    assert [group["lr"] for group in recorded.policy.optimizer.param_groups] == [1e-4]  # a number again, the last one
    assert not any(group["capturable"] for group in recorded.policy.optimizer.param_groups)


def test_a_loaded_optimizer_is_recorded_anew(recordings, tmp_path):
    model = train(True)
    n_recorded = len(recordings)
    model.save(tmp_path / "model")
    model.set_parameters(tmp_path / "model")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(4 * 8 * 2)
    assert len(recordings) == n_recorded + 2  # both updates; acting has kept its memory
    assert all(not th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    loaded = PPOSND.load(tmp_path / "model", env=image_env())
    assert loaded.cuda_graphs and loaded.snd.trainer.fixed_shapes
    loaded.learn(8 * 4)


def test_changed_settings_are_recorded_anew(recordings):
    """A callback that anneals the weight of the entropy, as is common with SB3."""

    class Annealing(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.ent_coef = 0.5 if self.num_timesteps > 4 * 8 else 0.0

    models = []
    for records in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not records:
                patch.setattr(cuda_graphs, "can_record", lambda _: False)
            model = PPOSND("CnnPolicy", image_env(), snd=None, cuda_graphs=True, **IMAGES)
            models.append(prepared(model).learn(4 * 8 * 2, callback=Annealing()))
    assert len(recordings) == 3  # acting, and the update twice
    assert_same(models[0].before, *map(parameters, models))


def test_an_update_that_is_not_finite_ends_in_one_sentence():
    model = PPOSND("CnnPolicy", image_env(), snd=None, cuda_graphs=True, **IMAGES)
    model.learn(4 * 8)
    model.rollout_buffer.returns[:] = np.nan
    with pytest.raises(ValueError, match="PPO's 'value_loss' is nan: lower learning_rate"):
        model.train()


def cusp(frames, weight):
    """0 for all frames; its derivative is no number for white ones, as the root has none at 0."""
    return 0 * ((255 - frames.float().amax()) * weight).sqrt()


class CuspPolicy(CnnPolicy):
    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values + cusp(obs, self.value_net.weight.square().mean()), log_prob, entropy


class CuspTarget(TARGETS["vic"]):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        terms["loss"] = terms["loss"] + cusp(255 * batch.frames, terms["distill"])
        return terms


def overflow(model, part):
    """
    An update whose last minibatch has a finite loss and a gradient that is no number.

    :return: the error, and whether policy and SND are as before
    """
    nets = {"policy": model.policy, "snd": model.snd}
    before = {name: [value.clone() for value in net.state_dict().values()] for name, net in nets.items()}
    if part == "policy":
        model.rollout_buffer.store._frames.fill_(255)
        call = model.train
    else:
        rollout = model._rollout()
        rollout.observations[-1] = 255

        def call():
            model.snd.trainer.train_on_rollout(rollout)

    with pytest.raises(NonFiniteError) as caught:
        call()
    same = {name: all(map(th.equal, before[name], net.state_dict().values())) for name, net in nets.items()}
    return caught.value, same[part]


def make_cusp(part, policy=CuspPolicy, **kwargs):
    parts = {"policy": dict(policy=policy), "snd": dict(policy="CnnPolicy", snd=CuspTarget)}[part]
    kwargs = {**parts, **kwargs}
    small = dict(features_extractor_kwargs=dict(features_dim=8, width=4))
    kwargs["policy_kwargs"] = {**small, **kwargs.get("policy_kwargs", {})}
    snd_kwargs = dict(batch_size=16, features_dim=8, target_width=4, learner_width=4)
    sizes = dict(n_steps=4, batch_size=16, n_epochs=1, steps=4 * 4 * (WARM_UP + 1))
    return train(True, snd_kwargs=snd_kwargs, **{**sizes, **kwargs})


@pytest.mark.parametrize("part", ["policy", "snd"])
def test_a_gradient_that_overflows_in_a_recorded_update_is_seen_at_its_end(part, recordings):
    model = make_cusp(part)
    assert len(recordings) == 3
    error, same = overflow(model, part)
    owner = {"policy": "PPO", "snd": "SND"}[part]
    assert str(error).startswith(f"{owner}'s 'gradient_norm' is nan: lower learning_rate") and error.poisoned and not same
    assert "snd/gradient_norm" not in model.logger.name_to_value


@pytest.mark.usefixtures("recordings")
def test_nets_that_a_recorded_update_has_poisoned_are_told_by_one_that_is_not():
    """Minibatches of 7, 7 and 2: in the third rollout the first is replayed and the last one still warms up."""
    model = make_cusp("policy", snd=None, batch_size=7, steps=2 * 4 * 4)
    model.rollout_buffer.store._frames.fill_(255)
    with pytest.raises(NonFiniteError, match="PPO's 'entropy_loss' is nan") as caught:
        model.train()
    assert caught.value.poisoned


def no_recording(patch):
    patch.setattr(cuda_graphs, "can_record", lambda _: False)


def failing_recording(patch):
    def record(*_):
        raise RuntimeError("no")

    patch.setattr(cuda_graphs, "record", record)


class Sgd(th.optim.SGD):
    """Not fused."""

    def __init__(self, parameters, lr, **_):
        super().__init__(parameters, lr)


@pytest.mark.parametrize("part", ["policy", "snd"])
@pytest.mark.parametrize("why", [no_recording, failing_recording, "not fused", "warming up"])
@pytest.mark.usefixtures("recordings")
def test_where_nothing_is_recorded_a_gradient_that_overflows_changes_nothing(why, part, monkeypatch):
    """On a CPU, where the recording fails, for other optimisers, and in the first updates."""
    kwargs = {}
    if callable(why):
        why(monkeypatch)
    elif why == "not fused":
        if part == "snd":
            monkeypatch.setattr("sb3_snd.rewards.training.th.optim.Adam", Sgd)
        kwargs["policy_kwargs"] = dict(optimizer_class=Sgd)
    else:
        monkeypatch.setattr(cuda_graphs, "WARM_UP", 99)
    model = make_cusp(part, **kwargs)
    error, same = overflow(model, part)
    owner = {"policy": "PPO", "snd": "SND"}[part]
    assert f"the gradient of {owner}'s loss in" in str(error) and not error.poisoned and same


def test_nothing_of_the_update_stays_in_the_policy():
    """A callback may copy the policy while the next rollout runs."""
    model = train(True, steps=4 * 8)
    copied = copy.deepcopy(model.policy)
    assert all(th.equal(a, b) for a, b in zip(copied.parameters(), model.policy.parameters(), strict=True))


@pytest.mark.parametrize("target", TARGETS)
def test_spare_frames_change_nothing(target):
    """Rows by hand: steps 2 and 5 end episodes of environment 1."""
    env = image_env()
    frames = th.randint(0, 255, (8, 4, 1, 36, 36), dtype=th.uint8, generator=th.Generator().manual_seed(0))
    ends = {2 * 4 + 1: frames[0, 0].numpy(), 5 * 4 + 1: frames[0, 1].numpy()}
    rollout = Rollout(frames, frames[0], ends, np.arange(32).reshape(8, 4) % 3)
    nets = []
    for fixed_shapes in (False, True):
        th.manual_seed(1)
        snd = SND(env.observation_space, target, batch_size=8, device="cpu", action_space=env.action_space)
        snd.trainer.fixed_shapes = fixed_shapes
        calm(snd.trainer.optimizer)
        before = copies(snd)
        assert {len(batch.frames) for batch in snd.trainer.minibatches(rollout)} == ({28} if fixed_shapes else {12, 13})
        th.manual_seed(2)
        snd.trainer.train_on_rollout(rollout)
        nets.append(copies(snd))
    assert_same(before, *nets)


def test_early_stopping_is_refused():
    with pytest.raises(ValueError, match=r"target_kl=0.1 cannot be used with cuda_graphs=True"):
        train(True, target_kl=0.1)
    with pytest.raises(ValueError, match="StreamRolloutBuffer"):
        train(True, rollout_buffer_class=PPO)


def test_where_there_are_none_one_sentence_says_so():
    with pytest.warns(UserWarning, match="cuda_graphs=True is ignored: cpu has no CUDA graphs.") as warned:
        train(True, steps=4 * 8)
    assert len([warning for warning in warned if "cuda_graphs" in str(warning.message)]) == 1
