"""
Whatever a user types as an argument ends in a model that trains, or in one sentence that names the argument and its value.

``make test`` draws some hundred values, ``make fuzz`` over ten thousand and says how many.
"""

import collections
import math
import os
from decimal import Decimal
from fractions import Fraction

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_snd import PPOSND, SND, SNDCallback, VecIntrinsicReward
from sb3_snd.common import torch_layers
from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.envs import make_atari_env, make_procgen_env
from sb3_snd.envs.deep_sea import DeepSea
from sb3_snd.rewards import REWARDS
from sb3_snd.targets import TARGETS

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
FUZZ = PROFILE == "fuzz"
COMMON = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("ci", max_examples=8, derandomize=True, **COMMON)
settings.register_profile("fuzz", max_examples=100, **COMMON)
settings.load_profile(PROFILE)
DRAWS = collections.Counter()


@pytest.fixture(autouse=True, scope="module")
def somewhere_else(tmp_path_factory, request):
    """Files that are written by chance lie in a folder of their own; at the end, what was drawn is said."""
    before, widths = os.getcwd(), torch_layers.MLP_WIDTHS
    os.chdir(tmp_path_factory.mktemp("fuzz"))
    torch_layers.MLP_WIDTHS = (8, 8)  # most of the time goes into the initialisation of 256 x 256
    yield
    os.chdir(before)
    torch_layers.MLP_WIDTHS = widths
    if FUZZ:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(DRAWS.items()))
            print(f"\n{DRAWS.total()} draws: {counts}.")


@pytest.fixture(autouse=True)
def one_thread():
    """For nets as small as these."""
    th.set_num_threads(1)


# --- what is drawn ---

NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e-30, 1e30, 1e308, 2**31, 2**32, 2**63, 10**30]),
)
NUMPY = st.sampled_from(
    [np.float32(0.5), np.float64(-1), np.int64(2), np.uint8(4), np.bool_(True), np.float32("nan"), np.str_("a")]
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, NUMPY, st.text("abc 01.\n'é", max_size=5), st.binary(max_size=3))
STRANGE = st.sampled_from(
    [
        object(),
        int,
        dict,
        len,
        lambda: 1,
        lambda _: "a",
        lambda _: math.nan,
        Fraction(1, 2),
        Decimal("0.5"),
        1j,
        ...,
        np.array([1, 2]),
    ]
)
JUNK = st.one_of(
    PLAIN,
    STRANGE,
    st.lists(PLAIN, max_size=3),
    st.tuples(PLAIN),
    st.dictionaries(st.one_of(st.text("abc", max_size=3), st.integers(0, 3)), PLAIN, max_size=2),
)
SCHEDULES = st.one_of(
    st.builds(lambda rate: lambda progress: rate * progress, st.floats(1e-6, 1e-2)),
    st.sampled_from([lambda _: -1.0, lambda _: None, lambda _: math.inf, lambda: 1.0]),
)
WIDTHS = st.lists(st.one_of(st.integers(0, 6), PLAIN), max_size=3)
NET_ARCH = st.one_of(
    WIDTHS, st.dictionaries(st.sampled_from(["pi", "vf", "qf"]), WIDTHS), st.lists(st.dictionaries(st.just("pi"), WIDTHS))
)
MODULES = st.sampled_from(
    [nn.ELU, nn.Tanh, nn.Identity, nn.Linear, nn.GLU, nn.LSTM, nn.Module, nn.Flatten, nn.Softmax, nn.Conv2d, "ReLU"]
)

