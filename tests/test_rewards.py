"""Rewards that read transitions and episodes: what they are given, what they remember, and what they are trained on."""

import numpy as np
import pytest
import torch as th
from fakes import ActingEnv, CountingEnv, FakeSND, Guess, Trace, counting
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from sb3_snd import PPOSND, SND, EtaProposal, SNDCallback, VecIntrinsicReward
from sb3_snd.rewards import IntrinsicReward, check_reward
from sb3_snd.targets import TARGETS

DISCRETE, CONTINUOUS = spaces.Discrete(5), spaces.Box(-3, 2, (2,))
SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)


def acting(action_space):
    return DummyVecEnv([lambda i=i: ActingEnv(i, action_space) for i in range(3)])


def shown(reward):
    """:return: for each environment, the steps of the frames that are remembered"""
    return [memory[:length, 1].tolist() for memory, length in zip(reward.shown, reward.length.tolist(), strict=True)]


def test_a_memory_holds_what_its_environment_has_shown_since_the_reset():
    """Episodes of 3 and 4 steps. The bonus counts the states before the successor, the terminal one included."""
    venv = DummyVecEnv([lambda n=n: CountingEnv(n, length=3 + n) for n in range(2)])
    env = VecIntrinsicReward(venv, Trace(venv.observation_space), ext_coef=0.0, device="cpu")
    env.reset()
    env.training = True
    for t in range(1, 14):
        _, rewards, _, _ = env.step(np.zeros(2, dtype=int))
        in_episode = [(t - 1) % length + 1 for length in (3, 4)]  # steps of the episode after this one
        np.testing.assert_allclose(rewards, np.array(in_episode) / 100, rtol=1e-6)
        expected = [steps % length for steps, length in zip(in_episode, (3, 4), strict=True)]  # 0 after a reset
        assert shown(env.snd) == [list(range(steps + 1)) for steps in expected]


def test_a_memory_begins_anew_when_it_has_missed_steps():
    env = VecIntrinsicReward(counting(length=9), Trace(counting().observation_space), device="cpu")
    env.reset()
    step = lambda: env.step(np.zeros(2, dtype=int))  # noqa: E731
    for training, expected in [(True, [0, 1]), (True, [0, 1, 2]), (False, [0, 1, 2]), (True, [3, 4]), (True, [3, 4, 5])]:
        env.training = training
        step()
        assert shown(env.snd) == [expected] * 2
    env.reset()
    step()
    assert shown(env.snd) == [[0, 1]] * 2
    other = VecIntrinsicReward(counting(3), env.snd)  # takes the memory over
    other.reset()
    other.training = True
    other.step(np.zeros(3, dtype=int))
    assert shown(env.snd) == [[0, 1]] * 3
    step()
    assert shown(env.snd) == [[1, 2]] * 2


class WithoutTerminal(VecEnvWrapper):
    """Does not tell the last observation of an episode, as some environments do not."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, rewards, dones, [{k: v for k, v in info.items() if k != "terminal_observation"} for info in infos]


def test_an_unknown_terminal_state_is_the_state_itself():
    env = VecIntrinsicReward(WithoutTerminal(acting(DISCRETE)), Guess(acting(DISCRETE).observation_space), device="cpu")
    env.reset()
    env.training = True
    for _ in range(2):
        env.step(np.array([1, 2, 3]))
    assert env.snd.steps[0].successors.tolist() == [[0, 1, 1], [1, 1, 2], [2, 1, 3]]
    assert env.snd.steps[1].successors.tolist() == [[0, 1, 1], [1, 2, 2], [2, 2, 3]]  # environment 0 has ended


def check_transitions(states, actions, successors, ends):
    """The successor is one step later, of the same environment, and shows the action; ends are where episodes end."""
    assert len(states) > 0
    assert th.equal(successors[:, :2], states[:, :2] + th.tensor([0.0, 1.0]))
    np.testing.assert_allclose(successors[:, 2], actions.reshape(len(states), -1)[:, 0], atol=1e-6)
    assert th.equal(ends, successors[:, 1] == states[:, 0] + 2)


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("algorithm", [PPOSND, PPO])
def test_a_rollout_has_actions_and_ends(algorithm, action_space):
    """As the environments got them: a policy's actions are clipped, and scaled back."""
    venv = acting(action_space)
    reward = Guess(venv.observation_space, batch_size=6)
    if algorithm is PPOSND:
        model = PPOSND("MlpPolicy", venv, snd=reward, **SIZES)
        model.learn(48)
    else:
        model = PPO("MlpPolicy", VecIntrinsicReward(venv, reward), **SIZES)
        model.learn(48, callback=SNDCallback())
    assert len(reward.batches) == 2 * 24 // 6 and len(reward.steps) == 16
    for step in reward.steps:
        check_transitions(*step[:4])
    for batch in reward.batches:
        states, successors = batch.split(batch.frames)
        check_transitions(states, batch.actions, successors, batch.ends)
        assert batch.actions.shape[1:] == action_space.shape


