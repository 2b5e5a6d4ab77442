"""What Stable-Baselines3 promises of PPO holds for ``PPOSND``, and for PPO with this package's wrapper and callback."""

import copy
import io
import pathlib

import cloudpickle
import numpy as np
import pytest
import torch as th
from fakes import AnyEnv, counting
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize, unwrap_vec_wrapper

from sb3_snd import PPOSND, SND, SNDCallback, VecIntrinsicReward
from sb3_snd.targets import TARGETS

SIZES = dict(n_steps=8, batch_size=8, n_epochs=1, device="cpu", seed=0)
SMALL = dict(features_dim=8, batch_size=8)
N_ROLLOUT = 16  # 8 steps of 2 environments


def any_env(*args, n_envs=2):
    return DummyVecEnv([lambda: AnyEnv(*copy.deepcopy(args))] * n_envs)


def two_streams(env=None, policy="MlpPolicy", snd_kwargs=SMALL, **kwargs):
    return PPOSND(policy, env or counting(), snd_kwargs=snd_kwargs, **{**SIZES, **kwargs})


def bonus(env=None, policy="MlpPolicy", snd_kwargs=SMALL, **kwargs):
    kwargs = {**SIZES, **kwargs}
    if kwargs["seed"] is not None:
        th.manual_seed(kwargs["seed"])  # the nets are made before the model
    return PPO(policy, VecIntrinsicReward(env or counting(), snd_kwargs=snd_kwargs, device="cpu"), **kwargs)


both = pytest.mark.parametrize("make", [two_streams, bonus])


def snd_of(model):
    return unwrap_vec_wrapper(model.env, VecIntrinsicReward).snd


def learn(model, steps, *callbacks, **kwargs):
    trainer = [] if isinstance(model, PPOSND) else [SNDCallback()]
    return model.learn(steps, callback=[*trainer, *callbacks], **kwargs)


def weights(model):
    """All parameters of the policy and of the motivation nets, in one vector."""
    return th.cat(
        [parameter.detach().flatten().clone() for net in (model.policy, snd_of(model)) for parameter in net.parameters()]
    )


# --- saving and loading ---


@pytest.mark.parametrize(
    ("exclude", "include", "expected"), [([], [], 2), (["verbose"], [], 0), (["verbose"], ["verbose"], 2)]
)
def test_what_is_excluded_falls_back_to_its_default(exclude, include, expected, tmp_path):
    model = two_streams(verbose=2)
    model.save(tmp_path / "model", exclude=exclude, include=include)
    assert PPOSND.load(tmp_path / "model", device="cpu").verbose == expected


@both
def test_an_environment_saved_with_the_model_trains_on(make, tmp_path):
    model = learn(make(), N_ROLLOUT)
    model.save(tmp_path / "model", include=["env"])
    loaded = type(model).load(tmp_path / "model", device="cpu")
    assert loaded.env is not model.env and loaded.n_envs == 2
    if make is two_streams:
        assert loaded.snd is snd_of(loaded)
    before = weights(loaded)
    assert th.equal(before, weights(model))
    learn(loaded, N_ROLLOUT)
    assert not th.equal(before, weights(loaded)) and th.equal(before, weights(model))


@pytest.mark.parametrize("as_path", [str, pathlib.Path])
@pytest.mark.parametrize("name", ["model", "model.zip", "new/folders/model"])
@pytest.mark.filterwarnings("ignore:Path .* does not exist:UserWarning")
def test_paths_with_and_without_ending(as_path, name, tmp_path):
    model = two_streams()
    path = as_path(tmp_path / name)
    model.save(path)
    assert th.equal(weights(PPOSND.load(path, counting(), "cpu")), weights(model))


def test_open_files(tmp_path):
    model = two_streams()
    with open(tmp_path / "model.zip", "wb") as file:
        model.save(file)
    with open(tmp_path / "model.zip", "rb") as file:
        loaded = PPOSND.load(file, env=counting(), device="cpu")
        assert not file.closed
    assert th.equal(weights(loaded), weights(model))
    with pytest.raises(FileNotFoundError):
        PPOSND.load(tmp_path / "nothing")


