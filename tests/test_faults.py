"""Faults of a run: one sentence that names them, the state before saved, no hang."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from fakes import CountingEnv
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_snd import PPOSND, SNDCallback, VecIntrinsicReward
from sb3_snd.common.check_nan import NonFiniteError, check_rewards
from sb3_snd.runs.checkpoint_files import find_checkpoint
from sb3_snd.runs.checkpoints import RunCheckpoint
from sb3_snd.runs.fault_messages import NeededMemory, describe, needed_memory
from sb3_snd.targets import Target
from sb3_snd.zoo.train import train

ROOT = Path(__file__).parent.parent
SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)


class Faulty(CountingEnv):
    """After so many steps of all its episodes together, the reward is what is asked for, or the process ends."""

    total = 0

    def __init__(self, step=20, reward=float("nan"), die=False):
        super().__init__()
        self.fault_step, self.fault_reward, self.die = step, reward, die

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.total += 1
        if self.total == self.fault_step:
            if self.die:
                os._exit(3)
            reward = self.fault_reward
        return obs, reward, terminated, truncated, info


if "Faulty-v0" not in gym.registry:
    gym.register("Faulty-v0", entry_point="test_faults:Faulty")


def finite(*modules):
    return all(parameter.isfinite().all() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("stock", [False, True])
def test_reward(value, stock, tmp_path):
    """In the 20th step of environment 1; two rollouts of 8 were whole, and the checkpoint is the beginning of the third."""
    env = DummyVecEnv([lambda: Faulty(step=99), lambda: Faulty(reward=value)])
    callbacks = []
    if stock:
        model = A2C("MlpPolicy", VecIntrinsicReward(env, "vic"), n_steps=8, device="cpu")
        callbacks.append(SNDCallback())
    else:
        model = PPOSND("MlpPolicy", env, **SIZES)
    saver = RunCheckpoint(tmp_path, 0, callbacks, {})
    callbacks.append(saver)
    with pytest.raises(NonFiniteError, match=f"the extrinsic reward of environment 1 is {value}: lower learning_rate"):
        model.learn(64, callback=callbacks)
    assert saver.save_after_fault() == tmp_path / "rl_model_32_steps.zip" == find_checkpoint(tmp_path, {})[0]
    assert finite(model.policy)


def test_intrinsic_reward_is_told_apart():
    check_rewards(np.zeros((3, 2)), ("extrinsic", "intrinsic"))
    with pytest.raises(NonFiniteError, match="the intrinsic reward of environment 2 is inf"):
        check_rewards(np.array([[0, 0], [1, 2], [0, np.inf]]), ("extrinsic", "intrinsic"))


class Breaking(Target):
    """Its own loss is infinite from the third minibatch on."""

    convs = learner_convs = ()
    calls = 0

    def loss(self, batch, learner):
        z = self(batch.states)
        distill = (learner(batch.states) - z.detach()).square().mean()
        self.calls += 1
        target = z.square().mean() * (float("inf") if self.calls > 2 else 1.0)
        return {"loss": distill + target, "distill": distill, "target": target, "features": z.detach()}


def test_loss_of_snd():
    model = PPOSND("MlpPolicy", DummyVecEnv([CountingEnv] * 4), snd=Breaking, **SIZES)
    with pytest.raises(NonFiniteError, match="SND's 'loss' is inf") as caught:
        model.learn(128)
    assert not caught.value.poisoned and model.snd.target.calls == 3
    assert finite(model.snd, model.policy)


class Poison(BaseCallback):
    """Advantages that no gradient survives, in the second rollout."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        if self.num_timesteps > 32:
            self.before = [parameter.clone() for parameter in self.model.policy.parameters()]
            self.model.rollout_buffer.advantages[0] = np.inf


def test_gradient_of_ppo():
    model = PPOSND("MlpPolicy", DummyVecEnv([CountingEnv] * 4), **{**SIZES, "batch_size": 32})
    poison = Poison()
    with pytest.raises(NonFiniteError, match=r"the gradient of PPO's loss in mlp_extractor\.policy_net\.0\.weight is nan"):
        model.learn(128, callback=poison)
    assert model.num_timesteps == 64
    assert all(th.equal(a, b) for a, b in zip(poison.before, model.policy.parameters(), strict=True))