@pytest.mark.parametrize("one_array", [False, True])
@pytest.mark.parametrize(("algorithm", "action_space"), [(DQN, DISCRETE), (SAC, CONTINUOUS)])
def test_a_replay_buffer_gives_actions_and_ends(algorithm, action_space, one_array):
    """SAC's buffer holds them scaled to [-1, 1]; time limits, those of environment 1, are no ends there."""
    venv = acting(action_space)
    reward = Guess(venv.observation_space, batch_size=8)
    one = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    kwargs = dict(learning_starts=99, buffer_size=300, device="cpu", seed=0, train_freq=4, **(one if one_array else {}))
    algorithm("MlpPolicy", VecIntrinsicReward(venv, reward), **kwargs).learn(96, callback=SNDCallback())
    assert len(reward.batches) == 96 // 8
    for step in reward.steps:
        check_transitions(*step[:4])
    for batch in reward.batches:
        states, successors = batch.split(batch.frames)
        ends = batch.ends | ((states[:, 0] == 1) & (successors[:, 1] == 3))
        check_transitions(states, batch.actions, successors, ends)
        assert batch.actions.shape[1:] == action_space.shape


def test_a_reward_without_nets_is_not_trained(tmp_path):
    """Its bonus reaches any algorithm. A saved model holds no memory, so it fits any number of environments."""
    model = PPOSND("MlpPolicy", counting(length=4), snd=Trace, snd_kwargs=dict(eta=2.0), **SIZES).learn(32)
    expected = np.tile(np.arange(1, 5) / 50, 2)[:, None].repeat(2, axis=1)  # eta 2, four steps an episode
    np.testing.assert_allclose(model.rollout_buffer.rewards[..., 1], expected, rtol=1e-6)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", env=counting(3, length=4), device="cpu")
    assert type(loaded.snd) is Trace and loaded.snd.scale.eta == 2.0
    assert set(model.snd.state_dict()) == {f"obs_stats.{name}" for name in ("mean", "var", "count")}
    loaded.learn(24)
    assert shown(loaded.snd) == [[0]] * 3

    env = VecIntrinsicReward(counting(length=4), Trace, ext_coef=0.0)
    ppo = PPO("MlpPolicy", env, gamma=0.0, gae_lambda=0.0, **SIZES).learn(16, callback=SNDCallback())
    np.testing.assert_allclose(ppo.rollout_buffer.rewards, expected / 2, rtol=1e-6)
    dqn = DQN("MlpPolicy", VecIntrinsicReward(counting(length=4), Trace, ext_coef=0.0), buffer_size=64, device="cpu")
    dqn.learn(16, callback=SNDCallback())
    np.testing.assert_allclose(dqn.replay_buffer.rewards[:8], expected / 2, rtol=1e-6)


def test_parameters_without_a_loss():
    class Lossless(Guess):
        loss = Trace.loss

    reward = Lossless(acting(DISCRETE).observation_space)
    env = VecIntrinsicReward(acting(DISCRETE), reward)
    with pytest.raises(NotImplementedError, match="Lossless has parameters to train, but no loss"):
        PPO("MlpPolicy", env, **SIZES).learn(24, callback=SNDCallback())


VECTOR = spaces.Box(-1, 1, (5,))


@pytest.mark.parametrize("target", TARGETS)
def test_snd_conforms(target):
    check_reward(SND, target=target, features_dim=8)


def test_fakes_conform():
    check_reward(Trace)
    check_reward(Guess, VECTOR)
    check_reward(Guess, VECTOR, CONTINUOUS)


class Shape(Trace):
    def bonus(self, step):
        return super().bonus(step)[:, None]


class Negative(Trace):
    def bonus(self, step):
        return super().bonus(step) - 1


class Impure(Trace):
    def bonus(self, step):
        self.remember(step)
        return super().bonus(step)


class Shared(Trace):
    def bonus(self, step):
        return super().bonus(step) + step.successors.abs().mean()


class Endless(Trace):
    def begin(self, frames, which):
        if self.length.sum() == 0:
            super().begin(frames, which)


class Forgetful(Trace):
    def begin(self, frames, which):
        super().begin(frames, th.ones_like(which))


class Saved(Trace):
    def start(self, n_envs):
        super().start(n_envs)
        self.register_buffer("mine", th.zeros(n_envs))


