"""``train.py --resume``: the run goes on in its folder to the same end as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import torch as th
from run_helpers import everything, rows

from sb3_snd import PPOSND
from sb3_snd.zoo.train import train


def zoo_run(folder, *more):
    options = ["--algo", "ppo_snd", "--env", "DeepSea-v0", "-n", 512, "--seed", 3, "-f", folder, "--save-freq", 64]
    options += ["--num-threads", 1, *more]
    return [*map(str, options), "-params", "n_envs:4", "n_steps:16", "batch_size:32", "n_epochs:1"]


def test_resume_from_the_command_line(tmp_path, monkeypatch, capsys):
    """SIGTERM ends with 143, SIGINT with 0, and the run goes on in its folder to the same end as an undisturbed one."""
    root = Path(__file__).parent.parent
    code = "import os, signal; from sb3_snd.zoo.train import train\n"
    code += "from stable_baselines3.common.callbacks import BaseCallback\n"
    code += "class Kill(BaseCallback):\n    def _on_step(self):\n"
    code += "        if self.num_timesteps == int(os.environ['STEP']): os.kill(os.getpid(), int(os.environ['SIGNAL']))\n"
    code += "        return True\n"
    code += "train() if __name__ == '__main__' else None\n"
    (tmp_path / "killing.py").write_text(code)
    own = ("callback:'killing.Kill'",)
    for number, step, expected in [(signal.SIGTERM, 100, 143), (signal.SIGINT, 300, 0), (signal.SIGKILL, 400, -9)]:
        environ = {**os.environ, "STEP": str(step), "SIGNAL": str(int(number)), "PYTHONPATH": f"{root}:{tmp_path}"}
        command = [sys.executable, "-m", "killing", *zoo_run(tmp_path / "killed", "--resume"), *own]
        result = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert result.returncode == expected, result.stderr
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STEP", "-1")
    for folder, more in ((tmp_path / "killed", ["--resume"]), (tmp_path / "whole", [])):
        monkeypatch.setattr(sys, "argv", ["train.py", *zoo_run(folder, *more), *own])
        train()
    printed = capsys.readouterr().out
    assert "rl_model_384_steps.zip" in printed and "--resume: continues at step 384." in printed
    runs = [folder / "ppo_snd" / "DeepSea-v0_1" for folder in (tmp_path / "whole", tmp_path / "killed")]
    assert [path.name for path in runs[1].parent.iterdir()] == ["DeepSea-v0_1"]
    whole, other = (PPOSND.load(run / "DeepSea-v0.zip", device="cpu") for run in runs)
    (tensors, counters), (others, other_counters) = everything(whole), everything(other)
    assert counters == other_counters and counters[0] == 512
    assert [name for name in tensors if not th.equal(th.as_tensor(tensors[name]), th.as_tensor(others[name]))] == []
    assert rows(runs[0] / "monitor.csv", "t") == rows(runs[1] / "monitor.csv", "t")

    changed = [*zoo_run(tmp_path / "killed", "--resume"), "gamma:0.5", *own]
    monkeypatch.setattr(sys, "argv", ["train.py", *changed])
    with pytest.raises(SystemExit, match=r"--resume: gamma was 0.99 and is 0.5: use the hyperparameters of the run"):
        train()
    other_seed = zoo_run(tmp_path / "killed", "--resume", "--seed=4")
    monkeypatch.setattr(sys, "argv", ["train.py", *[part for part in other_seed if part not in ("--seed", "3")], *own])
    train()
    assert "there is no run of {'algo': 'ppo_snd', 'environment': 'DeepSea-v0', 'seed': 4}" in capsys.readouterr().out
    longer = zoo_run(tmp_path / "killed", "--resume")
    longer[longer.index("512")] = "576"
    monkeypatch.setattr(sys, "argv", ["train.py", *longer, *own])
    train()
    assert PPOSND.load(runs[1] / "DeepSea-v0.zip", device="cpu").num_timesteps == 576


def test_the_baseline_is_resumed(tmp_path, monkeypatch):
    """To the same end as an undisturbed run, bit for bit; its monitor file has the columns of both streams."""
    for folder, lengths in (("whole", ["512"]), ("halves", ["256", "512"])):
        for n_steps in lengths:
            options = zoo_run(tmp_path / folder, "--resume")
            options[options.index("ppo_snd")] = "ppo_baseline"
            options[options.index("512")] = n_steps
            monkeypatch.setattr(sys, "argv", ["train.py", *options])
            train()
    runs = [tmp_path / folder / "ppo_baseline" / "DeepSea-v0_1" for folder in ("whole", "halves")]
    models = [PPOSND.load(run / "DeepSea-v0.zip", device="cpu") for run in runs]
    (tensors, counters), (others, other_counters) = map(everything, models)
    assert counters == other_counters and counters[0] == 512 and models[1].snd is None
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not th.equal(th.as_tensor(tensors[name]), th.as_tensor(others[name]))] == []
    episodes = rows(runs[0] / "monitor.csv", "t")
    assert episodes == rows(runs[1] / "monitor.csv", "t") and len(episodes) == 4 * (128 // 10)  # of ten steps
    assert all(row["r_ext"] == row["r"] and float(row["r_int"]) == 0 for row in episodes)


def test_no_limit_and_no_future_are_resumed(tmp_path, monkeypatch, capsys):
    (tmp_path / "own.yml").write_text("DeepSea-v0: {policy: MlpPolicy, n_timesteps: 64, max_grad_norm: .inf, gamma: 0}")
    for n_steps in ("64", "128"):
        options = zoo_run(tmp_path / "logs", "--resume", "--conf-file", tmp_path / "own.yml")
        options[options.index("512")] = n_steps
        monkeypatch.setattr(sys, "argv", ["train.py", *options])
        train()
    assert "--resume: continues at step 64." in capsys.readouterr().out
    folder = tmp_path / "logs" / "ppo_snd" / "DeepSea-v0_1"
    assert "max_grad_norm\n    - .inf" in (folder / "DeepSea-v0" / "config.yml").read_text()
    loaded = PPOSND.load(folder / "DeepSea-v0.zip", device="cpu")
    assert (loaded.num_timesteps, loaded.max_grad_norm, loaded.gamma) == (128, float("inf"), 0)


def test_episodes_of_emulators_begin_anew_and_the_log_says_so(tmp_path, monkeypatch, capsys):
    wrapper = "env_wrapper:{'sb3_snd.envs.AtariWrapper':{'frame_size':36,'max_episode_steps':20}}"
    sizes = ["-params", "n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1", wrapper]
    options = ["--algo", "ppo_rnd", "--env", "MontezumaRevengeNoFrameskip-v4", "--seed", 1, "-f", tmp_path, "--save-freq", 32]
    for n_steps in (32, 96):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*options, "-n", n_steps, "--resume"]), *sizes])
        train()
    printed = capsys.readouterr().out
    reason = "the state of the environments of AtariVecEnv cannot be saved."
    assert f"--resume: continues at step 32. All episodes restart: {reason}" in printed
    (run,) = (tmp_path / "ppo_rnd").iterdir()
    assert [row["l"] for row in rows(run / "monitor.csv")] == ["20", "20"]  # one of 16 steps was begun and is forgotten
    assert PPOSND.load(run / "MontezumaRevengeNoFrameskip-v4.zip", device="cpu").num_timesteps == 96


def test_a_run_without_a_checkpoint_keeps_its_logs_until_it_restarts(tmp_path, monkeypatch):
    """Bad input deletes nothing; the restarted run has event files of its own only."""

    def events():
        return [path.name for path in tmp_path.rglob("events.out.tfevents.*")]

    options = zoo_run(tmp_path, "--resume")
    options[options.index("--save-freq") + 1] = "-1"
    options[options.index("512")] = "64"
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    train()
    before = events()
    assert len(before) == 1
    monkeypatch.setattr(sys, "argv", ["train.py", *options, "gamma:7"])
    with pytest.raises(SystemExit, match="gamma=7 must lie in"):
        train()
    assert events() == before
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    train()
    assert len(events()) == 1 and events() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--algo", "dqn", "--env", "CartPole-v1"], "--resume is for on-policy algorithms, but dqn uses a replay buffer"),
        (["--algo", "ppo_snd", "--env", "DeepSea-v0", "-i", "{model}"], "--resume cannot be combined with -i or -opt"),
    ],
)
def test_what_cannot_be_resumed(options, message, tmp_path, monkeypatch):
    PPOSND("MlpPolicy", gym.make("DeepSea-v0"), n_steps=64, device="cpu").save(tmp_path / "model.zip")
    options = [option.format(model=tmp_path / "model.zip") for option in options]
    monkeypatch.setattr(sys, "argv", ["train.py", *options, "--resume", "-f", str(tmp_path / "logs")])
    with pytest.raises(SystemExit, match=message):
        train()
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["model.zip"]'
