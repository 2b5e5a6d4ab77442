"""Replayed rewards with the present bonus: by hand, for each kind of buffer and action, normalised, saved and loaded."""

from collections import Counter

import numpy as np
import pytest
import torch as th
from fakes import ActingEnv, AnyEnv, CountingEnv, Guess, Trace, counting
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_snd import SND, SNDCallback, VecIntrinsicReward
from sb3_snd.rewards import IntrinsicReward
from sb3_snd.rewards.counts import Counts
from sb3_snd.rewards.noveld import NovelD
from sb3_snd.rewards.recompute import recompute_rewards

DQN_SIZES = dict(learning_starts=999, buffer_size=200, device="cpu", seed=0)
ONE_ARRAY = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))


class Size(IntrinsicReward):
    """Bonus of a state: a factor times its last number. It can be normalised."""

    reads = "state"

    def __init__(self, observation_space, device="cpu", obs_key=None, **settings):
        super().__init__(observation_space, obs_key, **settings)
        self.factor = 1.0
        self.set_up(device)

    def bonus(self, step):
        return self.factor * step.states[:, -1].float().abs()


def trained(wrap=lambda env: env, algorithm=DQN, reward=None, steps=40, venv=None, **kwargs):
    """:return: model and wrapper; environment n gives 10 n a step, and shows its number and the step"""
    venv = counting(length=3) if venv is None else venv
    env = VecIntrinsicReward(venv, reward or Size(venv.observation_space, eta=0.1), ext_coef=2.0, int_coef=0.5)
    model = algorithm("MlpPolicy", wrap(env), **{**DQN_SIZES, **kwargs})
    model.learn(steps, callback=SNDCallback(recompute=True))
    return model, env


@pytest.mark.parametrize("kwargs", [{}, ONE_ARRAY, dict(buffer_size=10)], ids=["plain", "one array", "full"])
def test_rewards_by_hand(kwargs):
    """2 · 10 n + 0.5 · (bonus / 10) as it was trained; then with other nets, scale, weights and statistics."""
    model, env = trained(**kwargs)
    np.testing.assert_array_equal(
        model.replay_buffer.rewards[: model.replay_buffer.size()], [[0, 10]] * model.replay_buffer.size()
    )
    samples = model.replay_buffer.sample(64)
    number, step = samples.observations.T
    assert set(step.tolist()) == {0, 1, 2} and set(number.tolist()) == {0, 1}
    np.testing.assert_allclose(samples.rewards, (20 * number + 0.5 * 0.1 * step)[:, None], rtol=1e-6)

    env.snd.factor, env.snd.scale.eta, env.coefs = 30.0, 0.02, np.array([3.0, 7.0], dtype=np.float32)
    samples = model.replay_buffer.sample(64)
    number, step = samples.observations.T
    np.testing.assert_allclose(samples.rewards[:, 0], 30 * number + 7 * (0.02 * 30 * step).clamp(max=1), rtol=1e-6)


def test_rewards_follow_the_statistics():
    model, env = trained(reward=Size(counting().observation_space, eta=0.1, norm_reward=True))
    env.snd.scale.return_stats.mean.zero_()
    for std in (0.5, 4.0):
        env.snd.scale.return_stats.var.fill_(std**2)
        samples = model.replay_buffer.sample(64)
        number, step = samples.observations.T
        np.testing.assert_allclose(samples.rewards[:, 0], 20 * number + 0.5 * 0.1 * step / std, rtol=1e-5)


def test_other_buffers_keep_the_bonus_of_the_time():
    env = VecIntrinsicReward(counting(length=3), Size(counting().observation_space, eta=0.1), ext_coef=2.0, int_coef=0.5)
    model = DQN("MlpPolicy", env, **DQN_SIZES)
    model.learn(40, callback=SNDCallback())
    env.snd.factor = 0.0
    samples = model.replay_buffer.sample(64)
    number, step = samples.observations.T
    np.testing.assert_allclose(samples.rewards[:, 0], 20 * number + 0.05 * step, rtol=1e-6)


