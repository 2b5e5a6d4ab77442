"""Runs that are killed and go on: the same nets, bit for bit, and the same logs, as of a run that nobody disturbed."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import gymnasium as gym
import pytest
import torch as th
from fakes import Trace
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_snd import PPOSND, ExplorationLogger, SNDCallback, VecIntrinsicReward
from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.runs import log_files
from sb3_snd.runs.checkpoint_files import find_checkpoint, list_checkpoints, save_atomically, why_unusable
from sb3_snd.runs.checkpoints import RunCheckpoint, find_snd
from sb3_snd.runs.log_files import delete_event_files
from sb3_snd.runs.monitor import StreamMonitor
from sb3_snd.runs.resume import load_run
from sb3_snd.runs.stop_request import StopRequest
from sb3_snd.zoo import train as train_command

IDENTITY = {"algo": "some", "environment": "DeepSea-v0", "seed": 5}
SIZES = dict(n_steps=16, batch_size=32, n_epochs=2, seed=5, device="cpu")
TOTAL = 640  # ten rollouts of 4 x 16


class Until(BaseCallback):
    """Does something at a step."""

    def __init__(self, step, what):
        super().__init__()
        self.step, self.what = step, what

    def _on_step(self):
        if self.num_timesteps == self.step:
            self.what()
        return True


def two_streams(env):
    fading = LinearSchedule(1.0, 0.0, 1.0)
    snd_kwargs = {"norm_reward": True, "learning_rate": LinearSchedule(1e-3, 0.0, 1.0), "eta": fading}
    return PPOSND, env, dict(snd="v", snd_kwargs=snd_kwargs, ext_coef=LinearSchedule(2.0, 1.0, 1.0), int_coef=fading)


def bonus(env):
    snd_kwargs = {"norm_reward": True, "learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}
    return PPO, VecIntrinsicReward(env, "rnd", snd_kwargs, int_coef=LinearSchedule(1.0, 0.0, 1.0)), {}


def episodic(env):
    return PPOSND, env, dict(snd=Trace, snd_kwargs={"norm_reward": True})


def episodic_bonus(env):
    return PPO, VecIntrinsicReward(env, Trace), {}


def plain(env):
    return A2C, env, {}


def train(folder, kind=two_streams, stop=None, step=0, what=None, total=TOTAL):
    """Go on with the run in the folder, or begin it."""
    folder.mkdir(exist_ok=True)
    th.manual_seed(0)  # of the bonus' nets
    venv = VecNormalize(make_vec_env("DeepSea-v0", 4, seed=5, env_kwargs={"size": 5}), norm_obs=False)
    algorithm, env, kwargs = kind(venv)
    path, _ = find_checkpoint(folder, IDENTITY)
    if path is None:
        delete_event_files(folder)
    callbacks = [Until(step, what), StreamMonitor(folder, "DeepSea-v0", append=path is not None), ExplorationLogger()]
    callbacks += [SNDCallback()] if kind in (bonus, episodic_bonus) else []
    _, eval_env, _ = kind(VecNormalize(make_vec_env("DeepSea-v0", env_kwargs={"size": 5}), norm_obs=False, training=False))
    callbacks += [EvalCallback(eval_env, eval_freq=20, n_eval_episodes=1, verbose=0)]
    if path is None:
        sizes = {
            name: value for name, value in SIZES.items() if algorithm is not A2C or name not in ("batch_size", "n_epochs")
        }
        model = algorithm("MlpPolicy", env, tensorboard_log=str(folder), **sizes, **kwargs)
        resumed = None
    else:
        model, resumed, reason = load_run(path, algorithm, env, 5, tensorboard_log=str(folder))
        assert reason == ""
    callbacks.append(RunCheckpoint(folder, 64, callbacks, IDENTITY, stop, resumed))
    model.learn(total - model.num_timesteps, callback=callbacks, reset_num_timesteps=path is None, tb_log_name="tb")
    return model


def in_a_child(function, *args):
    """Of one thread, as a fork has none of its parent's others. :return: the signal that ended it, 0 if none did"""
    pid = os.fork()
    if pid == 0:
        th.set_num_threads(1)
        code = 1
        try:
            function(*args)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def everything(model):
    """:return: all tensors of nets and optimisers by name, and the counters"""
    tensors = {}
    for name, state in model.get_parameters().items():
        flat = state if "optimizer" not in name else {f"{i}.{k}": v for i, s in state["state"].items() for k, v in s.items()}
        tensors.update({f"{name}.{key}": value for key, value in flat.items()})
    snd = find_snd(model)
    if snd is not None:
        tensors.update({f"nets.{key}": value for key, value in snd.state_dict().items()})
    return tensors, (model.num_timesteps, model._n_updates, [episode["r"] for episode in model.ep_info_buffer])


