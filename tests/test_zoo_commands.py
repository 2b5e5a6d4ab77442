"""The Zoo's other commands, as ``sb3-snd`` calls them, with this package's algo keys, on runs of it."""

import argparse
import json
import re
import shlex
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import cv2
import huggingface_hub
import pytest
import requests
import rl_zoo3.utils
import torch as th
import yaml
from stable_baselines3.common.vec_env import VecNormalize

from sb3_snd import PPOSND, envs
from sb3_snd.envs import ProcgenEnv
from sb3_snd.zoo.__main__ import main
from sb3_snd.zoo.hub import train_command

ENV_ID, JUMPER = "CartPole-v1", "procgen-jumper-v0"
SIZES = dict(policy="MlpPolicy", n_timesteps=48, n_envs=2, n_steps=8, batch_size=8, n_epochs=1)
COUNTED = [1e-4 + 2 + n_steps for n_steps in (16, 32, 48)]  # those of the reset, and one a step


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["zoo.py", *map(str, arguments)])
    main()


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """A run with normalised observations and three checkpoints, by the command without a name."""
    monkeypatch.chdir(tmp_path)
    Path("own.yml").write_text(yaml.dump({ENV_ID: {**SIZES, "normalize": True}}))
    call(monkeypatch, "--algo", "ppo_snd", "--env", ENV_ID, "--conf-file", "own.yml", "--save-freq", 16, "--device", "cpu")
    return tmp_path / "logs"


@pytest.fixture
def counted(monkeypatch):
    """What the statistics that are loaded have counted."""
    found, load = [], VecNormalize.load

    def remember(path, venv):
        normalizer = load(path, venv)
        found.append(normalizer.obs_rms.count)
        return normalizer

    monkeypatch.setattr(VecNormalize, "load", staticmethod(remember))
    return found


def frames(path):
    capture = cv2.VideoCapture(str(path))
    return [int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)]


def test_record_video_of_a_checkpoint(logs, counted, monkeypatch):
    before = rl_zoo3.utils.create_test_env, rl_zoo3.utils.get_model_path, rl_zoo3.create_test_env
    call(monkeypatch, "record_video", "--algo", "ppo_snd", "--env", ENV_ID, "-n", 5, "--no-render", "--load-checkpoint", 32)
    (video,) = (logs / "ppo_snd" / f"{ENV_ID}_1" / "videos").glob("*.mp4")
    assert video.name == f"checkpoint-32-ppo_snd-{ENV_ID}-step-0-to-step-5.mp4"
    assert frames(video) in ([600, 400, 5], [600, 400, 6])  # moviepy may drop the last
    assert counted == COUNTED[1:2]
    assert (rl_zoo3.utils.create_test_env, rl_zoo3.utils.get_model_path, rl_zoo3.create_test_env) == before