@pytest.mark.parametrize("action_space", [spaces.Discrete(5), spaces.Box(-3, 2, (2,))], ids=["DQN", "SAC"])
def test_a_reward_of_transitions_gets_them_as_the_environment_did(action_space):
    """The bonus is the size of the action, which the successor shows; terminal states are known, extrinsic rewards are 0."""
    venv = DummyVecEnv([lambda i=i: ActingEnv(i, action_space) for i in range(3)])
    reward = Guess(venv.observation_space, batch_size=6, eta=0.2)
    algorithm = SAC if isinstance(action_space, spaces.Box) else DQN
    model, _ = trained(algorithm=algorithm, venv=venv, reward=reward, steps=60)
    assert len(reward.steps) == 60 // 3 and len(reward.batches) == 60 // 6  # the nets' training rates nothing
    samples = model.replay_buffer.sample(64)
    states, actions, successors, ends, _ = reward.steps[-1]
    assert th.equal(states, samples.observations) and th.equal(successors, samples.next_observations)
    assert th.equal(successors[:, :2], states[:, :2] + th.tensor([0.0, 1.0]))
    np.testing.assert_allclose(actions.reshape(64, -1)[:, 0], successors[:, 2], atol=1e-6)
    assert actions.shape[1:] == action_space.shape
    assert th.equal(ends, (successors[:, 1] == states[:, 0] + 2) & (states[:, 0] != 1))  # but for time limits
    np.testing.assert_allclose(samples.rewards[:, 0], 0.5 * (0.2 * successors[:, 2].abs()).clamp(max=1), atol=1e-6)


def test_vec_normalize_above_normalises_the_present_rewards():
    """The reward reads what is not normalised."""
    model, env = trained(VecNormalize)
    normalize = model.get_vec_normalize_env()
    env.snd.factor = 3.0
    np.random.seed(0)
    raw = model.replay_buffer.sample(64)
    np.random.seed(0)
    samples = model.replay_buffer.sample(64, env=normalize)
    number, step = raw.observations.T
    expected = (20 * number + 0.5 * (0.1 * 3 * step).clamp(max=1)) / np.sqrt(normalize.ret_rms.var + 1e-8)
    np.testing.assert_allclose(raw.rewards[:, 0], 20 * number + 0.15 * step, rtol=1e-5)
    np.testing.assert_allclose(samples.rewards[:, 0], expected.clip(-10, 10), rtol=1e-5)
    mean, std = normalize.obs_rms.mean, np.sqrt(normalize.obs_rms.var + 1e-8)
    for got, plain in ((samples.observations, raw.observations), (samples.next_observations, raw.next_observations)):
        np.testing.assert_allclose(got, ((plain.numpy() - mean) / std).clip(-10, 10), rtol=1e-5)
    assert samples.rewards.dtype == samples.observations.dtype == th.float32


def test_the_agent_learns_from_present_rewards():
    """With a discount factor of 0, Q-values approach the rewards: 1 for all states instead of 0 as they were collected."""
    reward = Size(counting().observation_space, eta=1.0)
    reward.bonus = lambda step: th.full((len(step.states),), reward.factor)
    reward.factor = 0.0
    env = VecIntrinsicReward(DummyVecEnv([CountingEnv]), reward)
    sizes = dict(learning_rate=0.02, learning_starts=0, policy_kwargs=dict(net_arch=[16]))
    model = DQN("MlpPolicy", env, gamma=0.0, device="cpu", seed=0, **sizes)
    model.learn(20, callback=SNDCallback(recompute=True))
    reward.factor = 1.0
    model.train(gradient_steps=100, batch_size=32)
    samples = model.replay_buffer.sample(32)
    chosen = model.q_net(samples.observations).gather(1, samples.actions)
    np.testing.assert_allclose(chosen.detach(), 1.0, atol=0.1)


def test_dict_observations():
    """One entry is read."""
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3))
    env = VecIntrinsicReward(DummyVecEnv([lambda: AnyEnv(space)] * 2), Size(space, obs_key="a", eta=0.1), int_coef=4.0)
    for top in (env, VecNormalize(env, norm_obs_keys=["a"])):
        model = DQN("MultiInputPolicy", top, **DQN_SIZES)
        model.learn(40, callback=SNDCallback(recompute=True))
        env.snd.factor += 1
        samples = model.replay_buffer.sample(16)
        expected = 2 + 4 * 0.1 * env.snd.factor * samples.observations["a"][:, -1].abs()
        np.testing.assert_allclose(samples.rewards[:, 0], expected, rtol=1e-5)
        normalized = model.replay_buffer.sample(16, env=model.get_vec_normalize_env())
        assert {key: entry.shape[0] for key, entry in normalized.next_observations.items()} == dict(a=16, b=16)
        model.train(gradient_steps=2, batch_size=4)


def test_frames_above_the_wrapper_and_real_nets():
    """Stacked vectors; the bonus is that of the newest, with the trained nets."""
    reward = SND(counting().observation_space, "vic", batch_size=8, device="cpu")
    model, env = trained(lambda env: VecFrameStack(env, 3), reward=reward)
    samples = model.replay_buffer.sample(32)
    newest = samples.observations[:, -2:]
    expected = 20 * newest[:, 0] + 0.5 * env.snd.scale(env.snd.novelty(newest))
    np.testing.assert_allclose(samples.rewards[:, 0], expected, rtol=1e-5)