def test_memory_by_hand():
    """16 observations of 36 x 36 bytes; a minibatch of 4 as float32, and twice all that the layers put out."""

    class Net(th.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = th.nn.Sequential(th.nn.Flatten(), th.nn.Linear(36 * 36, 10), th.nn.ReLU())

        def predict_values(self, obs):
            return self.layers(obs.float())

        def obs_to_tensor(self, obs):
            return th.as_tensor(obs)[None], False

    space = gym.spaces.Box(0, 255, (1, 36, 36), np.uint8)
    buffer = type("Buffer", (), {"buffer_size": 8})
    model = type(
        "Model", (), {"observation_space": space, "rollout_buffer": buffer, "n_envs": 2, "policy": Net(), "batch_size": 4}
    )
    frame = 36 * 36
    batch = 4 * (4 * frame + 2 * 4 * (frame + 10 + 10))
    assert needed_memory(model) == NeededMemory(rollout=16 * frame, minibatch=batch, has_images=True)
    needed = NeededMemory(2_500_000_000, 40_000_000, False)
    for error in (th.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("not enough memory: you tried")):
        settings = "n_envs and n_steps: about 2.5 GB, batch_size: about 0.04 GB"
        assert describe(error, lambda: needed) == f"the memory is full: lower one of these settings ({settings})"
    assert "(n_envs, n_steps and the frame size: about 2.5 GB" in describe(
        MemoryError(), lambda: needed._replace(has_images=True)
    )


def test_other_faults_in_words():
    assert describe(OSError(errno.ENOSPC, "No space left on device"), dict) == "the disk is full: free some space"
    for error in (EOFError(), BrokenPipeError(), ConnectionResetError()):
        assert describe(error, dict) == "an environment's worker process has died: look for its own message above"
    assert describe(KeyError("a bug"), dict) is None and describe(OSError(errno.ENOENT, "no such file"), dict) is None


def command(tmp_path, *more, **env_kwargs):
    entry = dict(policy="MlpPolicy", snd="vic", n_envs=2, n_steps=8, batch_size=16, n_epochs=1, n_timesteps=64)
    (tmp_path / "own.yml").write_text(yaml.dump({"Faulty-v0": {**entry, "env_kwargs": env_kwargs}}))
    options = ["--algo", "ppo_snd", "--env", "Faulty-v0", "--gym-packages", "test_faults", "--conf-file", tmp_path / "own.yml"]
    return [*map(str, [*options, "-f", tmp_path / "logs", "--save-freq", 16, *more])]


def test_a_fault_on_the_command_line(tmp_path, monkeypatch):
    """Exit code 1, the sentence, and a checkpoint from before it, from which the run goes on."""
    monkeypatch.setattr(sys, "argv", ["train.py", *command(tmp_path)])
    message = r"after 38 steps the extrinsic reward of environment 0 is nan.*; the state before is in .*rl_model_32_steps\.zip"
    with pytest.raises(SystemExit, match=message):
        train()
    monkeypatch.setattr(sys, "argv", ["train.py", *command(tmp_path, "--resume", step=999)])
    with pytest.raises(SystemExit, match="--resume: env_kwargs was"):  # it was another environment
        train()


class Overflow(BaseCallback):
    """Poisons the policy after the third rollout, as an update could whose gradient nobody looks at."""

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.num_timesteps == 48:
            self.model.policy.value_net.weight.data.fill_(float("nan"))


def test_poisoned_nets_end_a_run_with_the_last_sound_checkpoint_named(tmp_path, monkeypatch):
    arguments = [*command(tmp_path, step=999), "-params", "callback:'test_faults.Overflow'"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    message = (
        r"after 48 steps policy:value_net.weight in the model to be saved is nan: lower .*; the state before is in .*_32_steps"
    )
    with pytest.raises(SystemExit, match=message):
        train()
    names = {path.name for path in tmp_path.rglob("*.zip")}
    assert names == {"rl_model_16_steps.zip", "rl_model_32_steps.zip"}


def test_a_dead_worker_ends_the_run_in_time(tmp_path):
    arguments = command(tmp_path, "--vec-env", "subproc", die=True)
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    result = subprocess.run(
        [sys.executable, "-m", "sb3_snd.zoo", *arguments], env=environ, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    *_, last = result.stderr.strip().splitlines()
    assert "an environment's worker process has died" in last and "rl_model_32_steps.zip" in last, result.stderr


def test_a_full_disk_ends_the_run_in_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sb3_snd.runs.checkpoints.save_atomically", full)
    monkeypatch.setattr(sys, "argv", ["train.py", *command(tmp_path, step=999)])
    with pytest.raises(SystemExit, match=r"after 16 steps the disk is full: free some space; there is no checkpoint yet"):
        train()