@pytest.mark.procgen
def test_record_video_shows_the_environment_of_the_run(tmp_path, monkeypatch):
    """The entry's ``env_kwargs``, which the Zoo's command looks for only where they were typed, and those that were."""
    made = []

    def make(**kwargs):
        made.append(kwargs)
        return ProcgenEnv(**kwargs)

    options = ("--algo", "ppo_snd", "--env", JUMPER, "-f", tmp_path)
    sizes = ("-n", 32, "-params", "n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1", "--device", "cpu")
    call(monkeypatch, "train", *options, *sizes)
    monkeypatch.setattr(envs, "ProcgenEnv", make)
    call(monkeypatch, "record_video", *options, "-n", 3, "-o", tmp_path / "videos")
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert frames(video)[:2] == [512, 512]
    entry = {"distribution_mode": "exploration", "random_action_probability": 0.01}
    assert made == [{"game": "jumper", "render_mode": "rgb_array", **entry}]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Stands for the Hugging Face Hub: what is uploaded lies in a folder, from where it is downloaded."""
    uploaded = tmp_path / "uploaded"

    def download(*, repo_id, filename, **_):
        assert repo_id == f"somebody/ppo_snd-{ENV_ID}"
        if not (uploaded / filename).exists():
            raise huggingface_hub.errors.EntryNotFoundError(f"404 Client Error.\n\n{filename} is not there")
        return str(uploaded / filename)

    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda *_, repo_id, **__: f"https://huggingface.co/{repo_id}")
    monkeypatch.setattr(api, "snapshot_download", lambda *_, local_dir, **__: local_dir.mkdir(parents=True))
    monkeypatch.setattr(api, "upload_folder", lambda *_, folder_path, **__: shutil.copytree(folder_path, uploaded))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "True")
    return uploaded


HUB = ("--algo", "ppo_snd", "--env", ENV_ID, "-orga", "somebody")


def test_to_the_hub_and_back(logs, hub, counted, tmp_path, monkeypatch):
    call(monkeypatch, "push_to_hub", *HUB, "-f", logs, "--no-render", "--load-checkpoint", 16, "--device", "cpu")
    card = (hub / "README.md").read_text()
    assert f"sb3-snd load --algo ppo_snd --env {ENV_ID} -orga somebody -f logs/" in card
    assert "rl_zoo3." not in card and "pip install rl_zoo3" not in card
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "stable-baselines3" and head["model-index"][0]["name"] == "PPOSND"
    rows = dict(re.findall(r"^\| (\w[\w ]*) \| (.*) \|$", card, re.MULTILINE))
    score = json.loads((hub / "results.json").read_text())
    assert (rows["Task"], rows["Algorithm"], rows["Trained for"]) == (f"`{ENV_ID}`", "`ppo_snd`", "16 steps")
    assert rows["Score"].startswith(f"{score['mean_reward']:.2f} ± {score['std_reward']:.2f}, ")
    assert rows["Score"].endswith(" over 10 episodes with deterministic actions")
    assert f"torch {version('torch')}" in rows["Uploaded with"] and rows["Uploaded with"].startswith("sb3-snd ")
    assert card.index("# **PPOSND** Agent") < card.index("## This model") < card.index("## Usage")
    assert (hub / "learning_curve.png").read_bytes().startswith(b"\x89PNG") and "](learning_curve.png)" in card
    call(monkeypatch, "load_from_hub", *HUB, "-f", tmp_path / "new")
    model = PPOSND.load(tmp_path / "new" / "ppo_snd" / f"{ENV_ID}_1" / f"{ENV_ID}.zip", device="cpu")
    assert model.num_timesteps == 16
    call(monkeypatch, "enjoy", "--algo", "ppo_snd", "--env", ENV_ID, "-f", tmp_path / "new", "--no-render", "-n", 3)
    assert counted == [COUNTED[0], COUNTED[0]]


def test_the_command_of_the_card_trains_the_same_model(logs, hub, monkeypatch):
    """Whose seed was drawn. A file with hyperparameters is named without its folder."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    call(monkeypatch, "push_to_hub", *HUB, "-f", logs, "--no-render", "--device", "cpu")
    card = (hub / "README.md").read_text()
    assert "learning_curve" not in card and not (hub / "learning_curve.png").exists()
    command = shlex.split(re.search(r"It was trained with:\n```bash\n(.*)\n```", card)[1])
    assert command[:6] == ["sb3-snd", "train", "--algo", "ppo_snd", "--env", ENV_ID] and command[-2:] == [
        "--conf-file",
        "own.yml",
    ]
    call(monkeypatch, *command[1:], "--device", "cpu")
    first, second = (PPOSND.load(logs / "ppo_snd" / f"{ENV_ID}_{n}" / f"{ENV_ID}.zip", device="cpu") for n in (1, 2))
    assert first.num_timesteps == second.num_timesteps == 48
    for mine, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert th.equal(mine, other)


