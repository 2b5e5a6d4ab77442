"""What the Zoo's search tries for PPOSND, and what it leaves as it is."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import FixedTrial
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER, convert_onpolicy_params
from stable_baselines3.common.vec_env import VecNormalize, is_vecenv_wrapped
from torch import nn

from sb3_snd import PPOSND, VecIntrinsicReward
from sb3_snd.zoo import enjoy as enjoy_command
from sb3_snd.zoo import train as train_command
from sb3_snd.zoo.hyperparams import register
from sb3_snd.zoo.manager import SNDExperimentManager
from sb3_snd.zoo.search import (
    FADES,
    SND_SEARCH_SPACE,
    convert_ppo_snd_params,
    evaluated,
    merged,
    sample_ppo_snd_params,
    size_bounds,
)

ROOT = Path(__file__).parent.parent
PPO_PARAMS = {
    "batch_size_pow": 7,
    "n_steps_pow": 9,
    "one_minus_gamma": 0.01,
    "one_minus_gae_lambda": 0.05,
    "learning_rate": 1e-3,
    "ent_coef": 1e-3,
    "clip_range": 0.2,
    "n_epochs": 5,
    "max_grad_norm": 0.5,
    "net_arch": "small",
    "activation_fn": "relu",
}
OWN_PARAMS = {"eta": 3.0, "one_minus_gamma_int": 0.05, "ext_coef": 4.0, "int_coef": 0.5, "snd_learning_rate": 2e-4}
OWN_PARAMS[FADES] = False


@pytest.mark.parametrize("n_envs", [*range(1, 130), 256, 1000, 1024])
def test_every_minibatch_divides_every_rollout(n_envs):
    bounds = size_bounds(n_envs)
    steps, batches = ([2**power for power in range(low, high + 1)] for low, high in bounds.values())
    assert steps and batches
    assert all(n_steps * n_envs % batch_size == 0 for n_steps in steps for batch_size in batches)
    assert steps[0] >= 32 and steps[-1] <= 4096 and batches[-1] <= 1024  # within the Zoo's
    assert steps[-1] * n_envs <= max(2**14, 32 * n_envs)


def test_usual_sizes_have_a_choice():
    assert size_bounds(1) == {"n_steps_pow": (10, 12), "batch_size_pow": (6, 10)}
    assert size_bounds(32) == {"n_steps_pow": (5, 9), "batch_size_pow": (6, 10)}
    assert size_bounds(128) == {"n_steps_pow": (5, 7), "batch_size_pow": (6, 10)}


def test_sampled_and_converted():
    """The Zoo's own converter for PPO's side, and the other side by hand."""
    params = {**PPO_PARAMS, **OWN_PARAMS}
    trial = FixedTrial(params)
    sampled = sample_ppo_snd_params(trial, 2, 32, {})
    assert sampled == convert_ppo_snd_params(params)
    assert sampled == {
        **convert_onpolicy_params(PPO_PARAMS),
        "gamma_int": 0.95,
        "ext_coef": 4.0,
        "int_coef": 0.5,
        "snd_kwargs": {"eta": 3.0, "learning_rate": 2e-4},
    }
    assert trial.user_attrs == {"gamma": 0.99, "n_steps": 512, "batch_size": 128, "gamma_int": 0.95}
    assert set(OWN_PARAMS) == {*SND_SEARCH_SPACE, FADES}
    PPOSND("MlpPolicy", "CartPole-v1", device="cpu", **sampled)


def test_a_bonus_that_fades_is_sampled():
    params = {**PPO_PARAMS, **OWN_PARAMS, FADES: True}
    sampled = sample_ppo_snd_params(FixedTrial(params), 2, 32, {})
    assert [sampled["int_coef"](remaining) for remaining in (1.0, 0.5, 0.0)] == [0.5, 0.25, 0.0]
    assert convert_ppo_snd_params(params)["int_coef"] == "lin_0.5"  # as in an entry
    PPOSND("MlpPolicy", "CartPole-v1", device="cpu", **sampled)


def test_schedules_of_an_entry():
    """Those of the bonus as those of PPO, in the algorithm's arguments and in the wrapper's."""
    wrapper = {"sb3_snd.VecIntrinsicReward": {"snd": "vic", "snd_kwargs": {"eta": "lin_8"}, "int_coef": "lin_0.5"}}
    entry = {
        "learning_rate": "lin_0.1",
        "ext_coef": 2.0,
        "int_coef": "lin_0.5",
        "snd_kwargs": {"eta": "lin_4", "learning_rate": "lin_0.001", "target_width": 64},
        "vec_env_wrapper": ["stable_baselines3.common.vec_env.VecMonitor", wrapper],
    }
    read = SNDExperimentManager._preprocess_schedules(dict(entry))
    _, (own,) = read["vec_env_wrapper"][0], read["vec_env_wrapper"][1].values()
    schedules = [read["learning_rate"], read["int_coef"], read["snd_kwargs"]["eta"], read["snd_kwargs"]["learning_rate"]]
    schedules += [own["int_coef"], own["snd_kwargs"]["eta"]]
    for start, schedule in zip((0.1, 0.5, 4, 0.001, 0.5, 8), schedules, strict=True):
        assert [schedule(remaining) for remaining in (1.0, 0.5, 0.0)] == [start, start / 2, 0]
    assert read["ext_coef"] == 2.0 and read["snd_kwargs"]["target_width"] == 64 and own["snd"] == "vic"
    assert wrapper["sb3_snd.VecIntrinsicReward"]["int_coef"] == "lin_0.5"  # the entry itself stays


def test_what_is_not_sampled_stays():
    entry = {
        "snd_kwargs": {"eta": 0.5, "target_width": 64, "norm_reward": True},
        "policy_kwargs": {"features_extractor_kwargs": {"width": 64}},
    }
    sampled = sample_ppo_snd_params(FixedTrial({**PPO_PARAMS, **OWN_PARAMS}), 2, 32, {}, entry)
    assert sampled["snd_kwargs"] == {"eta": 3.0, "learning_rate": 2e-4, "target_width": 64, "norm_reward": True}
    net = dict(net_arch=dict(pi=[64, 64], vf=[64, 64]), activation_fn=nn.ReLU)
    assert sampled["policy_kwargs"] == {"features_extractor_kwargs": {"width": 64}, **net}
    assert merged({}, sampled) == sampled


@pytest.mark.parametrize("entry", [{}, {"policy_kwargs": {"features_extractor_kwargs": {"width": 64}}}])
def test_without_snd_the_search_is_that_of_ppo(entry):
    """The trial has no more to draw from than PPO's parameters."""
    sampled = sample_ppo_snd_params(FixedTrial(PPO_PARAMS), 2, 32, {}, {**entry, "snd": None})
    ppo = convert_onpolicy_params(PPO_PARAMS)
    assert convert_ppo_snd_params(PPO_PARAMS) == ppo
    assert sampled == {**ppo, "policy_kwargs": {**ppo["policy_kwargs"], **entry.get("policy_kwargs", {})}}


