"""Runs that are killed and go on: the same nets, bit for bit, and the same logs, as of a run that nobody disturbed."""

import os
import random
import signal
import zipfile

import pytest
import torch as th
from run_helpers import (
    IDENTITY,
    SIZES,
    TOTAL,
    Until,
    all_rows,
    assert_same_run,
    bonus,
    episodic,
    episodic_bonus,
    events,
    lifelong_counts,
    neighbours,
    plain,
    product,
    random_steps,
    rows,
    shared_memory,
    train,
    two_streams,
)
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_snd import PPOSND
from sb3_snd.runs import log_files
from sb3_snd.runs.checkpoint_files import find_checkpoint, list_checkpoints
from sb3_snd.runs.checkpoints import RunCheckpoint
from sb3_snd.runs.monitor import StreamMonitor
from sb3_snd.runs.stop_request import StopRequest


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


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


REWARDS = [product, neighbours, random_steps, shared_memory, lifelong_counts]


@pytest.mark.parametrize("kind", [two_streams, bonus, episodic, episodic_bonus, plain, *REWARDS])
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


@pytest.mark.parametrize("kind", [two_streams, episodic, episodic_bonus])
def test_asked_to_stop_within_the_first_rollout(kind, tmp_path):
    """The checkpoint is the beginning, where a reward has allocated no memory yet."""
    th.set_num_threads(1)
    model = train(tmp_path / "whole", kind)
    with StopRequest() as stop:
        train(tmp_path / "stopped", kind, stop, 20, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert list_checkpoints(tmp_path / "stopped")[0].name == "rl_model_0_steps.zip"
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", model, train(tmp_path / "stopped", kind))


@pytest.mark.parametrize(("kind", "step"), [(two_streams, 340), (episodic, 340)])
def test_asked_to_stop_within_a_rollout(kind, step, tmp_path):
    """The checkpoint is the rollout's beginning; what comes after a signal is what would have come without."""
    th.set_num_threads(1)
    beginning = 64 * (step // 64)
    model = train(tmp_path / "whole", kind)
    with StopRequest() as stop:
        half = train(tmp_path / "stopped", kind, stop, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stop.received == signal.SIGTERM and half.num_timesteps == beginning
    assert list_checkpoints(tmp_path / "stopped")[0].name == f"rl_model_{beginning}_steps.zip"
    assert_same_logs_up_to(beginning, tmp_path / "whole", tmp_path / "stopped")
    other = train(tmp_path / "stopped", kind)
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


def test_a_checkpoint_comes_last(tmp_path):
    """Otherwise it would save what the others have not done yet."""
    env = make_vec_env("DeepSea-v0", 4, env_kwargs={"size": 5})
    model = PPO("MlpPolicy", env, **SIZES)
    callbacks = [Until(0, None)]
    first = [RunCheckpoint(tmp_path, 64, callbacks, IDENTITY), *callbacks]
    with pytest.raises(ValueError, match="must be the last callback, but Until comes after it: append it last"):
        model.learn(128, callback=first)
    assert list(tmp_path.iterdir()) == []
    model.learn(128, callback=[*callbacks, RunCheckpoint(tmp_path, 64, callbacks, IDENTITY)])
    assert [path.name for path in list_checkpoints(tmp_path)] == ["rl_model_128_steps.zip", "rl_model_64_steps.zip"]