def test_the_command_of_a_card_keeps_what_was_typed():
    """The Zoo's own parser reads it back: strings, dicts and lists among the hyperparameters."""
    hyperparams = {"callback": "sb3_snd.ExplorationLogger", "learning_rate": "lin_1e-4", "snd_kwargs": {"eta": 0.5}}
    given = {"env_kwargs": {"size": 20, "words": ["a b", "it's"]}, "hyperparams": hyperparams}
    args = {"algo": "ppo", "env": "Own/Env-v0", "seed": 0, "n_timesteps": 9, "conf_file": "/home/me/x.yml"}
    line = train_command({**args, "gym_packages": ["mine"], **given})
    assert line.startswith("sb3-snd train --algo ppo --env Own/Env-v0 --seed 0 -n 9 --conf-file x.yml --gym-packages mine ")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--env-kwargs", nargs="+", action=rl_zoo3.utils.StoreDict)
    parser.add_argument("-params", dest="hyperparams", nargs="+", action=rl_zoo3.utils.StoreDict)
    assert vars(parser.parse_known_args(shlex.split(line))[0]) == given
    defaults = {**args, "n_timesteps": -1, "conf_file": None, "gym_packages": [], "env_kwargs": None, "hyperparams": None}
    assert train_command(defaults) == "sb3-snd train --algo ppo --env Own/Env-v0 --seed 0"


def test_what_is_missing_on_the_hub(logs, hub, tmp_path, monkeypatch, capsys):
    """Statistics may be, where nothing was normalised; a model may not, and without trust nothing is loaded."""
    call(monkeypatch, "push_to_hub", *HUB, "-f", logs, "--no-render", "--device", "cpu")
    (hub / "vec_normalize.pkl").unlink()
    call(monkeypatch, "load_from_hub", *HUB, "-f", tmp_path / "new")
    assert "No normalization file" in capsys.readouterr().out
    (hub / "config.yml").unlink()
    message = f"zoo.py: config.yml of somebody/ppo_snd-{ENV_ID} could not be loaded: 404 Client Error"
    with pytest.raises(SystemExit, match=message):
        call(monkeypatch, "load_from_hub", *HUB, "-f", tmp_path / "other")
    monkeypatch.delenv("TRUST_REMOTE_CODE")
    with pytest.raises(SystemExit, match=r"zoo.py: You are about to download a model .* `TRUST_REMOTE_CODE` to `True`"):
        call(monkeypatch, "load_from_hub", *HUB, "-f", tmp_path / "other")


def test_the_hub_out_of_reach_is_one_sentence(logs, monkeypatch):
    def create_repo(*_, **__):
        raise requests.ConnectionError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    with pytest.raises(
        SystemExit, match=r"zoo.py: the Hugging Face Hub could not be used \(no route to host\): check the con"
    ):
        call(monkeypatch, "push_to_hub", *HUB, "-f", logs, "--no-render", "--device", "cpu")


def test_plots(logs, monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.gca().lines[0].get_xdata())))
    (logs / "ppo_snd" / f"{ENV_ID}_1" / "monitor.csv").write_text(
        '#{"t_start": 0, "env_id": "e"}\nr,l,t\n1,9,1\n2,9,2\n3,9,3\n'
    )
    call(monkeypatch, "plot_train", "-a", "ppo_snd", "-e", ENV_ID, "-f", logs, "-w", 1)
    assert shown == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trian", "--algo", "ppo"],
            "zoo.py: unknown command 'trian': choose from train, enjoy, record_video, push_to_hub, load",
        ),
        (["record_video", "--algo", "ppo_snd", "--env", ENV_ID], f"zoo.py: The logs/ppo_snd folder was not found|{ENV_ID}_0"),
        (["push_to_hub", "--algo", "ppo_snd", "--env", ENV_ID, "-f", "logs", "-orga", "me"], "zoo.py: The logs/ppo_snd"),
    ],
)
def test_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as error:
        call(monkeypatch, *arguments)
    assert "\n" not in error.value.code


@pytest.mark.parametrize("command", ["record_video", "push_to_hub", "load_from_hub"])
def test_unknown_algo_lists_the_known(command, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, command, "--algo", "ppo_sdn", "--env", ENV_ID)
    assert "ppo_snd_vic" in capsys.readouterr().err


@pytest.mark.usefixtures("logs")
def test_without_moviepy_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    options = ("--algo", "ppo_snd", "--env", ENV_ID)
    for arguments in (["record_video", *options], ["enjoy", *options, "--record", tmp_path / "agent.mp4"]):
        with pytest.raises(SystemExit, match=r'The package moviepy could not be imported: run `pip install "sb3-snd\[zoo\]"`'):
            call(monkeypatch, *arguments)