def test_a_search_for_the_baseline(tmp_path, monkeypatch):
    """Through train.py, and a run that takes its trial."""
    study = ["--storage", tmp_path / "search.log", "--study-name", "baseline"]
    command = ["train.py", "--algo", "ppo_baseline", "--env", "DeepSea-v0", "-f", tmp_path, "--device", "cpu", *study]
    search = ["-n", 256, "-optimize", "--n-trials", 1, "--n-evaluations", 1, "--no-optim-plots", "--seed", 0]
    monkeypatch.setattr(sys, "argv", list(map(str, [*command, *search, "-params", "n_envs:8"])))
    train_command.train()
    run = train(monkeypatch, tmp_path, "-n", 16, *study, "--trial-id", 0, *TINY, algo="ppo_baseline", env="DeepSea-v0")
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "search.log"))
    (trial,) = optuna.load_study(study_name="baseline", storage=optuna.storages.JournalStorage(journal)).trials
    assert set(trial.params) == set(PPO_PARAMS) and "snd_kwargs" not in run[0]
    assert run[0]["snd"] is None and run[0]["learning_rate"] == trial.params["learning_rate"]


def test_a_search_trains_with_and_evaluates_without_the_bonus(tmp_path, monkeypatch):
    """Observations are normalised as in the entry, and the trial's value is the score of the game."""
    register()
    made, models = {True: [], False: []}, []
    create_envs, learn = SNDExperimentManager.create_envs, PPOSND.learn

    def remember_env(self, n_envs, eval_env=False, no_log=False):
        made[eval_env].append(create_envs(self, n_envs, eval_env, no_log))
        return made[eval_env][-1]

    def remember_model(self, *args, **kwargs):
        models.append((is_vecenv_wrapped(self.env, VecIntrinsicReward), self.snd, self.n_steps * self.n_envs))
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(SNDExperimentManager, "create_envs", remember_env)
    monkeypatch.setattr(PPOSND, "learn", remember_model)
    options = dict(n_timesteps=1024, n_trials=1, optimize_hyperparameters=True, n_evaluations=1, verbose=0, device="cpu")
    args = argparse.Namespace(algo="ppo_snd", env="MountainCar-v0")
    manager = SNDExperimentManager(args, "ppo_snd", "MountainCar-v0", str(tmp_path), eval_freq=-1, **options)
    assert manager.setup_experiment() is None
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({**PPO_PARAMS, "n_steps_pow": 5, **OWN_PARAMS})
    study.optimize(manager.objective, n_trials=1)

    (evaluation,) = made[True]
    assert not is_vecenv_wrapped(evaluation, VecIntrinsicReward)
    assert all(is_vecenv_wrapped(env, VecNormalize) and env.norm_obs for env in made[True] + made[False])
    (wrapped, snd, rollout) = models[0]
    assert wrapped and snd.scale.eta == 3.0 and snd.scale.return_stats is not None and rollout == 32 * 32
    assert snd.trainer.optimizer.defaults["lr"] == 2e-4
    assert -200 <= study.best_value < 0 and study.best_value * 5 == round(study.best_value * 5)