def test_loaded_without_an_environment_it_predicts_and_then_takes_one():
    file = io.BytesIO()
    model = two_streams().learn(N_ROLLOUT)
    model.save(file)
    file.seek(0)
    loaded = PPOSND.load(file, env=None, device="cpu")
    assert loaded.env is None and loaded.device == th.device("cpu") and loaded.snd.device == th.device("cpu")
    obs = counting().reset()
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    with pytest.raises(AssertionError, match="number of environments"):
        loaded.set_env(counting(3))
    loaded.set_env(counting())
    assert th.equal(weights(loaded), weights(model))
    assert loaded.learn(N_ROLLOUT, reset_num_timesteps=False).num_timesteps == 2 * N_ROLLOUT


def test_another_environment_is_refused(tmp_path):
    """One of another shape, of other actions, and one that is wrapped already."""
    model = two_streams()
    model.save(tmp_path / "model")
    for env, message in (
        (any_env(), "Observation spaces do not match"),
        (any_env(spaces.Box(-99, 99, (2,)), spaces.Discrete(7)), "Action spaces do not match"),
        (VecIntrinsicReward(counting(), device="cpu"), "already has an intrinsic reward"),
    ):
        for function in (lambda env=env: PPOSND.load(tmp_path / "model", env, "cpu"), lambda env=env: model.set_env(env)):
            with pytest.raises(ValueError, match=message):
                function()
    model.learn(N_ROLLOUT)


@both
def test_another_number_of_environments_is_refused(make):
    model = make()
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(counting(3))
    learn(model, N_ROLLOUT)


def test_custom_objects_take_the_place_of_what_was_saved(tmp_path):
    two_streams(learning_rate=lambda progress: 1e-3 * progress, clip_range=lambda _: 0.1).save(tmp_path / "model")
    objects = dict(learning_rate=0.5, clip_range=0.25, lr_schedule=None, snd_kwargs=dict(SMALL, eta=3.0))
    loaded = PPOSND.load(tmp_path / "model", counting(), device="cpu", custom_objects=objects)
    assert (loaded.learning_rate, loaded.lr_schedule(0.1), loaded.clip_range(0.1), loaded.snd.scale.eta) == (
        0.5,
        0.5,
        0.25,
        3.0,
    )
    loaded.learn(N_ROLLOUT)
    assert loaded.policy.optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="custom_objects"):
        PPOSND.load(tmp_path / "model", custom_objects=3)


def test_arguments_can_change_on_loading(tmp_path):
    two_streams().save(tmp_path / "model")
    loaded = PPOSND.load(
        tmp_path / "model", counting(), "cpu", gamma=0.8, gamma_int=0.5, ext_coef=7.0, int_coef=3.0, n_steps=4
    )
    buffer = loaded.rollout_buffer
    assert buffer.gammas.tolist() == [0.8, 0.5] and buffer.coefs.tolist() == [7.0, 3.0] and buffer.buffer_size == 4
    with pytest.raises(ValueError, match="policy kwargs"):
        PPOSND.load(tmp_path / "model", policy_kwargs=dict(net_arch=[3]), device="cpu")
    with pytest.raises(ValueError, match="gamma=2"):
        PPOSND.load(tmp_path / "model", gamma=2, device="cpu")
    assert PPOSND.load(tmp_path / "model", gamma=0, gamma_int=0, device="cpu").rollout_buffer.gammas.tolist() == [0, 0]


# --- parameters ---


def test_parameters_of_another_model_are_taken_over():
    model, other = two_streams(seed=1).learn(N_ROLLOUT), two_streams(seed=2)
    parameters = model.get_parameters()
    assert set(parameters) == {"policy", "policy.optimizer", "snd", "snd.trainer.optimizer"}
    assert not th.equal(weights(model), weights(other))
    other.set_parameters(parameters, exact_match=True, device="cpu")
    assert th.equal(weights(model), weights(other))
    for theirs, ours in zip(
        model.snd.trainer.optimizer.state.values(), other.snd.trainer.optimizer.state.values(), strict=True
    ):
        assert th.equal(theirs["exp_avg"], ours["exp_avg"]) and theirs["exp_avg"].any()


def test_parameters_from_a_file(tmp_path):
    model, other = two_streams(seed=1).learn(N_ROLLOUT), two_streams(seed=2)
    model.save(tmp_path / "model")
    other.set_parameters(str(tmp_path / "model"), device="cpu")
    assert th.equal(weights(model), weights(other))