EPISODIC = st.sampled_from(["counts", "e3b", "ngu", "vic", None])
PPO_ARGUMENTS = {
    "policy": st.sampled_from(
        ["MlpPolicy", "CnnPolicy", "MultiInputPolicy", "MlpLstmPolicy", PPO.policy_aliases["MlpPolicy"]]
    ),
    "env": st.sampled_from(["CartPole-v1", "CartPole-v99", "Pendulum-v1", "no/such-v0", "nopackage:Env-v0"]),
    "snd": st.sampled_from([*TARGETS, *REWARDS, "VIC", SND, nn.Module, None]),
    "episodic": EPISODIC,
    "snd_kwargs": st.dictionaries(
        st.sampled_from(["eta", "device", "target", "self", "width", "n_epochs"]), PLAIN, max_size=2
    ),
    "learning_rate": st.one_of(st.floats(0, 1), SCHEDULES),
    "n_steps": st.integers(1, 12),
    "batch_size": st.integers(1, 12),
    "n_epochs": st.integers(1, 3),
    "gamma": st.floats(0, 1),
    "gamma_int": st.floats(0, 1),
    "gae_lambda": st.floats(0, 1),
    "clip_range": st.one_of(st.floats(0, 2), SCHEDULES),
    "clip_range_vf": st.one_of(st.floats(0, 2), SCHEDULES),
    "normalize_advantage": st.booleans(),
    "ent_coef": st.floats(-1e7, 1e7),
    "vf_coef": st.floats(-1, 1e7),
    "max_grad_norm": st.floats(0, 1e31) | st.just(math.inf),
    "use_sde": st.booleans(),
    "sde_sample_freq": st.integers(-3, 5),
    "target_kl": st.floats(0, 1) | st.just(math.inf),
    "stats_window_size": st.integers(0, 2_000_000),
    "tensorboard_log": st.sampled_from(["logs", "some/where", "", "a\0b"]),
    "policy_kwargs": st.dictionaries(st.sampled_from(["net_arch", "ortho_init", "nothing", 3]), PLAIN, max_size=2),
    "rollout_buffer_class": st.sampled_from([PPO, DummyVecEnv, th.Tensor]),
    "rollout_buffer_kwargs": st.dictionaries(st.sampled_from(["gamma", "gamma_int", "nothing", 3]), PLAIN, max_size=2),
    "verbose": st.integers(0, 3),
    "seed": st.integers(-2, 2**33),
    "device": st.sampled_from(["cpu", "auto", "cuda", "meta", "cpu:0", "mps", "xla", "cuda:99", "nowhere", th.device("cpu")]),
    "ext_coef": st.one_of(st.floats(-1e7, 1e7), SCHEDULES),
    "int_coef": st.one_of(st.floats(-1e7, 1e7), SCHEDULES),
    "intrinsic_episodic": st.booleans(),
    "precision": st.sampled_from([None, "auto", "float32", "bfloat16", "float16"]),
    "cuda_graphs": st.booleans(),
}
SND_ARGUMENTS = {
    "eta": st.one_of(st.floats(0, 1e31), SCHEDULES),
    "learning_rate": st.one_of(st.floats(0, 1.5), SCHEDULES),
    "batch_size": st.integers(1, 9),
    "n_epochs": st.integers(0, 3),
    "obs_key": st.one_of(st.text(max_size=2), st.lists(st.text(max_size=2), max_size=2)),
    "norm_reward": st.booleans(),
    "precision": st.sampled_from(["auto", "float32", "bfloat16", "half"]),
    "features_dim": st.integers(0, 9),
}
WIDE = {"target_width": st.integers(0, 5), "learner_width": st.integers(0, 5)}
TARGET_ARGUMENTS = {
    "vic": {**WIDE, "mean_coef": st.floats(-0.5, 1.5)},
    "std": WIDE,
    "bt": WIDE,
    "vinv": WIDE,
    "v": {"normalize_input": st.booleans(), "noise_probability": st.floats(-0.5, 1.5)},
    "rnd": {"features_dim": st.integers(0, 9)},
}
POLICY_ARGUMENTS = {
    "net_arch": NET_ARCH,
    "activation_fn": MODULES,
    "ortho_init": st.booleans(),
    "log_std_init": st.floats(-12, 12),
    "share_features_extractor": st.booleans(),
    "normalize_images": st.booleans(),
    "squash_output": st.just(False),
    "features_extractor_class": MODULES,
    "features_extractor_kwargs": st.dictionaries(st.sampled_from(["features_dim", "a"]), PLAIN),
    "optimizer_class": st.sampled_from([th.optim.SGD, th.optim.RMSprop, th.optim.LBFGS, nn.Tanh]),
    "optimizer_kwargs": st.dictionaries(st.sampled_from(["eps", "weight_decay", "lr", "params", "a"]), PLAIN, max_size=2),
}
WRAPPER_ARGUMENTS = {
    "venv": st.sampled_from(["CartPole-v1", gym.Env]),
    "snd": st.sampled_from([*TARGETS, *REWARDS, "VIC", SND, nn.Module]),
    "episodic": EPISODIC,
    "snd_kwargs": PPO_ARGUMENTS["snd_kwargs"],
    "ext_coef": st.one_of(st.floats(-1e7, 1e7), SCHEDULES),
    "int_coef": st.one_of(st.floats(-1e7, 1e7), SCHEDULES),
    "device": PPO_ARGUMENTS["device"],
}
CALLBACK_ARGUMENTS = {
    "save_path": st.sampled_from(["nets", "some/where", "a\0b"]),
    "save_freq": st.integers(-2, 5),
    "name_prefix": st.sampled_from(["model", "", "a/b", "a\0b"]),
    "restore": st.sampled_from(["a\0b"]),
    "verbose": st.integers(-1, 3),
}
#: A larger number is allowed, and only slow: it would hold up these tests, and is not drawn
SLOW = {"n_steps": 64, "n_epochs": 8, "features_dim": 64, "width": 16, "target_width": 64, "learner_width": 64, "size": 40}
SLOW |= {"n_envs": 8, "frame_size": 200, "frame_skip": 20, "n_stack": 20, "num_threads": 16, "cnn_output_dim": 64}