@pytest.fixture
def study(tmp_path):
    """Two trials with their own eta, and one that never drew anything. :return: options that name the study"""
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    study = optuna.create_study(storage=storage, study_name="car", direction="maximize")
    for eta in (3.0, 5.0):
        study.enqueue_trial({**PPO_PARAMS, **OWN_PARAMS, "eta": eta})
        study.optimize(lambda trial: (sample_ppo_snd_params(trial, 3, 2, {}), 0.0)[1], n_trials=1)
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    return ["--storage", storage, "--study-name", "car"]


def train(monkeypatch, folder, *options, algo="ppo_snd", env="MountainCar-v0"):
    command = ["train.py", "--algo", algo, "--env", env, "-f", folder, "--seed", "0", "--device", "cpu", *options]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    train_command.train()
    path = sorted((folder / algo).glob("*/*/config.yml"))[-1]
    return dict(yaml.unsafe_load(path.read_text())), path.parent.parent


TINY = ("-params", "n_envs:2", "n_steps:8", "batch_size:16", "n_epochs:1")


@pytest.mark.parametrize(("number", "eta"), [(0, 3.0), (1, 5.0)])
def test_a_run_takes_the_trial_that_it_is_given(number, eta, study, tmp_path, monkeypatch):
    """And what is typed goes over it."""
    config, _ = train(monkeypatch, tmp_path / "logs", "-n", 16, *study, "--trial-id", number, *TINY)
    assert config["snd_kwargs"] == {"eta": eta, "learning_rate": 2e-4, "norm_reward": True}
    assert config["gamma_int"] == 0.95 and config["n_steps"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{study}", "--trial-id", "3"], "Trial 3 of the study 'car' in sqlite:///.* has no hyperparameters for ppo_snd"),
        (
            ["{study}", "--trial-id", "-1"],
            r"Trial -1 of the study 'car' .* \(trials are counted from 0\): choose a completed",
        ),
        (["{study}", "--trial-id", "2"], "Trial 2 of the study 'car' .* choose a completed trial"),
        (["{study}", "--study-name", "bus", "--trial-id", "0"], "Trial 0 of the study 'bus' .* choose a completed trial"),
        (["--trial-id", "0"], "--trial-id 0 requires --storage and --study-name"),
        (["--storage", "sqlite:///no.db", "--trial-id", "7"], "--trial-id 7 requires --storage and --study-name"),
        (["-n", "0"], "-n 0: the number of steps must be >= 1; omit -n to use that of the YAML"),
        (["-n", "-7"], "-n -7: the number of steps must be >= 1"),
        (["--log-interval", "0"], "--log-interval 0: give the number of rollouts"),
        (["-params", "snd_kwargs:'dict(eta=1'"], r"snd_kwargs='dict\(eta=1' must be a Python expression, such as 'dict"),
        (
            ["-params", "snd_kwargs:'nonsense'"],
            "snd_kwargs='nonsense' must be a Python expression.*name 'nonsense' is not def",
        ),
        (["-params", "snd_kwargs:'7'"], "snd_kwargs=7 must be a dict of the reward's arguments"),
    ],
)
def test_numbers_and_expressions_that_say_nothing(options, message, study, tmp_path, monkeypatch):
    options = [each for option in options for each in (study if option == "{study}" else [option])]
    with pytest.raises(SystemExit, match=message) as error:
        train(monkeypatch, tmp_path / "logs", *TINY, *options)
    assert "\n" not in error.value.code and not (tmp_path / "logs").exists()