class Hidden(Trace):
    """Keeps a count that is no buffer."""

    def start(self, n_envs):
        super().start(n_envs)
        self.count = th.zeros(n_envs)

    def bonus(self, step):
        return getattr(self, "count", 0) + super().bonus(step)

    def remember(self, step):
        super().remember(step)
        self.count = getattr(self, "count", 0) + 1

    def begin(self, frames, which):
        super().begin(frames, which)
        self.count = th.where(which, 0.0, self.count)


class Infinite(Guess):
    def loss(self, batch):
        terms = super().loss(batch)
        return {"loss": terms["loss"] / (batch.frames - batch.frames[:1]).abs().sum()}


class Terms(Guess):
    def loss(self, batch):
        return {**super().loss(batch), "extra": th.zeros(2)}


@pytest.mark.parametrize(
    ("reward_class", "message"),
    [
        (Shape, r"bonus gave \(3, 1\), not \(n,\)"),
        (Negative, "bonus must be finite and >= 0"),
        (Impure, "bonus changed 'shown', which only remember may do"),
        (Shared, "the bonus of an environment depends on another environment"),
        (Endless, "begin does not empty the memory of an environment"),
        (Forgetful, "begin changes the memory of another environment"),
        (Saved, "its state_dict holds what depends on the environments"),
        (Hidden, "the bonus differs after a round trip through state_dict and get_run_state"),
        (Infinite, "training on constant observations failed: .* is inf"),
        (Terms, "the loss's term 'extra' is not a scalar"),
    ],
)
def test_what_does_not_conform_is_named(reward_class, message):
    with pytest.raises(ValueError, match=f"{reward_class.__name__} with Box.*: {message}"):
        check_reward(reward_class, VECTOR)


def test_only_rewards_are_checked():
    with pytest.raises(TypeError, match=r"is not a subclass of sb3_snd\.rewards\.IntrinsicReward"):
        check_reward(th.nn.Linear)


def stepped(env, n=1):
    for _ in range(n):
        env.step(np.zeros(env.num_envs, dtype=int))


def test_another_environment_does_not_forget_the_sums_of_the_first():
    """The wrapper of an evaluation environment has the same reward, but does not train."""
    reward = FakeSND(counting().observation_space, norm_reward=True)
    env = VecIntrinsicReward(counting(length=9), reward)
    env.reset()
    env.training = True
    stepped(env, 3)
    # novelty 0.01 and 0.02; the sums begin at 100 times the first
    np.testing.assert_allclose(reward.scale.returns, [1.0, 2.0], rtol=1e-5)
    evaluation = VecIntrinsicReward(counting(3), reward)
    evaluation.reset()
    stepped(evaluation)
    np.testing.assert_allclose(reward.scale.returns, [1.0, 2.0], rtol=1e-5)
    evaluation.training = True
    stepped(evaluation)
    assert len(reward.scale.returns) == 3


class Interrupted(CountingEnv):
    """Raises at its third step, once."""

    raised = False

    def step(self, action):
        if self.step_count == 2 and not Interrupted.raised:
            Interrupted.raised = True
            raise KeyboardInterrupt
        return super().step(action)


def test_after_an_interrupt_a_memory_begins_anew():
    """Environment 0 ends its second episode step and is reset before environment 1 raises."""
    Interrupted.raised = False
    venv = DummyVecEnv([lambda: CountingEnv(0, length=3), lambda: Interrupted(1, length=9)])
    env = VecIntrinsicReward(venv, Trace(venv.observation_space))
    env.last_obs = env.reset()
    env.training = True
    stepped(env, 2)
    with pytest.raises(KeyboardInterrupt):
        stepped(env)
    stepped(env)
    assert [len(steps) for steps in shown(env.snd)] == [2, 2]  # the last observation, and its successor


class WithGradient(Guess):
    """A bonus that is computed by the net which is trained."""

    def bonus(self, step):
        return self.net(th.cat([step.states, step.successors], dim=1)).flatten().abs()


def test_a_bonus_needs_no_gradient():
    check_reward(WithGradient, VECTOR)
    env = VecIntrinsicReward(acting(DISCRETE), WithGradient(acting(DISCRETE).observation_space, batch_size=6))
    PPO("MlpPolicy", env, **SIZES).learn(48, callback=SNDCallback())


class Bare(Trace):
    """Neither parameters nor buffers."""

    def __init__(self, observation_space, device="cpu", obs_key=None, **settings):
        IntrinsicReward.__init__(self, observation_space, obs_key, **settings)
        self.set_up(device)

    def start(self, n_envs):
        pass

    def begin(self, frames, which):
        pass

    def remember(self, step):
        pass

    def bonus(self, step):
        return th.ones(len(step.states)) / 100