def is_slow(name, value):
    """Whether a number lies between what is quick and what is refused."""
    if isinstance(value, dict):
        return any(is_slow(key, inner) for key, inner in value.items())
    if name == "net_arch" and isinstance(value, (list, tuple)):
        return any(isinstance(width, int) and 64 < width < 10**5 for width in value)
    return isinstance(value, (int, np.integer)) and SLOW.get(name, math.inf) < value < 2e6


# --- what comes of it ---


class Walk(gym.Env):
    """Small steps along a line; a vector of three numbers, or an image."""

    def __init__(self, image=False, continuous=False):
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8) if image else spaces.Box(-9, 9, (3,))
        self.action_space = spaces.Box(-1, 1, (1,)) if continuous else spaces.Discrete(2)

    def _obs(self):
        if self.observation_space.dtype == np.uint8:
            return np.full((36, 36, 1), 10 * self.place, np.uint8)
        return np.array([self.place, -self.place, 1], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self._obs(), {}

    def step(self, action):
        self.place += 1
        return self._obs(), 1.0, self.place == 5, False, {}


def walks(**kwargs):
    return DummyVecEnv([lambda: Walk(**kwargs)] * 2)


def train(model):
    """One update, and every weight a number."""
    model.learn(model.n_steps * model.n_envs)
    nets = [model.policy] + ([model.snd] if getattr(model, "snd", None) else [])
    assert all(th.isfinite(parameter).all() for net in nets for parameter in net.parameters())


SIZES = dict(n_steps=4, batch_size=2, n_epochs=1, device="cpu", seed=0)
TINY = dict(features_dim=4)
TINY_NET = dict(net_arch=[4])
TINY_CNN = dict(net_arch=[4], features_extractor_kwargs=dict(features_dim=4, width=4))


def train_ppo(**kwargs):
    if "env" not in kwargs:
        kwargs["env"] = walks(continuous=kwargs.get("use_sde") is True)
    train(PPOSND(**{"policy": "MlpPolicy", "policy_kwargs": TINY_NET, "snd_kwargs": TINY, **SIZES, **kwargs}))


def train_snd(target, image=False, **snd_kwargs):
    policy, net = ("CnnPolicy", TINY_CNN) if image else ("MlpPolicy", TINY_NET)
    snd_kwargs = {
        **TINY,
        **({"target_width": 4, "learner_width": 4} if image and "target_width" in TARGET_ARGUMENTS[target] else {}),
        **snd_kwargs,
    }
    train(PPOSND(policy, walks(image=image), snd=target, snd_kwargs=snd_kwargs, policy_kwargs=net, **SIZES))


def train_policy(image=False, **policy_kwargs):
    policy, net = ("CnnPolicy", TINY_CNN) if image else ("MlpPolicy", TINY_NET)
    snd = dict(snd="rnd", snd_kwargs=TINY)
    train(PPOSND(policy, walks(image=image), policy_kwargs={**net, **policy_kwargs}, **snd, **SIZES))


def step_wrapper(**kwargs):
    venv = kwargs.pop("venv", None)
    env = VecIntrinsicReward(walks() if venv is None else venv, **{"snd_kwargs": TINY, "device": "cpu", **kwargs})
    env.training = True
    env.reset()
    rewards = env.step(np.zeros(2, np.int64))[1]
    assert np.isfinite(rewards).all()
    states, successors = np.zeros((4, 3), np.float32), np.ones((4, 3), np.float32)
    env.snd.trainer.train_on_batch(env.snd.transitions(states, successors, th.zeros(4, dtype=th.int64)))


def train_callback(**kwargs):
    env = VecIntrinsicReward(walks(), "rnd", TINY, device="cpu")
    model = PPO("MlpPolicy", env, policy_kwargs=TINY_NET, **SIZES)
    try:
        model.learn(8, callback=SNDCallback(**{"save_path": "nets", **kwargs}))
    except OSError:  # no such file to restore: it says its name itself
        assert isinstance(kwargs.get("restore"), (str, os.PathLike))
    assert not model.env.training


ALIASES = {
    "policy": ("policy", "Policy"),
    "snd": ("target", "snd"),
    "env_id": ("env_id", "environment", "is not a"),
    "tensorboard_log": ("tensorboard_log",),
    "distribution_mode": ("distribution_mode",),
}
#: arguments that hold others, which a sentence may name instead
HOLDERS = ("snd_kwargs", "policy_kwargs", "rollout_buffer_kwargs", "features_extractor_kwargs", "optimizer_kwargs")


def shown(value):
    """How a sentence may show a value: as it was typed, or as Python's own number."""
    plain = value.item() if isinstance(value, np.generic) else value
    return {repr(value), str(value), repr(plain), getattr(value, "__name__", repr(value))}


def names(message, name, value):
    """Whether a sentence names an argument, or one that it holds, and shows the value."""
    if name in HOLDERS and isinstance(value, dict) and any(names(message, key, inner) for key, inner in value.items()):
        return True
    if name in HOLDERS and isinstance(value, dict) and any(repr(key) in message for key in value):
        return True
    return any(alias in message for alias in ALIASES.get(name, (str(name),))) and any(each in message for each in shown(value))


def attempt(function, arguments, **fixed):
    """A model that trains, or a sentence about one of the arguments; any other error is the test's failure."""
    assume(not any(is_slow(name, value) for name, value in arguments.items()))
    try:
        function(**fixed, **arguments)
    except NonFiniteError as error:
        # Half an allowed rate may be too high for one task: that is told, and no weight is lost in silence
        assert "learning_rate" in arguments and "lower learning_rate" in str(error)
        DRAWS["diverged"] += 1
    except ValueError as error:
        sentence = str(error)
        assert any(names(sentence, name, value) for name, value in arguments.items()), sentence
        assert "\n" not in sentence.replace("\\n", ""), sentence
        assert sentence.endswith((".", "?")) and len(sentence.split()) >= 5, sentence
        DRAWS["refused"] += 1
    else:
        DRAWS["trained"] += 1


def drawn(data, likely):
    """Anything, or, once in two, what is nearly right."""
    return data.draw(likely if data.draw(st.booleans(), label="likely") else JUNK)


def one_at_a_time(table):
    return pytest.mark.parametrize(("name", "likely"), table.items(), ids=table)


quiet = pytest.mark.filterwarnings("ignore::UserWarning")


@quiet
@one_at_a_time(PPO_ARGUMENTS)
@given(data=st.data())
def test_each_argument_of_pposnd(name, likely, data):
    attempt(train_ppo, {name: drawn(data, likely)})


@quiet
@given(data=st.data())
def test_two_arguments_of_pposnd(data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(PPO_ARGUMENTS)), min_size=2, max_size=2, unique=True))
    attempt(train_ppo, {name: drawn(data, PPO_ARGUMENTS[name]) for name in chosen})