@pytest.mark.parametrize("number", ["seed", "save-freq", "eval-freq", "num-threads"])
def test_zero_is_a_number(number, tmp_path, monkeypatch):
    _, run = train(monkeypatch, tmp_path, "-n", 16, f"--{number}", 0, *TINY)
    saved = yaml.unsafe_load(next(run.glob("*/args.yml")).read_text())
    assert dict(saved)[number.replace("-", "_")] == 0
    assert not list(run.glob("rl_model_*")) and not (run / "evaluations.npz").exists()
    assert PPOSND.load(next(run.glob("*.zip")), device="cpu").seed == 0


def test_expressions_in_strings():
    entry = {
        "snd_kwargs": "dict(eta=0.5)",
        "policy_kwargs": "dict(activation_fn=nn.ReLU)",
        "policy": "MlpPolicy",
        "gamma": 0.5,
    }
    plain = {"snd_kwargs": {"eta": 0.5}, "policy_kwargs": {"activation_fn": nn.ReLU}, "policy": "MlpPolicy", "gamma": 0.5}
    assert evaluated(entry) == evaluated(plain) == plain
    assert entry["snd_kwargs"] == "dict(eta=0.5)"


def own_file(folder, snd_kwargs):
    sizes = dict(n_timesteps=32, n_envs=2, n_steps=8, batch_size=16, n_epochs=1)
    entry = dict(**sizes, policy="MlpPolicy", snd_kwargs=snd_kwargs, policy_kwargs="dict(net_arch=[8])")
    (folder / "own.yml").write_text(yaml.dump({"CartPole-v1": entry}))
    return "--conf-file", folder / "own.yml"