class Late(Trace):
    """Registers its memory in ``start``, if it is not there."""

    def __init__(self, observation_space, device="cpu", obs_key=None, **settings):
        IntrinsicReward.__init__(self, observation_space, obs_key, **settings)
        self.set_up(device)

    def start(self, n_envs):
        self.register_buffer("shown", th.zeros(n_envs, 16, *self.frame_shape), persistent=False)
        self.register_buffer("length", th.zeros(n_envs, dtype=th.long), persistent=False)


@pytest.mark.parametrize("reward_class", [Bare, Late])
def test_what_a_reward_keeps_is_up_to_it(reward_class):
    check_reward(reward_class)
    image = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    reward = reward_class(image)
    assert reward.device == th.device("cpu") and set(reward.state_dict()) == set()
    env = VecIntrinsicReward(counting(), reward_class)
    PPO("MlpPolicy", env, **SIZES).learn(32, callback=SNDCallback())
    other = reward_class(counting().observation_space)
    other.set_run_state(env.snd.get_run_state())
    other.start(3)
    assert set(other.get_run_state()) == set(env.snd.get_run_state()) - {"scale.returns"}


def test_a_device_that_is_not_there_is_named():
    for make in (lambda: Guess(VECTOR, device="nowhere"), lambda: SND(VECTOR, device="nowhere")):
        with pytest.raises(ValueError, match="device='nowhere' must be 'auto', 'cpu', 'cuda' or another device"):
            make()


def test_an_unknown_setting_is_named():
    for make in (
        lambda: Trace(VECTOR, lerning_rate=1e-3),
        lambda: PPOSND("MlpPolicy", counting(), snd=Trace, snd_kwargs={"lerning_rate": 1e-3}),
    ):
        with pytest.raises(ValueError, match="Unknown argument 'lerning_rate' of Trace: it takes eta, learning_rate"):
            make()


def test_rewards_that_do_not_train_are_logged_as_often_as_others():
    """Off-policy once per 512 transitions; EtaProposal counts these."""
    env = VecIntrinsicReward(counting(), Trace)
    proposal = EtaProposal(n_rollouts=2)
    model = DQN("MlpPolicy", env, train_freq=4, learning_starts=9999, buffer_size=64, device="cpu")
    model.learn(4096, callback=[SNDCallback(), proposal])
    assert 1024 <= model.num_timesteps <= 1032 and env.scorer.statistics.n_rollouts == 2
    # episodes of 5 steps: on average 3 of the states shown before differ, 0.03
    assert proposal.eta == pytest.approx(1.0, rel=0.02)


def test_a_rollout_of_one_transition_suffices_where_nothing_is_trained():
    A2C("MlpPolicy", VecIntrinsicReward(counting(1), Trace), n_steps=1, device="cpu").learn(8, callback=SNDCallback())
    reward = Trace(counting().observation_space)
    for snd in (Trace, reward):
        PPOSND("MlpPolicy", counting(1), snd=snd, n_steps=1, batch_size=2, device="cpu").learn(4)
    with pytest.raises(ValueError, match="cannot train on a rollout of one transition"):
        PPOSND("MlpPolicy", acting(DISCRETE).envs[0], snd=Guess, n_steps=1, batch_size=2, device="cpu").learn(4)


def test_a_training_that_a_callback_ended_goes_on_where_the_environment_is():
    """SB3 keeps the state before the last step; a transition from there would be false."""

    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 9

    model = PPOSND("MlpPolicy", acting(DISCRETE), snd=(reward := Guess(acting(DISCRETE).observation_space)), **SIZES)
    model.learn(48, callback=Stop())
    model.learn(24, reset_num_timesteps=False)
    assert len(reward.steps) == 3 + 8
    for step in reward.steps:
        check_transitions(*step[:4])


class Narrow(Trace):
    def __init__(self, observation_space, device):
        super().__init__(observation_space, device)


def test_a_reward_needs_its_set_up():
    class Unfinished(Trace):
        def set_up(self, device):
            pass

    with pytest.raises(ValueError, match="its constructor must call set_up"):
        check_reward(Unfinished, VECTOR)
    with pytest.raises(ValueError, match="it must take a space, action_space, device, obs_key and the settings"):
        check_reward(Narrow, VECTOR)
    with pytest.raises(ValueError, match="reads must be 'state' or 'transition'"):
        check_reward(type("Typo", (Trace,), {"reads": "transitions"}), VECTOR)


def test_what_was_saved_before_the_first_step_leaves_a_reward_as_it_is():
    env, other = (VecIntrinsicReward(counting(), Trace) for _ in range(2))
    env.reset()
    other.set_run_state(env.get_run_state())
    assert other.snd.shown.shape == (0, 16, 2) and other.last_obs is env.last_obs
