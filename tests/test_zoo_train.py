"""The commands ``train`` and ``enjoy`` as a user types them."""

import contextlib
import csv
import dataclasses
import io
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pytest
import rl_zoo3
import torch as th
import yaml
from stable_baselines3 import DQN, PPO
from test_zoo_hyperparams import ATARI, PROCGEN, SMALL_TASKS

from sb3_snd import PPOSND, envs
from sb3_snd.analyze.__main__ import analyze
from sb3_snd.envs import ProcgenEnv
from sb3_snd.evidence.stages import Stage
from sb3_snd.zoo.__main__ import COMMANDS
from sb3_snd.zoo.command_line import Options
from sb3_snd.zoo.enjoy import enjoy
from sb3_snd.zoo.resume import find_run
from sb3_snd.zoo.train import read_options, train


def run(monkeypatch, function, *arguments):
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    function()


@pytest.mark.parametrize(
    ("words", "expected", "left"),
    [
        ("--algo ppo", Options(), "--algo ppo"),
        ("--resume --env A-v0 --verbose 2", Options(env_id="A-v0", verbose=2, resume=True), "--env A-v0 --verbose 2"),
        ("--env=A-v0 --seed=3", Options(env_id="A-v0", seed_given=True), "--env=A-v0 --seed=3"),
        ("--see 0 --vec-env subproc --env-kwargs a:1", Options(seed_given=True, native=False), None),
    ],
)
def test_the_command_line_in_options(words, expected, left):
    """Flags may be shortened, as in the Zoo. Its parser gets all but --resume, after our default."""
    options, arguments = read_options(words.split())
    assert dataclasses.replace(options, stop=expected.stop) == expected
    assert arguments == ["--eval-freq", "-1", *(left or words).split()]