def all_rows(path):
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


def rows(path, *without):
    return [{k: v for k, v in row.items() if k not in without and not k.startswith("time/")} for row in all_rows(path)]


def events(folder):
    """:return: (step, value) of everything in TensorBoard's files, but for times; each read alone, as they are seconds old"""
    found = {}
    for path in (folder / "tb_1").iterdir():
        log = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        for tag in log.Tags()["scalars"]:
            if not tag.startswith("time/"):
                found.setdefault(tag, []).extend((event.step, event.value) for event in log.Scalars(tag))
    return {tag: sorted(values) for tag, values in found.items()}


def assert_same_run(whole, folder, model, other):
    (tensors, counters), (others, other_counters) = everything(model), everything(other)
    assert counters == other_counters and set(tensors) == set(others)
    assert [name for name in tensors if not th.equal(th.as_tensor(tensors[name]), th.as_tensor(others[name]))] == []
    assert rows(whole / "monitor.csv", "t") == rows(folder / "monitor.csv", "t")
    assert rows(whole / "progress.csv") == rows(folder / "progress.csv")
    assert events(whole) == events(folder)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("kind", [two_streams, bonus, episodic, episodic_bonus, plain])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(kind, tmp_path):
    """Killed within a rollout, which is then collected once more, to the bit; and once more after that."""
    th.set_num_threads(1)
    model = train(tmp_path / "whole", kind)
    for step in (300, 500):
        assert in_a_child(train, tmp_path / "killed", kind, None, step, kill) == signal.SIGKILL
    other = train(tmp_path / "killed", kind)
    assert_same_run(tmp_path / "whole", tmp_path / "killed", model, other)
    assert len(rows(tmp_path / "whole" / "monitor.csv")) == TOTAL // 5  # each episode has as many steps as rows


def test_twenty_kills_at_any_moment(tmp_path):
    """Ten after some time, ten while a checkpoint is written: every one leaves a run that goes on, to the same end."""
    th.set_num_threads(1)
    total = 6400  # none of the children gets so far
    model = train(tmp_path / "whole", total=total)
    rng = random.Random(0)
    kills, steps = 0, [0]

    def later(seconds):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the default action ends the process as SIGKILL would, at once
        train(tmp_path / "killed", total=total)

    def while_writing(part):
        original = zipfile.ZipFile.open if part < 5 else os.replace
        count = [rng.randrange(2, 6)]

        def dies(*args, **kwargs):
            opened = original(*args, **kwargs)
            writing = part >= 5 or kwargs.get("mode") == "w" or "w" in args[2:3]
            count[0] -= writing
            if count[0] == 0:
                if part < 5:
                    opened.write(b"half of it")
                kill()
            return opened

        if part < 5:
            zipfile.ZipFile.open = dies
        else:
            log_files.os.replace = dies
        train(tmp_path / "killed", total=total)

    for index in range(10):
        kills += in_a_child(later, rng.uniform(0.05, 0.3)) != 0
        kills += in_a_child(while_writing, index) != 0
        found, refused = find_checkpoint(tmp_path / "killed", IDENTITY)
        steps.append(0 if found is None else int(found.stem.split("_")[2]))
        assert refused == []  # what is there is whole
    assert kills == 20
    assert steps == sorted(steps)  # nothing before the last checkpoint is lost
    other = train(tmp_path / "killed", total=total)
    assert_same_run(tmp_path / "whole", tmp_path / "killed", model, other)