def test_parameters_that_do_not_match_exactly():
    model = two_streams()
    parameters = model.get_parameters()
    bias = th.full_like(parameters["policy"]["value_net.bias"], 7.0)
    with pytest.raises(ValueError, match="nothing is an invalid object name"):
        model.set_parameters({**parameters, "nothing": {}})
    for missing in parameters:
        with pytest.raises(ValueError, match="do not match agents' parameters"):
            model.set_parameters({name: part for name, part in parameters.items() if name != missing})
    for part in ({"policy": {"value_net.bias": bias}}, {"snd": {"no.such.weight": bias}}):
        with pytest.raises(RuntimeError, match="in loading state_dict"):
            model.set_parameters({**parameters, **part})
    model.set_parameters({"policy": {"value_net.bias": bias}}, exact_match=False)
    assert model.policy.value_net.bias.tolist() == [7.0, 7.0]
    model.set_parameters({"snd": {}}, exact_match=False)


# --- prediction ---

IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
TINY_CNN = dict(net_arch=[8], features_extractor_kwargs=dict(features_dim=8, width=4))
PREDICTING = [
    ("MlpPolicy", spaces.Box(-1, 1, (3,)), {}, {}),
    ("MlpPolicy", spaces.Discrete(4), {}, {}),
    ("CnnPolicy", IMAGE, {}, TINY_CNN),
    (
        "MultiInputPolicy",
        spaces.Dict(frame=IMAGE, place=spaces.Discrete(3), speed=spaces.Box(-1, 1, (2,))),
        dict(obs_key="speed"),
        dict(net_arch=[8], features_extractor_kwargs=dict(cnn_output_dim=8)),
    ),
]


