import csv
import json

import numpy as np
import pytest
import torch as th
from fakes import CountingEnv, FakeSND
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_snd import PPOSND, SND, SNDCallback, VecIntrinsicReward
from sb3_snd.callbacks import StreamMonitor


def counting(n_envs=2, **kwargs):
    return DummyVecEnv([lambda i=i: CountingEnv(i, **kwargs) for i in range(n_envs)])


def make_ppo(env=None, **snd_kwargs):
    env = VecIntrinsicReward(env or counting(), "vic", dict(batch_size=8, **snd_kwargs), device="cpu")
    return PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, device="cpu", seed=0), env


def test_trains_the_nets_of_an_unmodified_algorithm():
    model, env = make_ppo()
    before = {name: value.clone() for name, value in env.snd.state_dict().items()}
    model.learn(64, callback=SNDCallback(), log_interval=None)
    assert all(not th.equal(value, before[name]) for name, value in env.snd.state_dict().items())
    assert {"snd/loss", "snd/distill", "snd/feature_norm", "rollout/novelty_mean"} <= set(model.logger.name_to_value)


def test_without_the_callback_the_nets_stay():
    model, env = make_ppo()
    before = [parameter.clone() for parameter in env.snd.parameters()]
    model.learn(32)
    assert all(th.equal(a, b) for a, b in zip(before, env.snd.parameters(), strict=True))


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_pairs_end_at_the_terminal_observation(algorithm):
    """Observations are (environment, step): the successor's step is one more, up to the episode's last."""
    env = VecIntrinsicReward(counting(length=3), "vic", dict(batch_size=8), device="cpu")
    model = algorithm("MlpPolicy", env, n_steps=8, device="cpu")
    pairs = []

    def train_on_rollout(rollout):
        for batch in env.snd.minibatches(rollout):
            pairs.extend(th.cat(batch.split(batch.frames), dim=1).tolist())
        return {}

    env.snd._frames = th.as_tensor  # the numbers themselves, not normalised
    env.snd.train_on_rollout = train_on_rollout
    env.snd.novelty = lambda obs: th.zeros(len(obs))
    model.learn(32, callback=SNDCallback())
    assert pairs == [[env_, t % 3, env_, t % 3 + 1] for t in range(16) for env_ in range(2)]


def test_saves_beside_checkpoints_and_restores(tmp_path):
    model, env = make_ppo()
    callback = SNDCallback(save_path=tmp_path, save_freq=16)
    model.learn(64, callback=[CheckpointCallback(16, str(tmp_path)), callback])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"rl_model_32_steps.zip", "rl_model_32_steps.snd.pth", "rl_model_64_steps.snd.pth", "rl_model.snd.pth"} <= names

    th.manual_seed(1)
    other, other_env = make_ppo()
    assert not th.equal(next(env.snd.parameters()), next(other_env.snd.parameters()))
    other.learn(0, callback=SNDCallback(restore=tmp_path / "rl_model.snd.pth"))
    for a, b in ((env.snd, other_env.snd), (env.snd.optimizer, other_env.snd.optimizer)):
        a, b = a.state_dict(), b.state_dict()
        flat = [(x, y) for x, y in zip(_tensors(a), _tensors(b), strict=True)]
        assert flat and all(th.equal(x, y) for x, y in flat)


def _tensors(state):
    if isinstance(state, th.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in _tensors(value)]


def test_bad_input():
    with pytest.raises(ValueError, match="found no intrinsic reward"):
        PPO("MlpPolicy", counting(), n_steps=16, device="cpu").learn(32, callback=SNDCallback())
    model, _ = make_ppo()
    model.n_steps = 15
    with pytest.raises(ValueError, match="batch_size=8 does not divide the rollout of 30"):
        model.learn(32, callback=SNDCallback())
    normalised, _ = make_ppo()
    normalised.set_env(VecNormalize(normalised.get_env()))
    with pytest.raises(ValueError, match="VecNormalize around VecIntrinsicReward"):
        normalised.learn(32, callback=SNDCallback())
    env = VecIntrinsicReward(counting(), device="cpu")
    with pytest.raises(ValueError, match="DQN does not have"):
        DQN("MlpPolicy", env, device="cpu").learn(4, callback=SNDCallback())


def read_monitor(path):
    lines = path.read_text().splitlines()
    return json.loads(lines[0][1:]), list(csv.DictReader(lines[1:]))


def test_monitor_file(tmp_path):
    """Environment n gives 10 n a step for 5 steps; its intrinsic reward is (n + 1) / 100."""
    env = VecMonitor(counting())
    model = PPOSND("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu", snd=FakeSND(env.observation_space, batch_size=8))
    model.learn(32, callback=StreamMonitor(tmp_path, "Counting-v0"))
    header, rows = read_monitor(tmp_path / "monitor.csv")
    assert header["env_id"] == "Counting-v0"
    assert len(rows) == 6
    for i, row in enumerate(rows):
        n = i % 2
        assert (float(row["r"]), int(row["l"]), float(row["r_ext"])) == (50 * n, 5, 50 * n)
        assert float(row["r_int"]) == pytest.approx(0.05 * (n + 1))
    assert (tmp_path / "progress.csv").read_text().startswith(("rollout/", "time/", "train/", "snd/"))


def test_monitor_file_goes_on_when_training_does(tmp_path):
    model = PPO("MlpPolicy", VecMonitor(counting()), n_steps=8, batch_size=16, device="cpu")
    monitor = StreamMonitor(tmp_path, "Counting-v0")
    model.learn(16, callback=monitor)
    model.learn(16, callback=monitor, reset_num_timesteps=False)
    rows = read_monitor(tmp_path / "monitor.csv")[1]
    assert [int(row["l"]) for row in rows] == [5] * 6  # 16 steps of two environments, three episodes each


def test_normalised_observations_below_the_wrapper_are_fine():
    model, env = make_ppo(VecNormalize(counting()))
    model.learn(32, callback=SNDCallback(), log_interval=None)
    assert model.logger.name_to_value["snd/loss"] > 0 and env.snd.obs_stats.count > 30


def test_monitor_file_keeps_the_score_apart_from_the_learners_return(tmp_path):
    class Halved(VecMonitor):
        """Above the monitor of the score, the learner sees half of each reward."""

        def step_wait(self):
            obs, rewards, dones, infos = super().step_wait()
            return obs, rewards / 2, dones, infos

    model = PPO("MlpPolicy", Halved(counting()), n_steps=8, batch_size=16, device="cpu")
    model.learn(16, callback=StreamMonitor(tmp_path, "Counting-v0"))
    rows = read_monitor(tmp_path / "monitor.csv")[1]
    assert [(float(row["r"]), float(row["r_ext"]), float(row["r_int"])) for row in rows] == [(0, 0, 0), (50, 25, 0)]


def test_monitor_sees_combined_rewards_apart(tmp_path):
    env = counting()
    env = VecIntrinsicReward(env, FakeSND(env.observation_space, batch_size=8), ext_coef=3.0)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, device="cpu")
    model.learn(16, callback=[SNDCallback(), StreamMonitor(tmp_path, "Counting-v0")])
    rows = read_monitor(tmp_path / "monitor.csv")[1]
    np.testing.assert_allclose([float(row["r_ext"]) for row in rows], [0, 50])
    np.testing.assert_allclose([float(row["r_int"]) for row in rows], [0.05, 0.1])
    assert isinstance(env.snd, SND)