def test_asked_to_stop_within_a_rollout(tmp_path):
    """The checkpoint is the rollout's beginning; what comes after a signal is what would have come without."""
    th.set_num_threads(1)
    model = train(tmp_path / "whole")
    with StopRequest() as stop:
        half = train(tmp_path / "stopped", stop=stop, step=340, what=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stop.received == signal.SIGTERM and half.num_timesteps == 320
    assert list_checkpoints(tmp_path / "stopped")[0].name == "rl_model_320_steps.zip"
    assert_same_logs_up_to(320, tmp_path / "whole", tmp_path / "stopped")
    other = train(tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", model, other)
    finished = {row["time/total_timesteps"]: row["time/episodes"] for row in all_rows(tmp_path / "stopped" / "progress.csv")}
    assert [int(finished[str(64 * k)]) for k in range(1, 11)] == [4 * (16 * k // 5) for k in range(1, 11)]


def assert_same_logs_up_to(step, whole, folder):
    """Each episode has five steps in this environment, so 320 steps are 64 episodes and five rollouts."""
    episodes = rows(whole / "monitor.csv", "t")
    assert rows(folder / "monitor.csv", "t") == episodes[: step // 5] != episodes
    logged, expected = rows(folder / "progress.csv"), rows(whole / "progress.csv")
    assert 5 <= len(logged) < len(expected) and logged == expected[: len(logged)]
    before = {tag: [value for value in values if value[0] <= step] for tag, values in events(whole).items()}
    assert events(folder) == {tag: values for tag, values in before.items() if values}


def test_a_fault_within_a_rollout_leaves_the_logs_of_the_checkpoint(tmp_path):
    """Training that is continued in the same process then appends to them."""
    th.set_num_threads(1)

    def fail():
        raise RuntimeError("broken")

    monitor = StreamMonitor(tmp_path, "DeepSea-v0")
    env = make_vec_env("DeepSea-v0", 4, seed=5, env_kwargs={"size": 5})
    model = PPOSND("MlpPolicy", env, **SIZES)
    callbacks = [Until(84, fail), monitor]
    callbacks.append(RunCheckpoint(tmp_path, 0, callbacks, IDENTITY))
    with pytest.raises(RuntimeError, match="broken"):
        model.learn(128, callback=callbacks)
    assert len(rows(tmp_path / "monitor.csv")) == 16  # 20 of 64 steps and of 16 more had ended
    callbacks[-1].save_after_fault()
    assert len(rows(tmp_path / "monitor.csv")) == 12 and len(rows(tmp_path / "progress.csv")) == 1
    assert monitor._n_episodes == 12
    model.learn(64, callback=callbacks[1:], reset_num_timesteps=False)
    assert len(rows(tmp_path / "progress.csv")) == 2
    assert b"\0" not in (tmp_path / "monitor.csv").read_bytes() + (tmp_path / "progress.csv").read_bytes()


def test_a_second_signal_acts_as_ever():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_broken_and_foreign_files_are_named_and_the_one_before_is_taken(tmp_path):
    train(tmp_path / "run", total=320)
    names = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert names == [f"rl_model_{steps}_steps.zip" for steps in (320, 256, 192)]  # the newest three
    newest, second, third = list_checkpoints(tmp_path / "run")
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "run" / "rl_model_999_steps.zip")
    damaged = bytearray(second.read_bytes())
    with zipfile.ZipFile(second) as archive:
        place = archive.getinfo("policy.pth").header_offset
    damaged[place + 5000] ^= 1
    second.write_bytes(damaged)
    found, refused = find_checkpoint(tmp_path / "run", IDENTITY)
    assert found == third
    assert [sentence.split(": ", 1)[1] for sentence in refused] == [
        "it is not a checkpoint of a run; trying the checkpoint before it.",
        "it is truncated or not a zip file; trying the checkpoint before it.",
        "its entry policy.pth is damaged; trying the checkpoint before it.",
    ]
    assert why_unusable(third, {**IDENTITY, "seed": 6}) == "its seed is 5, not 6"
    assert find_checkpoint(tmp_path / "run", {**IDENTITY, "algo": "other"})[0] is None
    model = PPOSND.load(third, device="cpu")  # it is a model, too
    assert model.num_timesteps == 192


def policy(model):
    return model.policy.value_net.weight.data


def moments(model):
    return next(iter(model.policy.optimizer.state.values()))["exp_avg"]


def nets(model):
    return next(find_snd(model).parameters()).data


def moments_of_nets(model):
    return next(iter(find_snd(model).trainer.optimizer.state.values()))["exp_avg_sq"]


def statistics(model):
    return find_snd(model).target.frame_stats.var


POISONED = [
    (two_streams, policy, float("nan"), "policy:value_net.weight"),
    (two_streams, policy, float("inf"), "policy:value_net.weight"),
    (two_streams, moments, float("nan"), "policy.optimizer:state:0:exp_avg"),
    (two_streams, nets, float("nan"), "snd:learner.0.weight"),
    (two_streams, moments_of_nets, float("inf"), "snd.trainer.optimizer:state:0:exp_avg_sq"),
    (bonus, nets, float("nan"), "sb3_snd_nets:snd:learner.0.weight"),
    (bonus, moments_of_nets, -float("inf"), "sb3_snd_nets:optimizer:state:0:exp_avg_sq"),
    (bonus, statistics, float("inf"), "sb3_snd_nets:snd:target.frame_stats.var"),
]


@pytest.mark.parametrize(("kind", "part", "value", "name"), POISONED)
def test_nets_that_are_not_finite_are_no_checkpoint(kind, part, value, name, tmp_path, monkeypatch):
    """As an update leaves them that nobody looks at; one that lies there from elsewhere is not taken, but the one before."""
    folder = tmp_path / "run"
    model = train(folder, kind, total=192)
    before = {path.name: path.read_bytes() for path in folder.glob("rl_model_*")}
    saver = RunCheckpoint(folder, 64, [], IDENTITY)
    saver.init_callback(model)
    saver.on_rollout_start()  # sound, and saved already
    model.num_timesteps = 256
    part(model).view(-1)[0] = value
    message = rf"^\S+ in the model to be saved is {value}: lower learning_rate"
    with pytest.raises(NonFiniteError, match=message) as error:
        saver.on_rollout_start()
    assert error.value.poisoned and len(before) == 6
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert not [path for path in folder.iterdir() if "256" in path.name]
    monkeypatch.setattr(saver, "_refuse_non_finite", None)
    saver.save()
    found, refused = find_checkpoint(folder, IDENTITY)
    assert found == folder / "rl_model_192_steps.zip"
    (sentence,) = refused
    where = sentence.removeprefix(f"{folder / 'rl_model_256_steps.zip'}: ").partition(" in it is ")
    assert where[2] == f"{value}; trying the checkpoint before it."
    assert where[0].split(":")[:-1] == name.split(":")[:-1]  # the first parameter is not called the same in each target


def test_a_checkpoint_comes_last(tmp_path):
    """Otherwise it would save what the others have not done yet."""
    env = make_vec_env("DeepSea-v0", 4, env_kwargs={"size": 5})
    model = PPO("MlpPolicy", env, **SIZES)
    callbacks = [Until(0, None)]
    first = [RunCheckpoint(tmp_path, 64, callbacks, IDENTITY), *callbacks]
    with pytest.raises(ValueError, match="must be the last callback, but Until does not come before it: append it last"):
        model.learn(128, callback=first)
    assert list(tmp_path.iterdir()) == []
    model.learn(128, callback=[*callbacks, RunCheckpoint(tmp_path, 64, callbacks, IDENTITY)])
    assert [path.name for path in list_checkpoints(tmp_path)] == ["rl_model_128_steps.zip", "rl_model_64_steps.zip"]


def test_infinities_on_purpose_are_saved(tmp_path):
    """A mask is infinite from the beginning, and in the run that goes on."""
    env = make_vec_env("DeepSea-v0", 4, seed=5, env_kwargs={"size": 5})
    model = PPO("MlpPolicy", env, **SIZES)
    model.policy.register_buffer("mask", th.tensor([0.0, -float("inf")]), persistent=True)
    model.learn(128, callback=RunCheckpoint(tmp_path, 64, [], IDENTITY))
    (newest, _), refused = list_checkpoints(tmp_path), find_checkpoint(tmp_path, IDENTITY)
    assert refused == (newest, [])
    model.policy.mask[0] = float("nan")
    with pytest.raises(NonFiniteError, match="policy:mask in the model to be saved is nan"):
        model.learn(128, callback=RunCheckpoint(tmp_path, 64, [], IDENTITY))


def test_a_disk_that_is_full_costs_no_checkpoint(tmp_path, monkeypatch):
    train(tmp_path / "run", total=128)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("rl_model_*.zip")}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_atomically(PPO("MlpPolicy", "CartPole-v1", device="cpu"), next(tmp_path.rglob("rl_model_128_steps.zip")))
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("rl_model_*.zip")} == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def zoo_run(folder, *more):
    options = ["--algo", "ppo_snd", "--env", "DeepSea-v0", "-n", 512, "--seed", 3, "-f", folder, "--save-freq", 64]
    options += ["--num-threads", 1, *more]
    return [*map(str, options), "-params", "n_envs:4", "n_steps:16", "batch_size:32", "n_epochs:1"]


def test_resume_from_the_command_line(tmp_path, monkeypatch, capsys):
    """SIGTERM ends with 143, SIGINT with 0, and the run goes on in its folder to the same end as an undisturbed one."""
    root = Path(__file__).parent.parent
    code = (
        "import os, signal; from sb3_snd.zoo.train import train; from stable_baselines3.common.callbacks import BaseCallback\n"
    )
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
        train_command.train()
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
        train_command.train()
    other_seed = zoo_run(tmp_path / "killed", "--resume", "--seed=4")
    monkeypatch.setattr(sys, "argv", ["train.py", *[part for part in other_seed if part not in ("--seed", "3")], *own])
    train_command.train()
    assert "there is no run of {'algo': 'ppo_snd', 'environment': 'DeepSea-v0', 'seed': 4}" in capsys.readouterr().out
    longer = zoo_run(tmp_path / "killed", "--resume")
    longer[longer.index("512")] = "576"
    monkeypatch.setattr(sys, "argv", ["train.py", *longer, *own])
    train_command.train()
    assert PPOSND.load(runs[1] / "DeepSea-v0.zip", device="cpu").num_timesteps == 576


def test_the_baseline_is_resumed(tmp_path, monkeypatch):
    """To the same end as an undisturbed run, bit for bit; its monitor file has the columns of both streams."""
    for folder, lengths in (("whole", ["512"]), ("halves", ["256", "512"])):
        for n_steps in lengths:
            options = zoo_run(tmp_path / folder, "--resume")
            options[options.index("ppo_snd")] = "ppo_baseline"
            options[options.index("512")] = n_steps
            monkeypatch.setattr(sys, "argv", ["train.py", *options])
            train_command.train()
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
        train_command.train()
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
        train_command.train()
    printed = capsys.readouterr().out
    reason = "the state of the environments of AtariVecEnv cannot be saved."
    assert f"--resume: continues at step 32. All episodes restart: {reason}" in printed
    (run,) = (tmp_path / "ppo_rnd").iterdir()
    assert [row["l"] for row in rows(run / "monitor.csv")] == ["20", "20"]  # one of 16 steps was begun and is forgotten
    assert PPOSND.load(run / "MontezumaRevengeNoFrameskip-v4.zip", device="cpu").num_timesteps == 96


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
        train_command.train()
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["model.zip"]'