def test_snd_kwargs_as_a_string(study, tmp_path, monkeypatch):
    """As the Zoo has it for policy_kwargs: in training, in a run that goes on, in a trial's settings, and in enjoy."""
    options = {"algo": "ppo_snd", "env": "CartPole-v1"}
    text = own_file(tmp_path, "dict(eta=0.5, norm_reward=True)")
    config, run = train(monkeypatch, tmp_path / "logs", *text, "--save-freq", 16, **options)
    assert config["snd_kwargs"] == "dict(eta=0.5, norm_reward=True)"
    snd = PPOSND.load(run / "CartPole-v1.zip", device="cpu").snd
    assert snd.scale.eta == 0.5 and snd.scale.return_stats is not None

    plain = own_file(tmp_path, {"eta": 0.5, "norm_reward": True})  # it says the same
    _, same = train(monkeypatch, tmp_path / "logs", *plain, "--resume", "-n", 48, **options)
    assert same == run and PPOSND.load(run / "CartPole-v1.zip", device="cpu").num_timesteps == 48
    with pytest.raises(SystemExit, match=r"--resume: snd_kwargs was {'eta': 0.5, 'norm_reward': True} and is {'eta': 0.25}"):
        train(monkeypatch, tmp_path / "logs", *own_file(tmp_path, "dict(eta=0.25)"), "--resume", **options)

    text = own_file(tmp_path, "dict(norm_reward=True)")
    config, _ = train(monkeypatch, tmp_path / "trial", *text, *study, "--trial-id", 0, *TINY, **options)
    assert config["snd_kwargs"] == {"eta": 3.0, "learning_rate": 2e-4, "norm_reward": True}
    assert config["policy_kwargs"]["net_arch"] == {"pi": [64, 64], "vf": [64, 64]}  # the trial's

    monkeypatch.setattr(sys, "argv", ["enjoy.py", "--algo", "ppo_snd", "--env", "CartPole-v1", "-f", str(tmp_path / "logs")])
    sys.argv += ["--no-render", "-n", "3"]
    enjoy_command.enjoy()


def test_snd_kwargs_as_a_string_in_a_search(tmp_path):
    register()
    conf = own_file(tmp_path, "dict(norm_reward=True)")[1]
    options = dict(n_timesteps=64, n_trials=1, optimize_hyperparameters=True, n_evaluations=1, verbose=0, device="cpu")
    args = argparse.Namespace(algo="ppo_snd", env="CartPole-v1")
    manager = SNDExperimentManager(args, "ppo_snd", "CartPole-v1", str(tmp_path), config=str(conf), **options)
    assert manager.setup_experiment() is None
    sampled = HYPERPARAMS_SAMPLER["ppo_snd"](FixedTrial({**PPO_PARAMS, **OWN_PARAMS}), 2, 2, {})
    assert sampled["snd_kwargs"] == {"eta": 3.0, "learning_rate": 2e-4, "norm_reward": True}


@pytest.mark.slow
def test_two_processes_search_together(tmp_path):
    """Through train.py with one journal, two trials each; then a run takes the hyperparameters of a trial."""
    storage = ["--storage", str(tmp_path / "search.log"), "--study-name", "together", "-params", "n_envs:8"]
    command = [sys.executable, "train.py", "--algo", "ppo_snd", "--env", "DeepSea-v0", "-n", "1024", "-f", str(tmp_path)]
    command += [*storage, "--device", "cpu", "--num-threads", "1"]
    search = ["-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots"]
    processes = [subprocess.Popen([*command, *search, "--seed", str(seed)], cwd=ROOT) for seed in (3, 4)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "search.log"))
    trials = optuna.load_study(study_name="together", storage=optuna.storages.JournalStorage(journal)).trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert {trial.state for trial in trials} == {optuna.trial.TrialState.COMPLETE}
    assert len({trial.params["eta"] for trial in trials}) == 4
    returns = [trial.value for trial in trials]  # without bonus: at most 10 steps at -0.001, and the treasure
    assert all(-0.01 <= value <= 0.99 and np.isclose(value * 1000, round(value * 1000)) for value in returns)

    subprocess.run([*command, "--trial-id", "1", "-n", "64"], cwd=ROOT, check=True)
    config = yaml.unsafe_load((tmp_path / "ppo_snd" / "DeepSea-v0_1" / "DeepSea-v0" / "config.yml").read_text())
    params, saved = trials[1].params, dict(config)
    expected = {"eta": params["eta"], "learning_rate": params["snd_learning_rate"], "norm_reward": True}
    assert saved["snd_kwargs"] == expected and saved["n_steps"] == 2 ** params["n_steps_pow"]
