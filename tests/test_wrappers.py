import re
import sys
import warnings

import numpy as np
import pytest
import torch as th
from fakes import CountingEnv, FakeSND
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor

from sb3_snd import SND, VecIntrinsicReward
from sb3_snd.wrappers import VecRewardStreams

pytestmark = pytest.mark.numbers


def make_env(n_envs=3, **kwargs):
    return DummyVecEnv([lambda i=i: CountingEnv(i, **kwargs) for i in range(n_envs)])


def wrap(n_envs=3, wrapper=VecIntrinsicReward, **kwargs):
    venv = make_env(n_envs)
    env = wrapper(venv, FakeSND(venv.observation_space), **kwargs)
    env.training = True
    return env


def test_combined_reward_and_infos():
    env = wrap(ext_coef=2.0, int_coef=0.5)
    env.reset()
    _, rewards, _, infos = env.step(np.zeros(3, dtype=int))
    # extrinsic 0, 10, 20; intrinsic 0.01, 0.02, 0.03
    np.testing.assert_allclose(rewards, [0.005, 20.01, 40.015], rtol=1e-6)
    assert rewards.dtype == np.float32
    assert [info["extrinsic_reward"] for info in infos] == [0.0, 10.0, 20.0]
    np.testing.assert_allclose([info["intrinsic_reward"] for info in infos], [0.01, 0.02, 0.03], rtol=1e-6)


def test_streams():
    env = wrap(wrapper=VecRewardStreams, ext_coef=7.0)
    env.reset()
    rewards = env.step(np.zeros(3, dtype=int))[1]
    np.testing.assert_allclose(rewards, [[0, 0.01], [10, 0.02], [20, 0.03]], rtol=1e-6)


def test_novelty_is_that_of_the_state_acted_in():
    env = wrap()
    env.reset()
    for _ in range(6):  # an episode ends after 5 steps
        env.step(np.zeros(3, dtype=int))
    steps = [obs[:, 1].tolist() for obs in env.snd.asked]
    assert steps == [[t] * 3 for t in (0, 1, 2, 3, 4, 0)]
    np.testing.assert_array_equal(env.snd.seen, env.snd.asked)


def test_novelty_starts_after_the_environments():
    order = []

    env = wrap()
    step_async, step_wait, novelty = env.venv.step_async, env.venv.step_wait, env.snd.novelty
    env.venv.step_async = lambda actions: (order.append("step_async"), step_async(actions))[1]
    env.venv.step_wait = lambda: (order.append("step_wait"), step_wait())[1]
    env.snd.novelty = lambda obs: (order.append("novelty"), novelty(obs))[1]
    env.reset()
    env.step(np.zeros(3, dtype=int))
    assert order == ["step_async", "novelty", "step_wait"]


@pytest.mark.parametrize("wrapper", [VecIntrinsicReward, VecRewardStreams])
def test_not_training_passes_everything_through(wrapper):
    venv = make_env()
    env = wrapper(venv, FakeSND(venv.observation_space))  # as an evaluation environment
    env.reset()
    _, reward, _, infos = env.step(np.zeros(3, dtype=int))
    assert reward.tolist() == [0.0, 10.0, 20.0]
    assert [info["extrinsic_reward"] for info in infos] == [0.0, 10.0, 20.0]
    assert [info["intrinsic_reward"] for info in infos] == [0.0] * 3
    assert env.snd.asked == [] and env.snd.seen == []
    assert env.pop_statistics() == {}


def test_reward_is_scaled_and_clipped():
    env = wrap()
    env.snd.scale.eta = 40.0
    env.reset()
    infos = env.step(np.zeros(3, dtype=int))[3]
    np.testing.assert_allclose([info["intrinsic_reward"] for info in infos], [0.4, 0.8, 1.0], rtol=1e-6)


