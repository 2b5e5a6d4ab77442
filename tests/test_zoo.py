"""YAML entries against the paper's settings, and the command line as a user types it."""

import argparse
import csv
import inspect
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from fakes import CountingEnv
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, is_vecenv_wrapped

from sb3_snd import PPOSND, VecIntrinsicReward, zoo
from sb3_snd.envs.atari import AtariVecEnv
from sb3_snd.policies import CnnPolicy

ATARI = [f"{game}NoFrameskip-v4" for game in ("MontezumaRevenge", "Gravitar", "Venture", "PrivateEye", "Pitfall", "Solaris")]
PROCGEN = [f"procgen-{game}-v0" for game in ("caveflyer", "coinrun", "jumper", "climber")]
# eta of the paper, in the order of the ten environments
ETA = {
    "rnd": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "v": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    "std": [1, 1, 0.25, 0.5, 1, 0.5, 0.5, 0.25, 1, 1],
    "vic": [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5],
}
TARGET_OF = {"ppo": None, "ppo_rnd": "rnd", "ppo_snd_v": "v", "ppo_snd_std": "std", "ppo_snd_vic": "vic", "ppo_snd": "vic"}
ZOO_KEYS = {"n_envs", "n_timesteps", "env_wrapper", "env_kwargs", "frame_stack", "policy"}


