"""
The statistics of ``VecNormalize`` that belong to a checkpoint lie beside it, and who loads the checkpoint gets them.

They have counted all observations: those of the reset and one a step, on top of the 1e-4 that SB3 begins with.
"""

import os
import signal
import sys

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_snd import PPOSND
from sb3_snd.analyze.__main__ import main as analyze
from sb3_snd.runs import log_files
from sb3_snd.runs.checkpoint_files import find_normalizer
from sb3_snd.runs.checkpoints import RunCheckpoint
from sb3_snd.runs.stop_request import StopRequest
from sb3_snd.zoo import enjoy as enjoy_command
from sb3_snd.zoo import train as train_command
from sb3_snd.zoo.manager import SNDExperimentManager

N_ENVS, ROLLOUT = 4, 64
ENTRY = dict(n_timesteps=512, policy="MlpPolicy", n_envs=N_ENVS, n_steps=16, batch_size=32, n_epochs=1, normalize=True)
ENTRY["callback"] = "test_statistics.At"
ALGO, ENV_ID = "ppo_snd", "CartPole-v1"


class At(BaseCallback):
    """Ends a run at a step, as the environment variables say."""

    def _on_step(self):
        if self.num_timesteps >= int(os.environ.get("END_AT", "9999")):
            if os.environ["END_BY"] == "fault":
                raise EOFError  # as where a worker has died
            os.kill(os.getpid(), getattr(signal, os.environ["END_BY"]))
        return True


def count(n_steps):
    return 1e-4 + N_ENVS + n_steps


def counts(folder):
    """:return: file -> what its statistics have counted"""
    return {
        path.name: VecNormalize.load(str(path), make_vec_env(ENV_ID)).obs_rms.count for path in sorted(folder.glob("*.pkl"))
    }


def train(monkeypatch, folder, *more, algo=ALGO, **changed):
    """In this process. :return: the run's folder"""
    (folder / "own.yml").write_text(yaml.dump({ENV_ID: {**ENTRY, **changed}}))
    options = [
        "--algo",
        algo,
        "--env",
        ENV_ID,
        "--conf-file",
        folder / "own.yml",
        "-f",
        folder / "logs",
        "--save-freq",
        ROLLOUT,
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, options), "--seed", "1", "--device", "cpu", *map(str, more)])
    train_command.train()
    return folder / "logs" / algo / f"{ENV_ID}_1"


def ended(monkeypatch, folder, step, how):
    """A run that ended at a step; of one thread, as a fork has none of its parent's others. :return: its folder"""
    pid = os.fork()
    if pid == 0:
        th.set_num_threads(1)
        os.environ.update(END_AT=str(step), END_BY=how)
        try:
            train(monkeypatch, folder)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    return folder / "logs" / ALGO / f"{ENV_ID}_1"


@pytest.fixture
def played(monkeypatch):
    """What the environments that load statistics have counted."""
    found, load = [], VecNormalize.load

    def remember(path, venv):
        normalizer = load(path, venv)
        found.append(normalizer.obs_rms.count)
        return normalizer

    monkeypatch.setattr(VecNormalize, "load", staticmethod(remember))
    return found


def enjoy(monkeypatch, folder, *more):
    options = ["--algo", ALGO, "--env", ENV_ID, "-f", folder.parent.parent, "--no-render", "-n", 3, *more]
    monkeypatch.setattr(sys, "argv", ["enjoy.py", *map(str, options)])
    enjoy_command.enjoy()


@pytest.mark.parametrize("how", ["SIGKILL", "fault", "SIGTERM"])
def test_a_checkpoint_is_played_with_its_own_statistics(how, tmp_path, monkeypatch, played):
    """Ended within the sixth rollout; the newest three lie there, and a fault or SIGTERM saves the rollout's beginning."""
    run = ended(monkeypatch, tmp_path, 350, how)
    kept = [192, 256, 320]
    assert sorted(path.name for path in run.glob("rl_model_*.zip")) == [f"rl_model_{n}_steps.zip" for n in kept]
    assert counts(run) == {f"rl_model_vecnormalize_{n}_steps.pkl": count(n) for n in kept}
    played.clear()
    enjoy(monkeypatch, run, "--load-last-checkpoint")
    enjoy(monkeypatch, run, "--load-checkpoint", 192)
    analyze([str(run / "rl_model_256_steps.zip"), "--out", str(tmp_path / "analysis"), "--states", "64", "--n-envs", "1"])
    assert played == [count(320), count(192), count(256)]
    if how == "SIGTERM":  # there the model is saved, too, as it is in the checkpoint
        played.clear()
        enjoy(monkeypatch, run)
        assert played == [count(320)]