def test_statistics_are_those_since_the_last_call():
    env = wrap()
    env.snd.scale.eta = 2.0
    env.reset()
    for _ in range(4):
        env.step(np.zeros(3, dtype=int))
    statistics = env.pop_statistics()
    np.testing.assert_allclose(statistics["novelty_mean"], 0.02, rtol=1e-6)
    np.testing.assert_allclose(statistics["intrinsic_reward_mean"], 0.04, rtol=1e-6)
    np.testing.assert_allclose(statistics["intrinsic_reward_max"], 0.06, rtol=1e-6)
    assert statistics["intrinsic_reward_clipped"] == 0
    env.snd.scale.eta = 60.0  # 0.6, 1.2, 1.8
    env.step(np.zeros(3, dtype=int))
    np.testing.assert_allclose(env.pop_statistics()["intrinsic_reward_clipped"], 2 / 3, rtol=1e-6)
    assert env.pop_statistics() == {}


def test_statistics_of_a_real_snd_follow_training():
    th.manual_seed(0)
    env = VecIntrinsicReward(make_env(), "rnd", dict(eta=0.5), device="cpu")
    assert isinstance(env.snd, SND) and env.snd.scale.eta == 0.5
    env.reset()
    env.step(np.zeros(3, dtype=int))
    assert env.snd.obs_stats.count.item() == pytest.approx(1e-4)
    env.training = True
    env.step(np.zeros(3, dtype=int))
    assert env.snd.obs_stats.count.item() == pytest.approx(3 + 1e-4)
    assert env.snd.target.frame_stats.count.item() == 2.0


def test_normalised_rewards_by_hand():
    """Novelties 0.01, 0.02, 0.03, twice that in every other step; their sums begin as if they had been the first for ever."""
    env = VecIntrinsicReward(make_env(), FakeSND(make_env().observation_space, norm_reward=True))
    env.training = True
    env.reset()
    sums = []
    for step in range(8):
        novelty = np.array([0.01, 0.02, 0.03]) * (1 + step % 2)
        env.snd.novelty = lambda _, novelty=novelty: th.as_tensor(novelty, dtype=th.float32)
        sums.append(100 * novelty if step == 0 else 0.99 * sums[-1] + novelty)
        infos = env.step(np.zeros(3, dtype=int))[3]
        np.testing.assert_allclose([info["intrinsic_reward"] for info in infos], novelty / np.std(sums), rtol=1e-5)
    env.training = False
    env.step(np.zeros(3, dtype=int))
    assert env.snd.scale.return_stats.count.item() == 8  # not the last step


def test_normalised_rewards_do_not_depend_on_the_scale_of_novelty():
    rewards = []
    for scale in (1e-6, 1.0, 1e6):
        env = VecIntrinsicReward(make_env(), FakeSND(make_env().observation_space, norm_reward=True), ext_coef=0)
        env.training = True
        rng = np.random.default_rng(0)
        env.snd.novelty = lambda obs, rng=rng, scale=scale: scale * th.as_tensor(rng.random(len(obs)))
        env.reset()
        rewards.append([env.step(np.zeros(3, dtype=int))[1] for _ in range(8)])
    np.testing.assert_allclose(rewards[0], rewards[1], rtol=1e-2)
    np.testing.assert_allclose(rewards[2], rewards[1], rtol=1e-2)