@quiet
@one_at_a_time({name: likely for name, likely in PPO_ARGUMENTS.items() if name not in ("snd", "snd_kwargs", "episodic")})
@given(data=st.data())
def test_each_argument_without_snd(name, likely, data):
    attempt(train_ppo, {name: drawn(data, likely)}, snd=None)


@quiet
@pytest.mark.parametrize("target", TARGET_ARGUMENTS)
@given(data=st.data())
def test_arguments_of_snd(target, data):
    table = {**SND_ARGUMENTS, **TARGET_ARGUMENTS[target]}
    chosen = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=2, unique=True))
    attempt(train_snd, {name: drawn(data, table[name]) for name in chosen}, target=target)


@quiet
@pytest.mark.parametrize("target", TARGET_ARGUMENTS)
@given(data=st.data())
def test_arguments_of_snd_for_images(target, data):
    table = {**SND_ARGUMENTS, **TARGET_ARGUMENTS[target]}
    name = data.draw(st.sampled_from(sorted(table)))
    attempt(train_snd, {name: drawn(data, table[name])}, target=target, image=True)


@quiet
@one_at_a_time(POLICY_ARGUMENTS)
@given(data=st.data())
def test_each_argument_of_a_policy(name, likely, data):
    attempt(train_policy, {name: drawn(data, likely)})


