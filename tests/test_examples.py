"""Every example runs, shortened, and does what it says."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_snd import PPOSND
from sb3_snd.rewards import REWARDS, Step
from sb3_snd.targets import TARGETS

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *args, **kwargs):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(*args, **kwargs)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(TARGETS), dict(REWARDS)
    yield
    for registry, entries in zip((TARGETS, REWARDS), before, strict=True):
        registry.clear()
        registry.update(entries)


def test_every_example_is_run_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {name.removeprefix("test_") for name in globals() if name.startswith("test_")} - {
        "every_example_is_run_here"
    }


def test_demo(tmp_path):
    """One seed and few steps; a run that was interrupted is trained anew, a finished one is kept."""
    half = tmp_path / "logs" / "12800_steps" / "seed_0" / "ppo" / "MountainCar-v0_1"
    half.mkdir(parents=True)
    (half / "MountainCar-v0.zip").touch()
    (half / "progress.csv").write_text("time/total_timesteps\n4096\n")
    arguments = ["--env", "MountainCar-v0", "--seeds", "1", "-n", "12800", "-f", tmp_path / "logs", "--jobs", "2"]
    written = []
    for _ in range(2):
        command = [sys.executable, EXAMPLES / "demo.py", *arguments]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "| MountainCar-v0 | PPO | -200.00 ± 0.00 | -200.00 |" in result.stdout.splitlines()
        written.append((half / "MountainCar-v0.zip").stat().st_mtime_ns)
    assert written[0] == written[1] and (half / "MountainCar-v0.zip").stat().st_size > 0
    assert [run.name for run in half.parent.iterdir()] == ["MountainCar-v0_1"]
    assert (tmp_path / "logs" / "demo.png").stat().st_size > 0


def test_two_streams_atari(tmp_path):
    model = run("two_streams_atari", 64, n_envs=2, n_steps=32)
    assert model.num_timesteps == 64 and (tmp_path / "montezuma.zip").exists()
    assert PPOSND.load("montezuma", device="cpu").snd.scale.eta == 0.25


def test_own_environment(tmp_path):
    """The lock, which PPO alone does not open, is opened."""
    score, env = run("own_environment")
    assert score == 1.0
    assert not env.training and (tmp_path / "lock" / "rl_model.snd.pth").exists()


def test_masked_actions():
    model, env = run("masked_actions", 1024)
    assert model.num_timesteps == 1024 and not env.training
    assert env.snd.target.frame_stats.count == 1 + 1024 / 4  # novelty saw every step of four environments
    assert (
        all("step" in state for state in env.snd.trainer.optimizer.state.values()) and len(env.snd.trainer.optimizer.state) > 0
    )


def test_own_target():
    model = run("own_target", 1024)
    assert type(model.snd.target).__name__ == "BarlowTarget" and "barlow" in TARGETS
    assert np.isfinite(model.snd.novelty(model._last_obs)).all()


def test_own_reward():
    """By hand: the first change of an episode counts in full, the same one again a little less."""
    model = run("own_reward", 4096)
    reward = model.get_env().snd
    assert "rare_change" in REWARDS and reward.scale.return_stats is not None
    reward.obs_stats = None
    reward.start(1)
    reward.begin(th.zeros(1, 2), th.tensor([True]))
    step = Step(th.zeros(1, 2), th.zeros(1), th.tensor([[3.0, 1.0]]), th.tensor([False]))
    bonuses = []
    for _ in range(2):
        bonuses.append(reward.bonus(step).item())
        reward.remember(step)
    np.testing.assert_allclose(bonuses, [(3 + 1) / 2, (3 / 4 + 1 / 2) / 2], rtol=1e-6)


def test_novelty_along_an_episode(tmp_path):
    env = make_vec_env("MountainCarContinuous-v0", 2, seed=0)
    PPOSND("MlpPolicy", env, n_steps=8, batch_size=16, device="cpu").learn(32).save("model")
    novelty = run("novelty_along_an_episode", "model", "MountainCarContinuous-v0", max_steps=20)
    assert len(novelty) == 20 and (tmp_path / "novelty.png").stat().st_size > 0
    first = make_vec_env("MountainCarContinuous-v0", seed=0).reset()
    assert novelty[0] == PPOSND.load("model", device="cpu").snd.novelty(th.as_tensor(first)).item()