class NoTerminal(VecEnvWrapper):
    """Environments that reset without showing the last observation."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            info.pop("terminal_observation", None)
        return obs, rewards, dones, infos


@pytest.mark.parametrize(("outer", "last"), [(lambda env: env, 2.0), (NoTerminal, 1.0)])
def test_recorded_rollouts(outer, last):
    """Two environments with episodes of two steps; where no last observation is known, s_t stands for it."""
    venv = outer(make_env(2, length=2))
    env = VecIntrinsicReward(venv, FakeSND(venv.observation_space))
    env.training = True
    env.reset()
    for begin in (0, 1):
        env.start_recording(3)
        for _ in range(3):
            env.step(np.zeros(2, dtype=int))
        rollout = env.pop_rollout()
        steps = [(begin + t) % 2 for t in range(3)]
        np.testing.assert_array_equal(rollout.observations, [[[n, step] for n in range(2)] for step in steps])
        np.testing.assert_array_equal(rollout.last_observation, [[n, (begin + 3) % 2] for n in range(2)])
        ends = {2 * t + n: [n, last] for t in range(3) if steps[t] == 1 for n in range(2)}
        assert {row: frame.tolist() for row, frame in rollout.terminal_observations.items()} == ends


def test_recorded_frames_are_kept_when_the_environment_uses_its_memory_again():
    venv = make_env(2, image=True)
    env = VecIntrinsicReward(venv, FakeSND(venv.observation_space))
    env.training = True
    memory = env.reset()
    env.start_recording(2)
    step_wait = venv.step_wait

    def in_place():
        obs, *rest = step_wait()
        memory[:] = obs
        return memory, *rest

    venv.step_wait = in_place
    for _ in range(2):
        env.step(np.zeros(2, dtype=int))
    recorded = env.pop_rollout().observations
    assert recorded.dtype == th.uint8 and recorded.shape == (2, 2, 1, 36, 36)
    assert recorded[:, :, 0, 0, 0].tolist() == [[0, 20], [1, 21]]


def test_a_second_wrapper_is_refused():
    with pytest.raises(ValueError, match="already has an intrinsic reward: wrap it in VecIntrinsicReward only once"):
        VecIntrinsicReward(VecMonitor(wrap()), device="cpu")


def test_stepping_outside_of_training_is_named():
    env = wrap()
    env.reset()
    env.start_recording(2)
    for _ in range(2):
        env.step(np.zeros(3, dtype=int))
    with pytest.raises(RuntimeError, match=r"stepped by code other than the algorithm .* evaluate on another environment"):
        env.step(np.zeros(3, dtype=int))


def test_arguments_for_an_snd_that_is_one_already():
    with pytest.raises(ValueError, match=r"snd_kwargs=\{'eta': 1\} needs the name or class of a reward"):
        VecIntrinsicReward(make_env(), FakeSND(make_env().observation_space), dict(eta=1))


class SharedInfos(VecEnvWrapper):
    """One dict for all environments, as native vector environments may hand it out."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return *self.venv.step_wait()[:3], [{"lives": 3}] * self.num_envs


@pytest.mark.parametrize("training", [False, True])
def test_infos_of_each_environment_are_its_own(training):
    venv = SharedInfos(make_env())
    env = VecIntrinsicReward(venv, FakeSND(venv.observation_space))
    env.training = training
    env.reset()
    infos = env.step(np.zeros(3, dtype=int))[3]
    assert [info["extrinsic_reward"] for info in infos] == [0.0, 10.0, 20.0]
    np.testing.assert_allclose([info["intrinsic_reward"] for info in infos], np.array([1, 2, 3]) / 100 * training, rtol=1e-6)
    assert all(info["lives"] == 3 for info in infos)


def test_infos_are_there_for_a_monitor_above():
    env = VecMonitor(VecIntrinsicReward(make_env(length=2), "vic", device="cpu"), info_keywords=("intrinsic_reward",))
    env.reset()
    for _ in range(2):
        infos = env.step(np.zeros(3, dtype=int))[3]
    assert [info["episode"]["intrinsic_reward"] for info in infos] == [0.0] * 3


def test_equal_novelty_never_becomes_the_top_reward():
    """One environment, whose novelty is 0.01 for ever: 1 / 20 of eta from the first step to the last."""
    env = VecIntrinsicReward(make_env(1), FakeSND(make_env(1).observation_space, norm_reward=True), ext_coef=0.0)
    env.training = True
    env.reset()
    rewards = [env.step(np.zeros(1, dtype=int))[1].item() for _ in range(2000)]
    np.testing.assert_allclose(rewards, 0.05, rtol=1e-3)