@quiet
@given(kwargs=st.dictionaries(st.sampled_from(["features_dim", "width"]), st.integers(0, 5) | JUNK, min_size=1))
def test_widths_of_the_papers_trunk(kwargs):
    attempt(train_policy, {"features_extractor_kwargs": kwargs}, image=True)


@quiet
@one_at_a_time(CALLBACK_ARGUMENTS)
@given(data=st.data())
def test_each_argument_of_the_callback(name, likely, data):
    value = drawn(data, likely)
    assume(name != "save_path" or not isinstance(value, str) or value.isalnum())  # no folders all over the disk
    attempt(train_callback, {name: value})


@quiet
@one_at_a_time(WRAPPER_ARGUMENTS)
@given(data=st.data())
def test_each_argument_of_the_wrapper(name, likely, data):
    attempt(step_wrapper, {name: drawn(data, likely)})


# --- environments ---

ENV_ARGUMENTS = {
    "n_envs": st.integers(-1, 3),
    "seed": st.integers(-2, 2**33),
    "n_stack": st.integers(-1, 5),
    "num_threads": st.integers(-1, 4),
}
ATARI_ARGUMENTS = {
    **ENV_ARGUMENTS,
    "env_id": st.sampled_from(["PongNoFrameskip-v4", "pong", "CartPole-v1", ""]),
    "frame_size": st.integers(30, 60),
    "frame_skip": st.integers(-1, 6),
    "max_episode_steps": st.integers(-1, 2_000_000),
    "repeat_action_probability": st.floats(-0.5, 1.5),
    "reward": st.sampled_from(["positive", "sign", "raw", "clip"]),
}
PROCGEN_ARGUMENTS = {
    **ENV_ARGUMENTS,
    "env_id": st.sampled_from(["procgen-maze-v0", "procgen-mase-v0", "CartPole-v1", ""]),
    "distribution_mode": st.sampled_from(["easy", "hard", "extreme", "memory", "exploration", "medium"]),
    "random_action_probability": st.floats(-0.5, 1.5),
    "render_mode": st.sampled_from(["rgb_array", "human"]),
    "num_levels": st.integers(-1, 2**32),
    "start_level": st.integers(-1, 2**32),
    "use_backgrounds": st.booleans(),
    "debug_mode": st.integers(-1, 3),
}


def play(make, **kwargs):
    env = make(**kwargs)
    try:
        assert np.asarray(env.reset()).shape == (env.num_envs, *env.observation_space.shape)
        env.step(np.zeros(env.num_envs, np.int64))
    finally:
        env.close()