@pytest.mark.parametrize(
    ("command", "own"), [("train", ["--resume"]), ("enjoy", ["--record FILE.mp4", "--novelty"])], ids=["train", "enjoy"]
)
def test_help_has_our_options_and_those_of_the_zoo(command, own, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sb3-snd", "--help"])
    with pytest.raises(SystemExit) as ended:
        COMMANDS[command](command)
    text = capsys.readouterr().out
    assert ended.value.code == 0 and all(option in text for option in [*own, "--num-threads"])


def test_a_command_leaves_the_zoo_as_it_was(tmp_path, monkeypatch):
    manager = rl_zoo3.train.ExperimentManager
    words = ["--env", "CartPole-v1", "--resume", "-n", 16, "-f", tmp_path, "-params", "n_envs:1", "n_steps:8", "batch_size:8"]
    run(monkeypatch, train, *words)
    assert sys.argv == ["train.py", *map(str, words)] and rl_zoo3.train.ExperimentManager is manager
    assert (tmp_path / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip").stat().st_size > 0


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
    assert model.num_timesteps == 32 and model.snd.scale.eta == 0.25


def test_enjoy_plays_the_trained_model(trained, monkeypatch, capsys):
    run(monkeypatch, enjoy, "--algo", "ppo_snd", "--env", ATARI[0], "-f", trained[0], "--no-render", "-n", 25)
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


@pytest.mark.procgen
@pytest.mark.parametrize(("key", "ordinary"), [("ppo_snd_vic", ()), ("ppo_baseline", ()), ("ppo", ("--vec-env", "dummy"))])
def test_procgen_from_the_command_line(key, ordinary, tmp_path, monkeypatch, capsys):
    options = ("--algo", key, "--env", PROCGEN[2], "-f", tmp_path)
    sizes = ("-n", 32, "-params", "n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1")
    run(monkeypatch, train, *options, *sizes, "--env-kwargs", "num_levels:10", "distribution_mode:'easy'", *ordinary)
    assert ("Wrapping the env in a VecTransposeImage" in capsys.readouterr().out) == bool(ordinary)
    assert (tmp_path / key / f"{PROCGEN[2]}_1" / f"{PROCGEN[2]}.zip").stat().st_size > 0

    made = []

    def make(**kwargs):
        made.append(kwargs)
        return ProcgenEnv(**kwargs)

    monkeypatch.setattr(envs, "ProcgenEnv", make)
    run(monkeypatch, enjoy, *options, "--no-render", "-n", 3)
    changed = {"distribution_mode": "easy", "num_levels": 10, "random_action_probability": 0.01}
    assert made == [{"game": "jumper", **changed}]


SKIPPING = ("num_threads:1", "frame_size:40", "frame_skip:2", "max_episode_steps:6", "reward:'raw'")


@pytest.mark.parametrize("ordinary", [(), ("--vec-env", "dummy")])
def test_arguments_mean_the_same_in_native_and_ordinary_environments(ordinary, tmp_path, monkeypatch):
    """Episodes of 6 agent steps of 2 raw frames each, of an id that repeats actions four times unless it is asked not to."""
    options = ("--algo", "ppo_rnd", "--env", "ALE/Pong-v5", "-f", tmp_path)
    sizes = ("-n", 32, "-params", "n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1")
    run(monkeypatch, train, *options, *sizes, "--env-kwargs", *SKIPPING, "--eval-freq", 8, "--eval-episodes", 1, *ordinary)
    folder = tmp_path / "ppo_rnd" / "ALE-Pong-v5_1"
    rows = list(csv.DictReader((folder / "monitor.csv").read_text().splitlines()[1:]))
    assert [int(row["l"]) for row in rows] == [6] * 4
    assert (np.load(folder / "evaluations.npz")["ep_lengths"] == (12 if ordinary else 6)).all()  # SB3's monitor sees frames
    assert PPOSND.load(folder / "ALE-Pong-v5.zip", device="cpu").observation_space.shape == (4, 40, 40)
    wrapped = {"frame_size": 40, "frame_skip": 2, "max_episode_steps": 6, "reward": "raw"}
    config, arguments = (
        dict(yaml.unsafe_load((folder / "ALE-Pong-v5" / f"{name}.yml").read_text())) for name in ("config", "args")
    )
    assert config["env_wrapper"] == {"sb3_snd.envs.AtariWrapper": wrapped}
    assert config["env_kwargs"] == arguments["env_kwargs"] == {"repeat_action_probability": 0.25, "frameskip": 1}
    if not ordinary:
        read_back(tmp_path, folder, monkeypatch)


def read_back(logs, folder, monkeypatch):
    """What ``train`` took natively, in ordinary environments."""
    options = ("--algo", "ppo_rnd", "--env", "ALE/Pong-v5", "-f", logs)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(monkeypatch, enjoy, *options, "--no-render", "-n", 13)
        run(monkeypatch, enjoy, *options, "--no-render", "-n", 9, "--env-kwargs", "max_episode_steps:4", "num_threads:2")
    lengths = [line for line in printed.getvalue().splitlines() if line.startswith("Atari Episode Length")]
    assert lengths == ["Atari Episode Length 12"] * 2 + ["Atari Episode Length 8"] * 2
    run(monkeypatch, enjoy, *options, "--record", logs / "agent.mp4", "-n", 5)
    assert video(logs / "agent.mp4") in ([160, 210, 5], [160, 210, 6])
    report = analyze([folder / "ALE-Pong-v5.zip"], logs / "analysis", n_states=20, n_envs=2)
    assert "in ALE/Pong-v5" in report.read_text()
    # the Zoo's own commands know nothing of this package but its wrapper
    hyperparams, stats = rl_zoo3.get_saved_hyperparams(str(folder / "ALE-Pong-v5"))
    env_kwargs = hyperparams.pop("env_kwargs")
    plain = rl_zoo3.create_test_env(
        "ALE/Pong-v5", 1, stats, should_render=False, hyperparams=hyperparams, env_kwargs=env_kwargs
    )
    assert plain.observation_space.shape == (40, 40, 4)


@pytest.mark.procgen
def test_number_of_threads_is_a_matter_of_the_machine(tmp_path, monkeypatch, capsys):
    """Of Procgen too; a run may go on with another."""
    options = ("--algo", "ppo", "--env", PROCGEN[2], "-f", tmp_path)
    sizes = ("-params", "n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1")
    for n_steps, n_threads in ((32, 1), (64, 2)):
        run(
            monkeypatch,
            train,
            *options,
            *sizes,
            "--resume",
            "-n",
            n_steps,
            "--save-freq",
            32,
            "--env-kwargs",
            f"num_threads:{n_threads}",
        )
    assert "--resume: continues at step 32" in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_run_is_found_beside_one_whose_arguments_are_being_written(share, tmp_path):
    """The newest file may be empty or end anywhere: the Zoo does not write it at once, and its process may be killed."""
    arguments = [("algo", "ppo"), ("env", "CartPole-v1"), ("n_timesteps", -1), ("seed", 3), ("verbose", 1)]
    text = yaml.dump(OrderedDict(arguments))
    for number, content in ((1, text), (2, text[: int(share * len(text))])):
        path = tmp_path / "ppo" / f"CartPole-v1_{number}" / "CartPole-v1" / "args.yml"
        path.parent.mkdir(parents=True)
        path.write_text(content)
        os.utime(path, (number, number))
    first = tmp_path / "ppo" / "CartPole-v1_1"
    assert find_run(tmp_path / "ppo", "CartPole-v1", None) == find_run(tmp_path / "ppo", "CartPole-v1", 3) == (first, 3)
    assert find_run(tmp_path / "ppo", "CartPole-v1", 4) is None
    assert Stage("CartPole-v1", "ppo", 3, 10).folder(tmp_path) == first


@pytest.mark.parametrize(
    ("flags", "deterministic"),
    [((), False), (("--deterministic",), True), (("--determ",), True), (("--stochastic",), False)],
)
def test_enjoy_draws_actions_as_training_did(flags, deterministic, played, monkeypatch):
    asked = []
    predict = PPOSND.predict

    def remember(self, *args, **kwargs):
        asked.append(kwargs["deterministic"])
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(PPOSND, "predict", remember)
    run(monkeypatch, enjoy, "--algo", "ppo_rnd", "--env", "MountainCar-v0", "-f", played, "--no-render", "-n", 3, *flags)
    assert asked == [deterministic] * 3


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Models of two algorithms, of which one draws its actions in training."""
    folder = tmp_path_factory.mktemp("played")
    for key, model in (
        ("ppo_rnd", PPOSND("MlpPolicy", "MountainCar-v0", snd="rnd", n_steps=16, batch_size=16, device="cpu")),
        ("dqn", DQN("MlpPolicy", "MountainCar-v0", buffer_size=10, device="cpu")),
    ):
        model.save(folder / key / "MountainCar-v0_1" / "MountainCar-v0.zip")
        config = folder / key / "MountainCar-v0_1" / "MountainCar-v0" / "config.yml"
        config.parent.mkdir()
        config.write_text("{}\n")
    return folder


def test_enjoy_leaves_off_policy_algorithms_as_the_zoo_plays_them(played, monkeypatch):
    asked = []

    def remember(*_, **kwargs):
        asked.append(kwargs["deterministic"])
        return np.array([0]), None

    monkeypatch.setattr(DQN, "predict", remember)
    run(monkeypatch, enjoy, "--algo", "dqn", "--env", "MountainCar-v0", "-f", played, "--no-render", "-n", 2)
    assert asked == [True, True]


def video(path):
    """Width, height, number of frames (of which moviepy may drop the last)."""
    capture = cv2.VideoCapture(str(path))
    return [int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)]


@pytest.mark.parametrize(("flags", "height"), [((), 210), (("--novelty",), 210 + 2 * round(210 / 12))])
def test_record_atari(flags, height, trained, tmp_path, monkeypatch):
    options = ("--algo", "ppo_snd", "--env", ATARI[0], "-f", trained[0], "-n", 25)
    run(monkeypatch, enjoy, *options, "--record", tmp_path / "agent.mp4", *flags)
    assert video(tmp_path / "agent.mp4") in ([160, height, 25], [160, height, 26])
    assert rl_zoo3.ALGOS["ppo_snd"] is PPOSND  # left as it was


@pytest.mark.procgen
def test_record_procgen(tmp_path, monkeypatch):
    sizes = ("-n", 32, "-params", "n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1")
    run(monkeypatch, train, "--algo", "ppo", "--env", PROCGEN[2], "-f", tmp_path, *sizes)
    options = ("--algo", "ppo", "--env", PROCGEN[2], "-f", tmp_path, "-n", 5)
    run(monkeypatch, enjoy, *options, "--record", tmp_path / "agent.mp4")
    assert video(tmp_path / "agent.mp4") in ([512, 512, 5], [512, 512, 6])
    with pytest.raises(SystemExit, match="A model of ppo has no SND whose novelty could be drawn: remove --novelty"):
        run(monkeypatch, enjoy, *options, "--record", tmp_path / "agent.mp4", "--novelty")


def test_unknown_algo_of_a_recording(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, enjoy, "--algo", "ppo_sdn", "--env", ATARI[0], "--record", tmp_path / "agent.mp4")
    assert "ppo_snd_vic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [(("--novelty",), "--novelty draws into a video"), (("--record", "agent.gif"), "agent.gif: the video is an mp4 file")],
)
def test_bad_flags_of_a_recording(flags, message, trained, monkeypatch):
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, enjoy, "--algo", "ppo_snd", "--env", ATARI[0], "-f", trained[0], *flags)


def test_continue_evaluate_and_ordinary_environments(trained, tmp_path, monkeypatch):
    path = trained[0] / "ppo_snd" / f"{ATARI[0]}_1" / f"{ATARI[0]}.zip"
    options = ("--algo", "ppo_snd", "--env", ATARI[0], "-n", 32, "-f", tmp_path, "--seed", 2)
    run(
        monkeypatch,
        train,
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
    run(monkeypatch, train, "--algo", "ppo", "--env", ATARI[0], "-n", 32, "-f", tmp_path, "--log-interval", 9, *SMALL)
    assert "learning curve:" in capsys.readouterr().out
    assert (tmp_path / "ppo" / f"{ATARI[0]}_1" / "learning_curve.png").stat().st_size > 0


def own_file(folder):
    """A user's own YAML file, for an environment of images whose frames are stacked."""
    config = folder / "own.yml"
    entry = dict(
        n_timesteps=64,
        policy="CnnPolicy",
        n_envs=2,
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        frame_stack=3,
        env_wrapper=[{"sb3_snd.envs.AtariWrapper": {"frame_size": 36, "max_episode_steps": 12}}],
        vec_env_wrapper=[{"sb3_snd.VecIntrinsicReward": {"snd": "rnd", "ext_coef": 3.0}}],
        callback=[{"sb3_snd.SNDCallback": {"save_path": str(folder / "snd")}}],
    )
    config.write_text(yaml.dump({ATARI[0]: entry}))
    return config


def test_bonus_through_the_zoo_alone(tmp_path):
    """
    ``python -m rl_zoo3.train``: the wrapper stands before stacking and transposition, learns from single frames, and does
    not reward in the evaluation environment, where the score is 0 in a game that nobody can win in 12 steps.
    """
    options = ["--algo", "ppo", "--env", ATARI[0], "--conf-file", own_file(tmp_path), "-f", tmp_path / "logs", "--seed", 0]
    more = ["--eval-freq", 32, "--eval-episodes", 2, "--device", "cpu", "--gym-packages", "ale_py"]
    command = [sys.executable, "-m", "rl_zoo3.train", *options, *more]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Stacking 3 frames" in result.stdout and "snd/" in result.stdout and "intrinsic_reward_mean" in result.stdout
    evaluations = np.load(tmp_path / "logs" / "ppo" / f"{ATARI[0]}_1" / "evaluations.npz")
    assert evaluations["results"].tolist() == [[0.0, 0.0]] * 2 and (evaluations["ep_lengths"] == 4 * 12).all()
    saved = th.load(tmp_path / "snd" / "rl_model.snd.pth", weights_only=True)
    assert saved["snd"]["target.frame_stats.mean"].shape == (1, 36, 36)
    assert saved["snd"]["target.frame_stats.count"] == 1 + 32  # the steps of training, not those of evaluation


def test_a_callback_without_the_wrapper_is_named_through_the_zoo(tmp_path):
    entry = dict(n_timesteps=64, policy="MlpPolicy", n_steps=32, batch_size=32, callback="sb3_snd.SNDCallback")
    (tmp_path / "own.yml").write_text(yaml.dump({"CartPole-v1": entry}))
    options = ["--algo", "ppo", "--env", "CartPole-v1", "--conf-file", tmp_path / "own.yml", "-f", tmp_path / "logs"]
    command = [sys.executable, "-m", "rl_zoo3.train", *options, "--eval-freq", -1]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: SNDCallback found no intrinsic reward: wrap the environment in VecIntrinsicReward")


def test_the_same_file_with_our_command(tmp_path, monkeypatch):
    run(monkeypatch, train, "--algo", "ppo", "--env", ATARI[0], "-c", own_file(tmp_path), "-f", tmp_path / "logs")
    rows = list(csv.DictReader((tmp_path / "logs" / "ppo" / f"{ATARI[0]}_1" / "monitor.csv").read_text().splitlines()[1:]))
    assert len(rows) == 4 and all(int(row["l"]) == 12 and float(row["r_int"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("package", "extra", "env_id"),
    [("ale_py", "atari", ATARI[0]), ("minigrid", "minigrid", SMALL_TASKS[2]), ("procgen", "procgen", PROCGEN[0])],
)
def test_missing_extra_is_named(package, extra, env_id, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=rf"sb3-snd\[{extra}\]"):
        run(monkeypatch, train, "--algo", "ppo_snd", "--env", env_id, "-f", tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "MontezumaRevengeNoFrameskip-v5"), "you maybe meant MontezumaRevengeNoFrameskip-v"),
        (("--env", "procgen-jumpr-v0"), "you maybe meant procgen-jumper-v0"),
        (("--env", "procgen-bigfish-v0"), "No hyperparameters for procgen-bigfish-v0"),
        (("--algo", "ppo_e3b", "--env", "PongNoFrameskip-v4"), "No hyperparameters for PongNoFrameskip-v4 in ppo_e3b.yml"),
        pytest.param(
            ("--env", PROCGEN[2], "--env-kwargs", "num_levels:10"),
            "num_levels=10 is not supported with distribution_mode=",
            marks=pytest.mark.procgen,
        ),
        pytest.param(
            ("--env", PROCGEN[2], "--env-kwargs", "nonsense:1"),
            "Procgen has no option 'nonsense': choose from center_agent",
            marks=pytest.mark.procgen,
        ),
        pytest.param(
            ("--env", PROCGEN[2], "--env-kwargs", "nonsense:1", "--vec-env", "dummy"),
            "Procgen has no option 'nonsense'",
            marks=pytest.mark.procgen,
        ),
        (("--env", "CartPole-v1"), "No hyperparameters for CartPole-v1 in ppo_snd_vic.yml"),
        (("--env", ATARI[0], "-params", "snd:'nope'", "n_envs:4"), "Unknown reward snd='nope': choose one of"),
        (("--env", ATARI[0], "-params", "snd_kwargs:dict(eta=-1)", "n_envs:4"), "eta=-1 must be"),
        (("--env", ATARI[0], "-params", "nope:1", "n_envs:4"), "Unknown hyperparameter 'nope': ppo_snd takes "),
        (("--env", ATARI[0], "-params", "gamma:2.0", "n_envs:4"), "gamma=2.0 must lie in"),
        (("--algo", "ppo", "--env", ATARI[0], "-params", "gamma:2.0", "n_envs:4"), "gamma=2.0 must lie in"),
        (
            ("--env", ATARI[0], "--env-kwargs", "n_stack:3"),
            "n_stack=3 cannot be an argument of the environment here: use the hyperparameter frame_stack",
        ),
        (("--env", PROCGEN[2], "--env-kwargs", "n_stack:3", "--vec-env", "dummy"), "use the hyperparameter frame_stack"),
        (
            ("--env", ATARI[0], "--eval-env-kwargs", "seed:3"),
            "seed=3 cannot be an argument of the environment here: use --seed",
        ),
        (("--env", ATARI[0], "--env-kwargs", "frameskip:4", "--vec-env", "dummy"), "use frame_skip instead"),
        (("--env", ATARI[0], "--env-kwargs", "reward:'clip'"), "reward='clip' must be one of 'positive', 'sign', 'raw'"),
        (("--env", "ALE/Pong-v5", "--env-kwargs", "reward:1", "--vec-env", "dummy"), "reward=1 must be one of 'positive'"),
        (("--env", ATARI[0], "--env-kwargs", "max_episode_steps:0", "--vec-env", "dummy"), "max_episode_steps=0 must be"),
        (("--env", ATARI[0], "--env-kwargs", "num_threads:-1", "--vec-env", "dummy"), "num_threads=-1 must be"),
        (("--env", ATARI[0], "--env-kwargs", "difficulty:1"), "argument 'difficulty': the native environments take fewer"),
    ],
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_bad_input_ends_in_one_sentence_and_writes_nothing(arguments, message, tmp_path, monkeypatch):
    folder = tmp_path / "logs"
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, train, "--algo", "ppo_snd", "-f", folder, *arguments)
    assert message in error.value.code and error.value.code.startswith("train.py: ")
    assert "\n" not in error.value.code
    assert not folder.exists()


def test_enjoy_without_a_model_ends_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"^train.py: .*folder was not found"):
        run(monkeypatch, enjoy, "--algo", "ppo_snd", "--env", ATARI[0], "-f", tmp_path)


def test_enjoy_refuses_a_zip_of_another_algorithm(tmp_path, monkeypatch):
    folder = tmp_path / "ppo_snd" / f"{ATARI[0]}_1"
    folder.mkdir(parents=True)
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(folder / ATARI[0])
    with pytest.raises(SystemExit, match="was not saved by PPOSND"):
        run(monkeypatch, enjoy, "--algo", "ppo_snd", "--env", ATARI[0], "-f", tmp_path, "--no-render")


def test_unknown_algo_lists_the_known(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, train, "--algo", "ppo_sdn", "--env", ATARI[0])
    assert "ppo_snd_vic" in capsys.readouterr().err