def test_training_lasts_as_long_as_a_call():
    env = VecIntrinsicReward(make_env(), FakeSND(make_env().observation_space), ext_coef=0.0)
    with pytest.raises(ValueError, match=r"has not seen .* call its reset\(\) after wrapping"):
        env.train_during(sys._getframe())
    env.reset()

    def step():
        return env.step(np.zeros(3, dtype=int))[1][0] > 0  # of extrinsic rewards 0, 10, 20

    def learn(error=None):
        env.train_during(sys._getframe())
        paid.append(step())
        if error is not None:
            raise error

    paid = []
    learn()
    assert paid == [True] and not step() and not env.training
    with pytest.raises(KeyboardInterrupt):
        learn(KeyboardInterrupt())
    assert paid == [True, True] and not env.training and not step()


def test_an_interrupt_within_a_step_leaves_no_reward():
    env = wrap(ext_coef=0.0)
    env.reset()
    env.step_async(np.zeros(3, dtype=int))
    env.training = False
    env.venv.step_wait()
    env.step_async(np.zeros(3, dtype=int))
    assert env.step_wait()[1].tolist() == [0.0, 10.0, 20.0]


def test_weights_follow_schedules():
    env = wrap(ext_coef=LinearSchedule(2.0, 1.0, 1.0), int_coef=LinearSchedule(1.0, 0.0, 1.0))
    env.reset()
    for remaining in (1.0, 0.5, 0.0, -0.1):
        env.set_progress(remaining)
        rewards = env.step(np.zeros(3, dtype=int))[1]
        share = max(remaining, 0.0)
        np.testing.assert_allclose(rewards, (1 + share) * np.array([0, 10, 20]) + share * np.array([1, 2, 3]) / 100, rtol=1e-6)


@pytest.mark.parametrize(
    ("eta", "extrinsic", "message"),
    [
        (
            100.0,
            1,
            r"100% of the intrinsic rewards are clipped at 1 .*: lower eta, which is 100; 1.5 would give a mean of 0.03",
        ),
        (1e-4, 1, r"mean intrinsic reward, 2e-06, has no effect beside .* 10: raise eta, which is 0.0001; 1.5 would"),
        (1.0, 1, None),
        (1e-4, 0, None),
        (0.0, 1, None),  # switched off
    ],
)
def test_a_bonus_that_tells_nothing_is_named_once(eta, extrinsic, message):
    """Novelties 0.01, 0.02 and 0.03, extrinsic rewards 0, 10 and 20."""
    env = wrap()
    env.snd.novelty = lambda _: th.tensor([0.01, 0.02, 0.03])
    env.venv.step_wait = lambda wait=env.venv.step_wait: (lambda obs, rewards, *rest: (obs, rewards * extrinsic, *rest))(
        *wait()
    )
    env.snd.scale.eta = env.snd.scale.first_eta = eta
    env.reset()
    said = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            env.step(np.zeros(3, dtype=int))
            env.pop_statistics()
        said += [str(warning.message) for warning in caught]
    assert len(said) == (message is not None)
    if message is not None:
        assert re.search(message, said[0]) and said[0].endswith("or set norm_reward=True."), said


def test_a_bonus_of_zero_is_named():
    env = wrap()
    env.snd.novelty = lambda _: th.zeros(3)
    env.reset()
    env.step(np.zeros(3, dtype=int))
    with pytest.warns(UserWarning, match="Novelty is 0, so no eta .* choose another target"):
        env.pop_statistics()


def test_a_bonus_that_has_faded_is_not_named():
    env = VecIntrinsicReward(make_env(), "vic", dict(eta=LinearSchedule(1.0, 0.0, 1.0)), device="cpu")
    env.training = True
    env.reset()
    env.set_progress(1e-9)
    env.step(np.zeros(3, dtype=int))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert env.pop_statistics()["intrinsic_reward_mean"] < 1e-6