def test_a_run_that_goes_on_and_ends(tmp_path, monkeypatch, played):
    """Its model has the statistics of its end; the checkpoints keep theirs."""
    run = ended(monkeypatch, tmp_path, 200, "SIGKILL")
    (run / "rl_model_vecnormalize_8_steps.pkl").touch()  # of a checkpoint that is not there
    assert train(monkeypatch, tmp_path, "--resume") == run
    assert list(counts(run)) == [f"rl_model_vecnormalize_{n}_steps.pkl" for n in (384, 448, 512)]
    played.clear()
    enjoy(monkeypatch, run)
    enjoy(monkeypatch, run, "--load-last-checkpoint")
    enjoy(monkeypatch, run, "--load-checkpoint", 384)
    assert played == [count(512), count(512), count(384)]


def test_a_run_that_begins_with_a_checkpoint(tmp_path, monkeypatch, played):
    """``-i``: its environments go on with the statistics, evaluation without counting and with rewards as they are."""
    (tmp_path / "new").mkdir()
    run = train(monkeypatch, tmp_path)
    made = []
    create_envs = SNDExperimentManager.create_envs

    def remember(self, *args, **kwargs):
        made.append(create_envs(self, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(SNDExperimentManager, "create_envs", remember)
    train(monkeypatch, tmp_path / "new", "-i", run / "rl_model_384_steps.zip", "-n", 64, "--eval-freq", 1000)
    evaluation, training = made
    assert played == [count(384), count(384)]
    assert training.obs_rms.count == count(384) + N_ENVS + 64 and training.training and training.norm_reward
    assert not evaluation.training and not evaluation.norm_reward


def test_algorithms_with_a_replay_buffer(tmp_path, monkeypatch, played):
    """Their checkpoints are written by SB3's callback."""
    entry = dict(n_envs=1, learning_starts=9999, n_steps=None, batch_size=32, n_epochs=None, buffer_size=1000)
    removed = {name: value for name, value in {**ENTRY, **entry}.items() if value is not None}
    monkeypatch.setitem(globals(), "ENTRY", removed)
    run = train(monkeypatch, tmp_path, "-n", 130, algo="dqn")
    assert counts(run) == {f"rl_model_vecnormalize_{n}_steps.pkl": 1e-4 + 1 + n for n in (64, 128)}
    monkeypatch.setattr(sys, "argv", ["enjoy.py", "--algo", "dqn", "--env", ENV_ID, "-f", str(tmp_path / "logs")])
    sys.argv += ["--no-render", "-n", "3", "--load-checkpoint", "64"]
    played.clear()
    enjoy_command.enjoy()
    assert played == [1e-4 + 1 + 64]


def test_statistics_are_written_before_their_checkpoint_and_removed_after_it(tmp_path, monkeypatch):
    """Whenever a process is killed, no checkpoint is without; a file that Windows does not let go is removed the next time."""
    env = VecNormalize(make_vec_env(ENV_ID, N_ENVS))
    saver = RunCheckpoint(tmp_path, ROLLOUT, [], {})
    done, replace, unlink = [], os.replace, type(tmp_path).unlink

    def replacing(source, target):
        replace(source, target)
        done.append(("+", target.name))

    def unlinking(path, **kwargs):
        if path.name == "rl_model_64_steps.zip" and len(done) < 11:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        unlink(path, **kwargs)
        done.append(("-", path.name))

    monkeypatch.setattr(log_files.os, "replace", replacing)
    monkeypatch.setattr(type(tmp_path), "unlink", unlinking)
    PPOSND("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, device="cpu").learn(320, callback=saver)

    def names(n):
        return f"rl_model_vecnormalize_{n}_steps.pkl", f"rl_model_{n}_steps.zip"

    written = [("+", name) for n in (64, 128, 192, 256, 320) for name in names(n)]
    assert [entry for entry in done if entry[0] == "+"] == written
    assert done[6:8] == written[6:8] and ("-", "rl_model_64_steps.zip") in done[10:]
    assert {path.name for path in tmp_path.iterdir()} == {name for n in (192, 256, 320) for name in names(n)}


def test_without_normalisation_nothing_lies_beside(tmp_path, monkeypatch):
    run = ended(monkeypatch, tmp_path, 100, "SIGKILL")
    assert find_normalizer(run / "rl_model_64_steps.zip") == run / "rl_model_vecnormalize_64_steps.pkl"
    monkeypatch.setitem(ENTRY, "normalize", False)
    run = train(monkeypatch, tmp_path, algo="ppo")
    assert not list(run.glob("*.pkl")) and len(list(run.glob("*.zip"))) == 4
    assert find_normalizer(run / "rl_model_64_steps.zip") is None and find_normalizer(run / f"{ENV_ID}.zip") is None


def test_asked_to_stop_the_environment_has_the_statistics_of_the_rollouts_beginning(tmp_path):
    env = VecNormalize(make_vec_env(ENV_ID, N_ENVS))
    model = PPOSND("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, device="cpu")
    with StopRequest() as stop:

        class Stop(BaseCallback):
            def _on_step(self):
                if self.num_timesteps == 100:
                    stop.received = signal.SIGTERM
                return True

        model.learn(320, callback=[Stop(), RunCheckpoint(tmp_path, 0, [], {}, stop)])
    assert model.num_timesteps == 64 and env.obs_rms.count == count(64) and np.isfinite(env.obs_rms.mean).all()