class FakeProcgen(CountingEnv):
    """The spaces of a Procgen game."""

    def __init__(self, render_mode=None):
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(15)

    def _obs(self):
        return np.zeros((64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def registered():
    zoo.register()
    for env_id in PROCGEN:
        gym.register(env_id, FakeProcgen)
    yield
    for env_id in PROCGEN:
        gym.registry.pop(env_id)


def entries(key):
    return yaml.safe_load((zoo.hyperparams_folder() / f"{key}.yml").read_text())


def build(key, env_id, folder, overrides=None):
    """A model as train.py builds it, with shrunken sizes."""
    small = dict(n_envs=2, n_steps=8, batch_size=16)
    if env_id in ATARI or env_id.startswith("Pong"):
        small["env_wrapper"] = {"sb3_snd.envs.AtariWrapper": {"frame_size": 36}}
    args = argparse.Namespace(algo=key, env=env_id)
    manager = zoo.SNDExperimentManager(
        args, key, env_id, str(folder), eval_freq=-1, hyperparams={**small, **(overrides or {})}, verbose=0, device="cpu"
    )
    model, _ = manager.setup_experiment()
    return model, manager


def test_every_file_has_the_ten_environments():
    for key in TARGET_OF:
        assert set(entries(key)) == {"atari", *ATARI, *PROCGEN}, key
    assert entries("ppo_snd") == entries("ppo_snd_vic")


def test_every_key_is_read():
    known = ZOO_KEYS | set(inspect.signature(PPO).parameters)
    for key, target in TARGET_OF.items():
        allowed = known if target is None else known | set(inspect.signature(PPOSND).parameters) - {"kwargs"}
        for env_id, entry in entries(key).items():
            assert set(entry) <= allowed, (key, env_id)


@pytest.mark.parametrize("env_id", ATARI + PROCGEN)
@pytest.mark.parametrize("key", TARGET_OF)
def test_entry_holds_the_papers_settings(key, env_id, tmp_path):
    target, atari = TARGET_OF[key], env_id in ATARI
    entry = entries(key)[env_id]
    sizes = [entry[name] for name in ("n_envs", "n_steps", "n_epochs", "batch_size", "n_timesteps")]
    assert sizes == [128, 128, 4, 512, 128e6 if atari else 64e6]
    assert entry.get("env_kwargs") == ({"repeat_action_probability": 0.25} if atari else None)

    model, manager = build(key, env_id, tmp_path)
    assert manager.full_timesteps == entry["n_timesteps"]
    assert model.observation_space.shape == ((4, 36, 36) if atari else (6, 64, 64))
    assert (model.learning_rate(1.0), model.clip_range(1.0)) == (1e-4, 0.1)
    assert (model.gae_lambda, model.max_grad_norm, model.ent_coef, model.clip_range_vf) == (0.95, 0.5, 0.001, None)
    assert not model.normalize_advantage
    assert isinstance(model.policy, CnnPolicy) and model.policy.optimizer.defaults["eps"] == 1e-8
    width = 128 if atari else 64
    assert model.policy.features_extractor.net[6].out_channels == width
    if target is None:
        assert type(model) is PPO
        assert (model.gamma, model.vf_coef) == (0.998 if env_id.startswith("Gravitar") else 0.99, 0.5)
        return
    assert type(model) is PPOSND
    assert (model.gamma, model.gamma_int, model.ext_coef, model.int_coef) == (0.998, 0.99, 2.0, 1.0)
    assert model.vf_coef == 1.0 and model.intrinsic_episodic
    assert model.snd.target_name == target
    assert model.snd.eta == ETA[target][(ATARI + PROCGEN).index(env_id)]
    assert model.snd.optimizer.defaults["lr"] == 1e-4
    assert model.snd.batch_size == model.batch_size
    if target in ("vic", "std"):
        assert model.snd.target.encoder[6].out_channels == width
        assert model.snd.learner[6].out_channels == (64 if target == "std" and not atari else 128)


def test_native_environment_by_default(tmp_path, monkeypatch):
    model, _ = build("ppo_snd", ATARI[0], tmp_path)
    env = model.get_env()
    assert isinstance(env.unwrapped, AtariVecEnv) and is_vecenv_wrapped(env, VecMonitor)
    assert env.unwrapped.max_episode_frames == 18_000
    monkeypatch.setattr(zoo.SNDExperimentManager, "native", False)
    ordinary = build("ppo_snd", ATARI[0], tmp_path)[0].get_env()
    assert not isinstance(ordinary.unwrapped, AtariVecEnv)
    assert ordinary.observation_space == env.observation_space
    assert ordinary.get_attr("unwrapped")[0].spec.kwargs["repeat_action_probability"] == 0.25


def test_other_atari_games_and_the_zoos_own_entries(tmp_path):
    assert build("ppo_snd", "PongNoFrameskip-v4", tmp_path)[0].snd.eta == 0.25
    model, manager = build("ppo", "CartPole-v1", tmp_path)
    assert "rl_zoo3" in manager.config and type(model) is PPO
    assert model.policy_class is PPO.policy_aliases["MlpPolicy"]


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_the_zoos_entries_may_truncate_a_minibatch(tmp_path):
    assert build("ppo", "MountainCarContinuous-v0", tmp_path, dict(n_envs=1, n_steps=8, batch_size=256))[0].batch_size == 256


def run(monkeypatch, function, *arguments):
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    function()


SMALL = (
    "-params",
    "n_envs:2",
    "n_steps:16",
    "batch_size:16",
    "n_epochs:1",
    "env_wrapper:{'sb3_snd.envs.AtariWrapper':{'frame_size':36,'max_episode_steps':20}}",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the command line, and what it printed."""
    folder = tmp_path_factory.mktemp("logs")
    command = ["train.py", "--algo", "ppo_snd", "--env", ATARI[0], "-n", "64", "-f", folder, "--seed", "1", "-P"]
    more = ["--save-freq", "32", *SMALL]
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, *map(str, command + more)], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_command_line_writes_everything_and_says_where(trained):
    folder, printed = trained
    run_folder = folder / "ppo_snd" / f"{ATARI[0]}_1"
    for name in (f"{ATARI[0]}.zip", "monitor.csv", "learning_curve.png", "rl_model_32_steps.zip", f"{ATARI[0]}/config.yml"):
        assert (run_folder / name).stat().st_size > 0, name
    for name, place in (
        ("model:", f"{ATARI[0]}.zip"),
        ("monitor file:", "monitor.csv"),
        ("learning curve:", "learning_curve.png"),
    ):
        assert [line for line in printed.splitlines() if line.startswith(name) and line.endswith(place)], name
    (tensorboard,) = [line.split(": ")[1].strip() for line in printed.splitlines() if line.startswith("TensorBoard log:")]
    assert list(Path(tensorboard).glob("events.out.tfevents.*"))
    assert printed.count("a full run of 128,000,000 steps with these settings takes about") == 1
    rows = list(csv.DictReader((run_folder / "monitor.csv").read_text().splitlines()[1:]))
    assert len(rows) == 2 and all(int(row["l"]) == 20 and float(row["r_int"]) > 0 for row in rows)
    progress = next(csv.reader([(run_folder / "progress.csv").read_text().splitlines()[0]]))
    assert {"snd/loss", "rollout/novelty_mean", "train/explained_variance_int"} <= set(progress)


def test_checkpoint_holds_the_whole_model(trained):
    path = trained[0] / "ppo_snd" / f"{ATARI[0]}_1" / "rl_model_32_steps.zip"
    model = PPOSND.load(path, device="cpu")
    assert model.num_timesteps == 32 and model.snd.eta == 0.25


def test_enjoy_plays_the_trained_model(trained, monkeypatch, capsys):
    run(monkeypatch, zoo.enjoy, "--algo", "ppo_snd", "--env", ATARI[0], "-f", trained[0], "--no-render", "-n", 25)
    assert "Atari Episode Score" in capsys.readouterr().out


def test_the_zoos_plot(trained):
    """plot_train with the command of the README, and a backend that saves what it would show."""
    code = (
        "import sys, matplotlib; matplotlib.use('Agg')\n"
        "import matplotlib.pyplot as plt\n"
        "from rl_zoo3.plots.plot_train import plot_train\n"
        "plt.show = lambda: print('points', sum(len(line.get_xdata()) for line in plt.gca().lines))\n"
        "plot_train()\n"
    )
    arguments = ["-a", "ppo_snd", "-e", ATARI[0], "-f", str(trained[0]), "-w", "1"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "points 2" in result.stdout


def test_continue_evaluate_and_ordinary_environments(trained, tmp_path, monkeypatch):
    path = trained[0] / "ppo_snd" / f"{ATARI[0]}_1" / f"{ATARI[0]}.zip"
    options = ("--algo", "ppo_snd", "--env", ATARI[0], "-n", 32, "-f", tmp_path, "--seed", 2)
    run(
        monkeypatch,
        zoo.train,
        *options,
        "-i",
        path,
        "--vec-env",
        "subproc",
        "--eval-freq",
        16,
        "--eval-episodes",
        1,
        "-tb",
        tmp_path / "tb",
        *SMALL,
    )
    run_folder = tmp_path / "ppo_snd" / f"{ATARI[0]}_1"
    assert (run_folder / "evaluations.npz").exists()
    assert list((tmp_path / "tb" / ATARI[0]).glob("PPOSND_1/events.out.tfevents.*"))
    assert [path.name for path in run_folder.glob("*monitor.csv")] == ["monitor.csv"]
    continued = PPOSND.load(run_folder / f"{ATARI[0]}.zip", device="cpu")
    assert continued._n_updates == 2 + 1  # two rollouts of one epoch before, one now


def test_a_run_that_logged_nothing_still_says_where_it_lies(tmp_path, monkeypatch, capsys):
    run(monkeypatch, zoo.train, "--algo", "ppo", "--env", ATARI[0], "-n", 32, "-f", tmp_path, "--log-interval", 9, *SMALL)
    assert "learning curve:" in capsys.readouterr().out
    assert (tmp_path / "ppo" / f"{ATARI[0]}_1" / "learning_curve.png").stat().st_size > 0


def test_evaluation_environments_get_no_intrinsic_reward(tmp_path):
    config = tmp_path / "own.yml"
    entry = dict(n_timesteps=64, policy="MlpPolicy", n_steps=32, vec_env_wrapper="sb3_snd.VecIntrinsicReward")
    config.write_text(yaml.safe_dump({"CartPole-v1": entry}))
    args = argparse.Namespace(algo="ppo", env="CartPole-v1")
    options = dict(eval_freq=-1, config=str(config), verbose=0, device="cpu")
    manager = zoo.SNDExperimentManager(args, "ppo", "CartPole-v1", str(tmp_path), **options)
    manager.setup_experiment()
    training, evaluation = manager.create_envs(1), manager.create_envs(1, eval_env=True)
    assert isinstance(training, VecIntrinsicReward) and training.training
    assert isinstance(evaluation, VecIntrinsicReward) and not evaluation.training


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(SystemExit, match=r"sb3-snd\[atari\]"):
        run(monkeypatch, zoo.train, "--algo", "ppo_snd", "--env", ATARI[0], "-f", tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "MontezumaRevengeNoFrameskip-v5"), "you maybe meant MontezumaRevengeNoFrameskip-v"),
        (("--env", "procgen-jumper-v0"), "Procgen environments are not part of this version"),
        (("--env", "CartPole-v1"), "No hyperparameters for CartPole-v1 in ppo_snd.yml"),
        (("--env", ATARI[0], "-params", "snd:'nope'", "n_envs:4"), "Unknown target 'nope': the known ones are"),
        (("--env", ATARI[0], "-params", "snd_kwargs:dict(eta=-1)", "n_envs:4"), "eta=-1 must be"),
        (("--env", ATARI[0], "-params", "nope:1", "n_envs:4"), "Unknown hyperparameter 'nope': ppo_snd takes "),
        (("--env", ATARI[0], "-params", "gamma:2.0", "n_envs:4"), "gamma=2.0 must lie in"),
        (("--env", ATARI[0], "-params", "batch_size:384", "n_envs:4"), "batch_size=384 does not divide"),
        (("--algo", "ppo", "--env", ATARI[0], "-params", "gamma:2.0", "n_envs:4"), "gamma=2.0 must lie in"),
        (("--env", ATARI[0], "--env-kwargs", "difficulty:1"), "argument 'difficulty': the native environments take fewer"),
    ],
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_bad_input_ends_in_one_sentence_and_writes_nothing(arguments, message, tmp_path, monkeypatch):
    folder = tmp_path / "logs"
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, zoo.train, "--algo", "ppo_snd", "-f", folder, *arguments)
    assert message in error.value.code and error.value.code.startswith("train.py: ")
    assert "\n" not in error.value.code
    assert not folder.exists()


def test_enjoy_without_a_model_ends_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"^train.py: .*folder was not found"):
        run(monkeypatch, zoo.enjoy, "--algo", "ppo_snd", "--env", ATARI[0], "-f", tmp_path)


def test_enjoy_refuses_a_zip_of_another_algorithm(tmp_path, monkeypatch):
    folder = tmp_path / "ppo_snd" / f"{ATARI[0]}_1"
    folder.mkdir(parents=True)
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(folder / ATARI[0])
    with pytest.raises(SystemExit, match="was not saved by PPOSND"):
        run(monkeypatch, zoo.enjoy, "--algo", "ppo_snd", "--env", ATARI[0], "-f", tmp_path, "--no-render")


def test_unknown_algo_lists_the_known(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, zoo.train, "--algo", "ppo_sdn", "--env", ATARI[0])
    assert "ppo_snd_vic" in capsys.readouterr().err