def play_deep_sea(**kwargs):
    env = DeepSea(**kwargs)
    assert env.reset()[0].sum() == 1 and env.step(0)[0].shape == env.observation_space.shape


@one_at_a_time(ATARI_ARGUMENTS)
@given(data=st.data())
def test_each_argument_of_atari(name, likely, data):
    defaults = dict(env_id="BreakoutNoFrameskip-v4", n_envs=2, seed=0, num_threads=1)
    value = drawn(data, likely)
    attempt(lambda **kwargs: play(make_atari_env, **{**defaults, **kwargs}), {name: value})


@pytest.mark.procgen
@one_at_a_time(PROCGEN_ARGUMENTS)
@given(data=st.data())
def test_each_argument_of_procgen(name, likely, data):
    defaults = dict(env_id="procgen-coinrun-v0", n_envs=2, seed=0, num_threads=1)
    value = drawn(data, likely)
    attempt(lambda **kwargs: play(make_procgen_env, **{**defaults, **kwargs}), {name: value})


@given(size=st.integers(-2, 30) | JUNK)
def test_size_of_deep_sea(size):
    attempt(play_deep_sea, {"size": size})


# --- where the borders are ---

TAKEN = [
    *(dict(learning_rate=value) for value in (0, 1e-12, 1, np.float32(0.5), lambda progress: 1e-3 * (1 - progress))),
    *(dict(n_steps=value) for value in (1, np.int64(6))),
    *(dict(gamma=value, gamma_int=value) for value in (0, 0.0, 5e-324, 1, np.float32(0.5))),
    *(dict(gae_lambda=value) for value in (0, 1, 0.5)),
    *(dict(clip_range=value) for value in (0, 1e-9, 1e18, math.inf, lambda _: 0.1, lambda _: math.inf)),
    *(dict(clip_range_vf=value) for value in (None, 0.2, math.inf, lambda _: 0.1)),
    *(dict(ent_coef=value, ext_coef=value, int_coef=value) for value in (-1e6, 0, 1e6)),
    *(dict(vf_coef=value) for value in (0, 1e6)),
    *(dict(max_grad_norm=value) for value in (1e-9, 10**18, math.inf, np.float32("inf"))),
    *(dict(target_kl=value) for value in (None, 1e-9, math.inf)),
    *(dict(seed=value) for value in (None, 0, 2**32 - 1)),
    *(dict(verbose=value) for value in (0, True)),
    *(dict(batch_size=value, snd=None, normalize_advantage=False) for value in (1, 3, 10**30)),
    *(dict(snd_kwargs=dict(TINY, eta=value)) for value in (0, 10**18, lambda progress: progress)),
    *(dict(ext_coef=value, int_coef=value) for value in (lambda progress: progress, lambda _: -1)),
    *(dict(batch_size=5, n_steps=3, snd_kwargs=dict(TINY, batch_size=value)) for value in (4, 5, 512)),
    dict(snd_kwargs=None, snd="rnd"),
    dict(sde_sample_freq=0, use_sde=True),
    dict(policy_kwargs=dict(net_arch=[])),
    dict(policy_kwargs=dict(net_arch=dict(vf=[3]))),
]
BAD_NUMBERS = (None, "0.1", "lin_0.1", math.nan, -math.inf, True, [0.1], b"1", {}, 10**400)
REFUSED = {
    "learning_rate": (*BAD_NUMBERS, -1, 1.1, math.inf, lambda _: -1, lambda _: math.nan, lambda: 1, dict, lambda _: "a"),
    "n_steps": (*BAD_NUMBERS, 0, -1, 2.0, 10**9),
    "batch_size": (*BAD_NUMBERS[:-1], 0, -1, 2.0, 1),
    "n_epochs": (*BAD_NUMBERS, 0, -1, 2.0, 10**9),
    "gamma": (*BAD_NUMBERS, -1, -5e-324, 1.01, math.inf),
    "gamma_int": (*BAD_NUMBERS, -1, -5e-324, 1.01, math.inf),
    "gae_lambda": (*BAD_NUMBERS, -0.01, 1.01, math.inf),
    "clip_range": (*BAD_NUMBERS, -0.1, lambda _: -1),
    "clip_range_vf": (*BAD_NUMBERS[1:], 0, -0.1, lambda _: math.nan),
    "normalize_advantage": (1, 0, "yes", []),
    "ent_coef": (*BAD_NUMBERS, math.inf, 2e6),
    "vf_coef": (*BAD_NUMBERS, -0.1, math.inf, 2e6),
    "max_grad_norm": (*BAD_NUMBERS, 0, -1),
    "use_sde": (1, "no", None),
    "sde_sample_freq": (*BAD_NUMBERS[:-1], -2, 1.0),
    "target_kl": (*BAD_NUMBERS[1:], 0, -1),
    "stats_window_size": (*BAD_NUMBERS, 0, 1.0, 2**63),
    "tensorboard_log": (3, b"logs", True, [], "a\0b"),
    "verbose": (None, -1, 3, 1.0, "1"),
    "seed": ("1", -1, 2**32, 1.0, True, math.nan),
    "device": (None, 0, "meta", "nowhere", "", True, object()),
    "policy": (None, 3, "MlpPolic", "", [], {}, nn.Module, PPO.policy_aliases["MlpPolicy"]),
    "env": (3, None, "CartPole-v99", "nopackage:Env-v0", [], b"CartPole-v1"),
    "snd": (3, "VIC", "", [], {}, nn.Module, b"vic", True),
    "episodic": ("vic", "", 3, [], b"e3b", True),
    "snd_kwargs": (3, "eta", [1], {1: 2}, {"device": "cpu"}, {"observation_space": None}, {"nothing": 1}),
    "ext_coef": (*BAD_NUMBERS, math.inf, -2e6, lambda _: math.nan, lambda: 1, dict),
    "int_coef": (*BAD_NUMBERS, math.inf, -2e6, lambda _: 2e6, lambda _: "a"),
    "intrinsic_episodic": (1, None, "yes"),
    "cuda_graphs": (1, None, "yes"),
    "precision": ("float16", 32, [], True),
    "policy_kwargs": (3, [1], {"nothing": 1}, {"net_arch": [0]}, {"net_arch": {"pi": [4], "qf": [4]}}, {"net_arch": [10**9]}),
    "rollout_buffer_class": (3, nn.Module, PPO, "StreamRolloutBuffer"),
    "rollout_buffer_kwargs": ({"gamma": 0.5}, {"gamma_int": 0.5}, {"nothing": 1}, [1], 3),
}