def stack(samples):
    if isinstance(samples[0], dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


@pytest.mark.parametrize(("policy", "space", "snd_kwargs", "policy_kwargs"), PREDICTING, ids=lambda value: str(value)[:24])
@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_predictions(policy, space, snd_kwargs, policy_kwargs, actions):
    """One observation or a batch, of any layout; a state goes through untouched, as the policy has no memory."""
    env = any_env(space, actions)
    model = two_streams(env, policy, {**SMALL, **snd_kwargs}, policy_kwargs=policy_kwargs)
    space.seed(3)
    one, batch = space.sample(), stack([space.sample() for _ in range(5)])
    state, starts = (np.zeros(2),), np.ones(5, dtype=bool)
    for deterministic in (True, False):
        action, none = model.predict(one, deterministic=deterministic)
        assert none is None and action.shape == actions.shape and actions.contains(action)
        chosen, after = model.predict(batch, state=state, episode_start=starts, deterministic=deterministic)
        assert after is state and chosen.shape == (5, *actions.shape) and all(actions.contains(each) for each in chosen)
    assert model.predict(env.reset())[0].shape == (2, *actions.shape)
    again = [model.predict(batch, deterministic=True)[0] for _ in range(2)]
    np.testing.assert_array_equal(*again)
    drawn = stack([model.predict(batch)[0] for _ in range(20)])
    assert (drawn != drawn[0]).any()


@pytest.mark.numbers
def test_predictions_read_images_of_either_order():
    IMAGE.seed(0)
    env = any_env(IMAGE, spaces.Box(-1, 1, (2,)))
    model = two_streams(env, "CnnPolicy", policy_kwargs=TINY_CNN, precision="float32")
    batch = np.stack([IMAGE.sample() for _ in range(6)])
    first = model.predict(batch.transpose(0, 3, 1, 2), deterministic=True)[0]
    assert (first != first[0]).any()
    atol = 1e-4 * np.abs(first).max()
    np.testing.assert_allclose(model.predict(batch, deterministic=True)[0], first, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("policy", "space", "wrong"),
    [
        ("MlpPolicy", spaces.Box(-1, 1, (3,)), [np.zeros(4), np.zeros((2, 4)), np.zeros((2, 2, 3)), np.zeros(())]),
        ("MlpPolicy", spaces.Discrete(4), [np.zeros((2, 2), np.int64)]),
        ("CnnPolicy", IMAGE, [np.zeros((36, 40, 3), np.uint8), np.zeros((2, 36, 36), np.uint8)]),
    ],
)
def test_observations_of_another_shape_are_refused(policy, space, wrong):
    model = two_streams(any_env(space), policy, policy_kwargs=TINY_CNN if policy == "CnnPolicy" else {})
    for obs in wrong:
        with pytest.raises(ValueError, match="observation shape"):
            model.predict(obs)


# --- callbacks ---


class Events(BaseCallback):
    """Keeps what it is told, and when; ends training at a given call of ``_on_step``."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.events, self.stop_at, self.names = [], stop_at, set()

    def note(self, event):
        self.events.append((event, self.num_timesteps))
        self.names |= set(self.locals)

    def _on_training_start(self):
        self.note("training starts")

    def _on_rollout_start(self):
        self.note("rollout starts")

    def _on_step(self):
        self.note("step")
        return self.n_calls != self.stop_at

    def _on_rollout_end(self):
        self.note("rollout ends")

    def _on_training_end(self):
        self.note("training ends")


@both
@pytest.mark.parametrize("stop_at", [None, 1, 3, 7, 8, 9, 16, 17])
def test_callbacks_hear_what_those_of_ppo_hear(make, stop_at):
    """The same events at the same steps, with all local variables that PPO's have; after a stop training goes on."""
    stock, ours = Events(stop_at), Events(stop_at)
    PPO("MlpPolicy", counting(), **SIZES).learn(3 * N_ROLLOUT, stock)
    model = make()
    learn(model, 3 * N_ROLLOUT, ours)
    assert ours.events == stock.events and ours.names >= stock.names - {"idx", "done", "terminal_obs", "terminal_value"}
    assert model.num_timesteps == 2 * (stop_at or 24)

    before, rest = weights(model), Events()
    learn(model, 2 * N_ROLLOUT, rest, reset_num_timesteps=False)
    assert [event for event, _ in rest.events].count("rollout ends") == 2
    assert model.num_timesteps == 2 * (stop_at or 24) + 2 * N_ROLLOUT
    assert not th.equal(before, weights(model)) and th.isfinite(weights(model)).all()


@both
def test_a_stop_before_the_first_rollout_ends_changes_no_weight(make):
    model = make()
    before = weights(model)
    learn(model, 3 * N_ROLLOUT, Events(stop_at=7))
    assert th.equal(before, weights(model))


@both
def test_stop_after_a_number_of_episodes(make):
    """Episodes of both environments end after 5 steps: the sixth, three for each, after 15."""
    assert learn(make(), 100, StopTrainingOnMaxEpisodes(3)).num_timesteps == 30


@both
def test_evaluation_checkpoints_and_their_stops(make, tmp_path):
    """Environment 1 of two gives 10 a step, five steps long: a mean of 25."""
    model = make()
    evaluation = EvalCallback(
        VecMonitor(counting()),
        callback_on_new_best=StopTrainingOnRewardThreshold(25.0),
        n_eval_episodes=2,
        eval_freq=12,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
    )
    learn(model, 100, CheckpointCallback(5, str(tmp_path), "kept"), evaluation)
    assert model.num_timesteps == 24 and evaluation.best_mean_reward == 25.0
    assert {"kept_10_steps.zip", "kept_20_steps.zip", "best_model.zip", "evaluations.npz"} == {
        p.name for p in tmp_path.iterdir()
    }
    assert type(model).load(tmp_path / "kept_20_steps", device="cpu").num_timesteps == 20
    assert type(model).load(tmp_path / "best_model", device="cpu").num_timesteps == 24


@both
def test_functions_lists_and_bars_are_callbacks(make):
    calls, every = [], Events()
    nested = CallbackList([EveryNTimesteps(6, every), ProgressBarCallback()])
    model = learn(make(), N_ROLLOUT, nested)
    assert [steps for event, steps in every.events if event == "step"] == [6, 12]
    if make is two_streams:
        model.learn(N_ROLLOUT, callback=lambda _locals, _globals: calls.append(1) or len(calls) < 5, progress_bar=True)
        assert len(calls) == 5 and model.num_timesteps == 10


@both
def test_counting_anew_or_on(make):
    model = learn(make(), N_ROLLOUT)
    assert learn(model, N_ROLLOUT).num_timesteps == N_ROLLOUT
    assert learn(model, N_ROLLOUT + 1, reset_num_timesteps=False).num_timesteps == 3 * N_ROLLOUT
    assert learn(model, 0, reset_num_timesteps=False).num_timesteps == 3 * N_ROLLOUT


# --- logs, schedules, seeds ---


@both
def test_loggers_can_be_swapped(make, tmp_path):
    model = make()
    for name in ("first", "second"):
        model.set_logger(configure(str(tmp_path / name), ["csv", "json"]))
        learn(model, 2 * N_ROLLOUT)
    texts = [(tmp_path / name / "progress.csv").read_text().splitlines() for name in ("first", "second")]
    for header, *rows in texts:
        assert {"rollout/novelty_mean", "snd/loss", "train/loss", "time/total_timesteps"} <= set(header.split(","))
        assert len(rows) == 2


@both
def test_tensorboard_folders(make, tmp_path):
    model = make(tensorboard_log=str(tmp_path))
    learn(model, N_ROLLOUT, tb_log_name="run")
    learn(model, N_ROLLOUT, tb_log_name="run", reset_num_timesteps=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run_1"]
    learn(model, N_ROLLOUT, tb_log_name="run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run_1", "run_2"]
    assert all(list(path.glob("events.out.tfevents.*")) for path in tmp_path.iterdir())


@pytest.mark.parametrize(("verbose", "device", "table"), [(0, False, False), (1, True, True), (2, True, True)])
def test_what_is_said(verbose, device, table, capsys):
    two_streams(verbose=verbose).learn(N_ROLLOUT)
    said = capsys.readouterr().out
    assert ("Using cpu device" in said, "novelty_mean" in said) == (device, table)


@both
def test_schedules_follow_the_progress(make):
    """Three rollouts end with two thirds, one third and nothing left to do."""
    seen = []

    class Rates(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            seen.append(self.model.policy.optimizer.param_groups[0]["lr"])

    schedule = LinearSchedule(4e-3, 1e-3, 1.0)
    model = make(learning_rate=schedule, clip_range=lambda progress: 0.1 + progress, clip_range_vf=LinearSchedule(1, 0.5, 1))
    rate = snd_of(model).trainer.optimizer.param_groups[0]["lr"]
    learn(model, 3 * N_ROLLOUT, Rates(), log_interval=None)
    seen.append(model.policy.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(seen, [4e-3, 3e-3, 2e-3, 1e-3])
    assert snd_of(model).trainer.optimizer.param_groups[0]["lr"] == rate
    logged = model.logger.name_to_value
    assert logged["train/clip_range"] == pytest.approx(0.1) and logged["train/clip_range_vf"] == pytest.approx(0.5)


@both
def test_seeds(make):
    runs = [weights(learn(make(any_env(), seed=seed), 2 * N_ROLLOUT)) for seed in (5, 5, 6)]
    assert th.equal(runs[0], runs[1]) and not th.equal(runs[0], runs[2])


# --- pickles and copies ---


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
def test_policies_are_pickled_saved_and_copied(policy, tmp_path):
    env = any_env(IMAGE) if policy == "CnnPolicy" else counting()
    model = two_streams(env, policy, policy_kwargs=TINY_CNN if policy == "CnnPolicy" else {}, precision="float32")
    fresh = copy.deepcopy(model.policy)
    model.learn(N_ROLLOUT)
    assert not th.equal(*(th.cat([p.flatten() for p in each.parameters()]) for each in (fresh, model.policy)))
    model.policy.save(tmp_path / "policy")
    obs = th.as_tensor(model.env.reset())
    for other in (type(model.policy).load(tmp_path / "policy"), cloudpickle.loads(cloudpickle.dumps(model.policy))):
        assert th.equal(other.predict_values(obs), model.policy.predict_values(obs))
        np.testing.assert_array_equal(*(each.predict(obs.numpy(), deterministic=True)[0] for each in (other, model.policy)))
        assert {id(p) for p in other.optimizer.param_groups[0]["params"]} == {id(p) for p in other.parameters()}


@both
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: cloudpickle.loads(cloudpickle.dumps(model))])
def test_a_copy_of_a_model_trains_alone(make, duplicate):
    """Both go the same way from here, each with nets of its own."""
    model = make()
    twin = duplicate(model)
    before = weights(model)
    assert th.equal(before, weights(twin))
    ends = []
    for each in (twin, model):
        assert th.equal(weights(model), before)
        each.set_random_seed(1)
        ends.append(weights(learn(each, 2 * N_ROLLOUT)))
    assert th.equal(*ends) and not th.equal(ends[0], before)
    if make is two_streams:
        assert twin.snd is snd_of(twin) is not model.snd


@pytest.mark.parametrize("target", TARGETS)
def test_a_copy_of_an_snd_trains_alone(target):
    th.manual_seed(0)
    snd = SND(spaces.Box(-1, 1, (3,)), target, device="cpu", action_space=spaces.Discrete(2), norm_reward=True, **SMALL)
    obs, next_obs = th.randn(2, 8, 3)
    actions = th.arange(8) % 2
    snd.observe(obs)
    snd.trainer.train_on_batch(snd.transitions(obs, next_obs, actions))
    twin = copy.deepcopy(snd)
    states = []
    for each in (snd, twin):
        th.manual_seed(1)
        each.trainer.train_on_batch(each.transitions(obs, next_obs, actions))
        states.append([value.clone() for value in each.state_dict().values()])
        assert {id(p) for p in each.trainer.optimizer.param_groups[0]["params"]} == {
            id(p) for p in each.parameters() if p.requires_grad
        }
    assert all(th.equal(a, b) for a, b in zip(*states, strict=True))
    before = twin.novelty(obs)
    snd.trainer.train_on_batch(snd.transitions(obs, next_obs, actions))
    assert th.equal(before, twin.novelty(obs)) and not th.equal(before, snd.novelty(obs))


# --- exploration by noise, action spaces, normalisation, sizes ---


@both
@pytest.mark.parametrize("squash", [False, True])
def test_gsde(make, squash):
    actions = spaces.Box(-2, 2, (1,))
    model = make(
        any_env(None, actions), use_sde=True, sde_sample_freq=3, policy_kwargs=dict(squash_output=squash, log_std_init=-1.0)
    )
    learn(model, 2 * N_ROLLOUT, log_interval=None)
    assert model.logger.name_to_value["train/std"] == pytest.approx(np.exp(-1.0), rel=0.05)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = type(model).load(file, device="cpu")
    obs = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(*(each.predict(obs, deterministic=True)[0] for each in (model, loaded)))
    assert actions.contains(loaded.predict(obs[0])[0])
    with pytest.raises(ValueError, match="continuous actions"):
        make(use_sde=True)


@pytest.mark.parametrize(
    "actions",
    [spaces.Box(-1, 1, (2,)), spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)],
    ids=lambda space: type(space).__name__,
)
def test_every_action_space_survives_saving(actions, tmp_path):
    model = two_streams(any_env(None, actions)).learn(N_ROLLOUT)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", any_env(None, actions), "cpu").learn(N_ROLLOUT)
    chosen = loaded.predict(np.zeros((5, 3), np.float32))[0]
    assert len(chosen) == 5 and all(actions.contains(action) for action in chosen)


@pytest.mark.parametrize("actions", [spaces.Tuple([spaces.Discrete(2)]), spaces.Box(-np.inf, np.inf, (1,))], ids=str)
def test_actions_that_ppo_refuses(actions):
    errors = []
    for build in (PPO, two_streams):
        with pytest.raises(AssertionError) as error:
            build(*(("MlpPolicy",) if build is PPO else ()), env=any_env(None, actions), device="cpu")
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_statistics_of_normalised_environments_reach_the_evaluation():
    model = two_streams(VecNormalize(counting()))
    assert model.get_vec_normalize_env() is model.get_env()
    evaluation = VecNormalize(counting(), training=False, norm_reward=False)
    learn(model, N_ROLLOUT, EvalCallback(evaluation, n_eval_episodes=2, eval_freq=8, verbose=0, warn=False))
    np.testing.assert_array_equal(evaluation.obs_rms.mean, model.get_env().obs_rms.mean)
    assert evaluation.obs_rms.count == pytest.approx(2 + N_ROLLOUT, abs=1e-3)


@pytest.mark.parametrize("kwargs", [dict(snd=None), dict(snd="vic", normalize_advantage=True), dict(snd="vic")])
def test_a_rollout_of_one_transition_is_refused(kwargs):
    with pytest.raises((ValueError, AssertionError), match="n_steps"):
        PPOSND("MlpPolicy", counting(1), n_steps=1, batch_size=2, device="cpu", **kwargs)