def test_lifelong_counts_at_present():
    """1/√(1 + n), where n visits of the successor or first state were made in the whole run."""
    venv = counting(length=3)
    env = VecIntrinsicReward(venv, "counts", dict(kind="lifelong"), ext_coef=0.0, device="cpu")
    model = DQN("MlpPolicy", env, **DQN_SIZES)
    model.learn(24, callback=SNDCallback(recompute=True))
    shown = Counter()
    for number in range(2):
        for t in range(12):
            shown[number, t % 3 + 1] += 1
            shown[number, 0] += t % 3 == 0
        shown[number, 0] += 1  # the episode that has just begun
    samples = model.replay_buffer.sample(64)
    expected = [1 / np.sqrt(1 + shown[tuple(map(int, each))]) for each in samples.next_observations.tolist()]
    np.testing.assert_allclose(samples.rewards[:, 0], expected, rtol=1e-6)


def test_other_rewards_by_name():
    for name in ("vic", "rnd_openai", "re3"):
        env = VecIntrinsicReward(counting(length=3), name, ext_coef=0.0, device="cpu")
        model = DQN("MlpPolicy", env, **{**DQN_SIZES, "learning_starts": 20}, train_freq=2, batch_size=8)
        model.learn(40, callback=SNDCallback(recompute=True))
        assert (model.replay_buffer.sample(16).rewards > 0).any()


def test_a_buffer_is_saved_and_loaded(tmp_path):
    model, env = trained()
    model.save_replay_buffer(tmp_path / "buffer")
    env = VecIntrinsicReward(counting(length=3), Size(counting().observation_space, eta=0.1), ext_coef=2.0, int_coef=0.5)
    other = DQN("MlpPolicy", env, **DQN_SIZES)
    other.load_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match=r"holds rewards without their bonus: use SNDCallback\(recompute=True\)"):
        other.replay_buffer.sample(4)
    with pytest.raises(ValueError, match=r"has left out: use recompute=True again"):
        other.learn(2, callback=SNDCallback())
    env.snd.factor = 5.0
    other.learn(16, callback=SNDCallback(recompute=True), reset_num_timesteps=False)
    assert other.replay_buffer.pos == 28 and model.replay_buffer.pos == 20
    samples = other.replay_buffer.sample(64)
    number, step = samples.observations.T
    np.testing.assert_allclose(samples.rewards[:, 0], 20 * number + 0.5 * 0.1 * 5 * step, rtol=1e-5)


def test_without_the_wrapper_rewards_stay_what_they_are():
    model, _ = trained()
    model.set_env(counting(length=3))
    model.learn(8)
    np.testing.assert_array_equal(model.replay_buffer.rewards[20:24], [[0, 10]] * 4)


class Own(ReplayBuffer):
    pass


@pytest.mark.parametrize(
    ("message", "function"),
    [
        ("rates single transitions, and Trace compares them with their episode", lambda space: trained(reward=Trace(space))),
        ("and NovelD compares them", lambda space: trained(reward=NovelD(space, device="cpu"))),
        (
            "needs the places that Counts reads",
            lambda space: recompute_rewards(
                ReplayBuffer(8, space, spaces.Discrete(3)), Counts(space, kind="lifelong", place=True), lambda: np.ones(2)
            ),
        ),
        ("last observation of each episode for Guess, .* omit one", lambda space: trained(reward=Guess(space), **ONE_ARRAY)),
        ("needs a ReplayBuffer or DictReplayBuffer, not NStepReplayBuffer: omit it", lambda _: trained(n_steps=3)),
        ("needs a ReplayBuffer or DictReplayBuffer, not Own", lambda _: trained(replay_buffer_class=Own)),
        (
            "recompute=True needs a replay buffer, and PPO has none",
            lambda _: PPO("MlpPolicy", VecIntrinsicReward(counting()), device="cpu").learn(8, SNDCallback(recompute=True)),
        ),
        ("recompute='yes' must be True or False", lambda _: SNDCallback(recompute="yes")),
    ],
)
def test_what_cannot_be_recomputed_is_named(message, function):
    with pytest.raises(ValueError, match=message):
        function(counting().observation_space)


def test_a_buffer_with_the_bonus_in_it_is_named():
    env = VecIntrinsicReward(counting(length=3), Size(counting().observation_space))
    model = DQN("MlpPolicy", env, **DQN_SIZES)
    model.learn(8, callback=SNDCallback())
    with pytest.raises(
        ValueError, match=r"needs an empty replay buffer, and the rewards in this one have their bonus already"
    ):
        model.learn(8, callback=SNDCallback(recompute=True))