@quiet
@pytest.mark.parametrize("arguments", TAKEN, ids=lambda arguments: " ".join(arguments))
def test_values_that_are_taken(arguments):
    train_ppo(**arguments)


@quiet
@pytest.mark.parametrize("name", REFUSED)
def test_values_that_are_refused(name):
    """Each in a sentence that names it."""
    for value in REFUSED[name]:
        with pytest.raises(ValueError) as error:
            train_ppo(**{name: value})
        sentence = str(error.value)
        assert names(sentence, name, value), (value, sentence)
        assert "\n" not in sentence and any(word in sentence for word in ("must", "known", "takes", "needs")), sentence


def test_no_argument_is_forgotten():
    """PPO's and ours, as their constructors have them."""
    import inspect

    taken = {name for cls in (PPO, PPOSND) for name in inspect.signature(cls).parameters} - {"kwargs", "_init_setup_model"}
    assert taken == set(PPO_ARGUMENTS)
    assert taken - set(REFUSED) == set()
    snd = set(inspect.signature(SND).parameters) - {"observation_space", "target", "device", "target_kwargs"}
    assert snd - {"action_space"} == set(SND_ARGUMENTS) - {"features_dim"}
    assert set(inspect.signature(VecIntrinsicReward).parameters) == set(WRAPPER_ARGUMENTS)
    for target, arguments in TARGET_ARGUMENTS.items():
        known = inspect.signature(TARGETS[target]).parameters
        assert set(known) - {"frame_shape", "action_space"} == {*arguments, "features_dim"}
    assert set(TARGET_ARGUMENTS) == set(TARGETS)
