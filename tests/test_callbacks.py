import csv
import json

import numpy as np
import pytest
import torch as th
from fakes import CountingEnv, FakeSND, counting
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize, VecTransposeImage
from stable_baselines3.her import HerReplayBuffer

from sb3_snd import PPOSND, SND, EtaProposal, SNDCallback, VecIntrinsicReward
from sb3_snd.runs.monitor import StreamMonitor


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
        for batch in env.snd.trainer.minibatches(rollout):
            pairs.extend(th.cat(batch.split(batch.frames), dim=1).tolist())
        return {}

    env.snd.prepare = th.as_tensor  # the numbers themselves, not normalised
    env.snd.trainer.train_on_rollout = train_on_rollout
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
    for a, b in ((env.snd, other_env.snd), (env.snd.trainer.optimizer, other_env.snd.trainer.optimizer)):
        a, b = a.state_dict(), b.state_dict()
        flat = [(x, y) for x, y in zip(_tensors(a), _tensors(b), strict=True)]
        assert flat and all(th.equal(x, y) for x, y in flat)


def _tensors(state):
    if isinstance(state, th.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in _tensors(value)]


def test_rewards_only_while_the_algorithm_learns():
    model, env = make_ppo()
    assert not env.training
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            seen.append(self.locals["infos"][0]["intrinsic_reward"] > 0)
            return True

    model.learn(32, callback=[Watch(), SNDCallback()])
    assert seen == [True] * 16 and not env.training
    # Environment n gives 10 n a step for 5 steps
    assert evaluate_policy(model, env, n_eval_episodes=2, return_episode_rewards=True)[0] == [0.0, 50.0]


def test_evaluation_environments_stay_untouched(tmp_path):
    """One with a wrapper of its own, as the Zoo makes it, is neither rewarded nor trained."""
    model, env = make_ppo()
    evaluation = VecIntrinsicReward(counting(), "vic", device="cpu")
    before = {name: value.clone() for name, value in evaluation.snd.state_dict().items()}
    callback = EvalCallback(evaluation, n_eval_episodes=2, eval_freq=8, log_path=str(tmp_path), verbose=0)
    model.learn(32, callback=[callback, SNDCallback()])
    assert np.load(tmp_path / "evaluations.npz")["results"].tolist() == [[0.0, 50.0]] * 2
    assert all(th.equal(value, before[name]) for name, value in evaluation.snd.state_dict().items())
    assert env.snd.obs_stats.count == pytest.approx(32, abs=1e-3)  # of the training steps alone


class MaskedCounting(CountingEnv):
    """Only the action 1 is allowed."""

    def action_masks(self):
        return np.array([False, True, False])

    def step(self, action):
        assert action == 1
        return super().step(action)


class ContinuousCounting(CountingEnv):
    def __init__(self, number=0):
        super().__init__(number)
        self.action_space = spaces.Box(-1, 1, (1,))


ON_POLICY = dict(n_steps=8, device="cpu", seed=0)
OFF_POLICY = dict(learning_starts=8, train_freq=2, buffer_size=64, batch_size=4, device="cpu", seed=0)


@pytest.mark.parametrize(
    ("algorithm", "policy", "env_class", "kwargs"),
    [
        (PPO, "MlpPolicy", CountingEnv, dict(batch_size=16, **ON_POLICY)),
        (A2C, "MlpPolicy", CountingEnv, ON_POLICY),
        (MaskablePPO, "MlpPolicy", MaskedCounting, dict(batch_size=16, **ON_POLICY)),
        (RecurrentPPO, "MlpLstmPolicy", CountingEnv, dict(batch_size=16, **ON_POLICY)),
        (TRPO, "MlpPolicy", CountingEnv, dict(batch_size=16, **ON_POLICY)),
        (DQN, "MlpPolicy", CountingEnv, OFF_POLICY),
        (DQN, "MlpPolicy", CountingEnv, dict(n_steps=3, **OFF_POLICY)),
        (QRDQN, "MlpPolicy", CountingEnv, OFF_POLICY),
        (SAC, "MlpPolicy", ContinuousCounting, OFF_POLICY),
    ],
)
def test_every_algorithm(algorithm, policy, env_class, kwargs):
    """
    Environment n gives 10 n and has novelty (n + 1) / 100: with weights 2 and 100 it is rewarded by 20 n + n + 1. The
    algorithm's own buffer has these, and the nets are trained.
    """
    venv = DummyVecEnv([lambda i=i: env_class(i) for i in range(2)])
    env = VecIntrinsicReward(venv, FakeSND(venv.observation_space, batch_size=8), ext_coef=2.0, int_coef=100.0)
    nets = {name: value.clone() for name, value in env.snd.named_parameters()}
    model = algorithm(policy, env, **kwargs)
    rewards = []

    class Watch(BaseCallback):
        def _on_step(self):
            rewards.append(self.locals["rewards"].copy())
            return True

    model.learn(32, callback=[SNDCallback(), Watch()])
    np.testing.assert_allclose(rewards, [[1, 22]] * 16, rtol=1e-6)
    stored = model.rollout_buffer.rewards if hasattr(model, "rollout_buffer") else model.replay_buffer.rewards[:16]
    np.testing.assert_allclose(stored.reshape(-1, 2) if stored.ndim == 2 else stored, rewards[-len(stored) :], rtol=1e-6)
    assert all(not th.equal(value, nets[name]) for name, value in env.snd.named_parameters())


class Pairs:
    """Stands in for the nets' training and keeps what it is given."""

    def __init__(self, snd):
        self.snd, self.rollouts, self.pairs = snd, [], []
        snd.trainer.train_on_rollout = lambda rollout: self.add(self.rollouts, rollout)
        snd.transitions = lambda obs, next_obs, *_: self.add(self.pairs, (obs, next_obs))
        snd.trainer.train_on_batch = lambda _: {}

    @staticmethod
    def add(into, what):
        into.append(what)
        return {}


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("normalize", [None, "above", "both"])
def test_off_policy_pairs_from_the_replay_buffer(n_steps, normalize):
    """
    Observations are (environment, step): a successor's step is one more, also at an episode's end and with n-step
    returns; as many transitions are drawn as were collected. The replayed rewards have the bonus: 20 n + (n + 1) / 100.
    VecNormalize below: novelty reads what comes from there, halved here.
    """
    venv = counting(length=3)
    if normalize == "both":
        venv = VecNormalize(venv, norm_reward=False, training=False, epsilon=0)
        venv.obs_rms.var = np.full(2, 4.0)
    scale = 0.5 if normalize == "both" else 1.0
    env = VecIntrinsicReward(venv, FakeSND(venv.observation_space, batch_size=8))
    kept = Pairs(env.snd)
    top = VecNormalize(env) if normalize else env
    model = DQN("MlpPolicy", top, train_freq=3, learning_starts=0, n_steps=n_steps, buffer_size=64, device="cpu", seed=0)
    model.learn(48, callback=SNDCallback())
    assert len(kept.pairs) == 48 // 8
    for obs, next_obs in kept.pairs:
        assert set(obs[:, 1].tolist()) <= {0.0, scale, 2 * scale}
        np.testing.assert_allclose(next_obs, obs + scale * th.tensor([0.0, 1.0]), atol=1e-6)
    np.testing.assert_allclose(model.replay_buffer.rewards[:24], [[0.01, 20.02]] * 24, rtol=1e-6)


ONE_ARRAY = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))


@pytest.mark.parametrize("algorithm", [DQN, QRDQN])
@pytest.mark.parametrize("buffer_size", [10, 14, 400])
def test_no_pair_crosses_a_reset_where_the_buffer_keeps_one_array(algorithm, buffer_size):
    """Episodes of three and four steps in one array of observations, which wraps around but for the largest."""
    venv = DummyVecEnv([lambda n=n: CountingEnv(n, length=3 + n, truncated=n == 1) for n in range(2)])
    env = VecIntrinsicReward(venv, FakeSND(venv.observation_space, batch_size=8))
    kept = Pairs(env.snd)
    model = algorithm("MlpPolicy", env, train_freq=1, learning_starts=999, buffer_size=buffer_size, device="cpu", **ONE_ARRAY)
    model.learn(160, callback=SNDCallback())
    assert len(kept.pairs) == 160 // 8
    obs, next_obs = (th.cat(part) for part in zip(*kept.pairs, strict=True))
    np.testing.assert_array_equal(next_obs, obs + th.tensor([0.0, 1.0]))
    assert {tuple(row) for row in obs.tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}  # the last steps are never drawn


@pytest.mark.parametrize("wrap", [lambda env: env, VecNormalize])
def test_no_pair_crosses_the_reset_of_a_new_environment(wrap):
    """SB3 resets it, and its buffer does not know."""
    env = VecIntrinsicReward(counting(length=9), FakeSND(counting().observation_space, batch_size=8))
    kept = Pairs(env.snd)
    model = DQN("MlpPolicy", wrap(env), learning_starts=999, buffer_size=40, device="cpu", **ONE_ARRAY)
    model.learn(8, callback=SNDCallback())
    model.learn(8, callback=SNDCallback(), reset_num_timesteps=False)
    assert not model.replay_buffer.dones.any()  # nothing was reset in between
    model.set_env(wrap(VecIntrinsicReward(counting(length=9), env.snd)))
    model.learn(160, callback=SNDCallback(), reset_num_timesteps=False)
    obs, next_obs = (th.cat(part) for part in zip(*kept.pairs, strict=True))
    np.testing.assert_array_equal(next_obs, obs + th.tensor([0.0, 1.0]))


def test_where_no_episode_has_a_second_step_one_array_holds_no_pair():
    """The nets wait for one, up to 512 transitions; with two arrays they are trained up to the episodes' ends."""

    def make(length, **kwargs):
        env = VecIntrinsicReward(counting(length=length), FakeSND(counting().observation_space, batch_size=8))
        kept = Pairs(env.snd)
        return DQN("MlpPolicy", env, train_freq=1, learning_starts=9999, device="cpu", **kwargs), kept

    model, kept = make(1, buffer_size=10_000, **ONE_ARRAY)
    model.learn(510, callback=(callback := SNDCallback()))
    with pytest.raises(ValueError, match=r"optimize_memory_usage=True discards the last observation .*: omit it"):
        model.learn(2, callback=callback, reset_num_timesteps=False)
    assert kept.pairs == []
    with pytest.raises(ValueError, match="optimize_memory_usage=True discards the last observation"):
        make(1, buffer_size=8, **ONE_ARRAY)[0].learn(16, callback=SNDCallback())
    with pytest.raises(ValueError, match="optimize_memory_usage=True discards the last observation"):
        make(9, buffer_size=2, **ONE_ARRAY)[0].learn(16, callback=SNDCallback())  # one row, which follows itself
    model, kept = make(1, buffer_size=100)
    model.learn(16, callback=SNDCallback())
    assert [(obs[:, 1].tolist(), next_obs[:, 1].tolist()) for obs, next_obs in kept.pairs] == [([0.0] * 8, [1.0] * 8)] * 2


def stacked(env):
    return VecFrameStack(env, 3)


@pytest.mark.parametrize("wrap", [lambda env: env, VecNormalize, VecMonitor, stacked, lambda env: VecNormalize(stacked(env))])
def test_nets_train_on_what_they_rated_whatever_lies_above(wrap):
    env = VecIntrinsicReward(counting(length=3), FakeSND(counting().observation_space, batch_size=8))
    kept = Pairs(env.snd)
    PPO("MlpPolicy", wrap(env), n_steps=4, batch_size=8, device="cpu").learn(8, callback=SNDCallback())
    ((observations, last, terminal, actions),) = kept.rollouts
    assert actions.shape == (4, 2)
    assert observations.tolist() == [[[n, step] for n in range(2)] for step in (0, 1, 2, 0)]
    assert last.tolist() == [[0, 1], [1, 1]]
    assert {row: frame.tolist() for row, frame in terminal.items()} == {4: [0, 3], 5: [1, 3]}
    np.testing.assert_array_equal(env.snd.asked, observations)


def test_image_pairs_under_frame_stacking_and_transposition():
    """Channels-last images below the stack, channels-first four-frame ones at the algorithm."""
    venv = counting(image=True)
    env = VecIntrinsicReward(venv, FakeSND(venv.observation_space, batch_size=8))
    kept = Pairs(env.snd)
    top = VecTransposeImage(VecFrameStack(env, 4))
    model = DQN("CnnPolicy", top, train_freq=4, buffer_size=64, learning_starts=99, device="cpu")
    model.learn(16, callback=SNDCallback())
    assert [obs.shape for obs, _ in kept.pairs] == [(8, 4, 36, 36)] * 2
    for obs, next_obs in kept.pairs:
        frames, next_frames = env.snd.select(obs), env.snd.select(next_obs)
        np.testing.assert_array_equal(next_frames, frames + 1)
        assert frames.shape == (8, 1, 36, 36)


def test_stopping_and_going_on():
    model, env = make_ppo()

    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 20

    model.learn(64, callback=[SNDCallback(), Stop()])
    assert model.num_timesteps == 20 and not env.training
    before = next(env.snd.parameters()).clone()
    model.learn(32, callback=SNDCallback(), reset_num_timesteps=False)
    assert not th.equal(next(env.snd.parameters()), before)


def test_training_after_an_interruption():
    model, env = make_ppo()

    class Interrupt(BaseCallback):
        def _on_step(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(32, callback=[SNDCallback(), Interrupt()])
    assert not env.training
    model.learn(32, callback=SNDCallback())
    assert not env.training and env.snd.trainer.optimizer.state


class Interrupt(BaseCallback):
    """As Ctrl-C between two steps."""

    def _on_step(self):
        if self.num_timesteps >= 20:
            raise KeyboardInterrupt
        return True


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("above", [lambda env: env, VecMonitor, lambda env: VecNormalize(VecMonitor(env), norm_reward=False)])
@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_no_bonus_after_an_interruption(algorithm, above, position):
    """Environment n gives 10 n a step, whatever was going on when learning ended."""
    top = above(VecIntrinsicReward(counting(), "vic", dict(batch_size=8), device="cpu"))
    sizes = dict(n_steps=16) if algorithm is not DQN else dict(learning_starts=4)
    model = algorithm("MlpPolicy", top, device="cpu", **sizes)
    callbacks = [SNDCallback(), Interrupt()]
    with pytest.raises(KeyboardInterrupt):
        model.learn(64, callback=callbacks if position == "last" else callbacks[::-1])
    for _ in range(3):
        assert top.step(np.zeros(2, dtype=int))[1].tolist() == [0.0, 10.0]
    assert evaluate_policy(model, top, n_eval_episodes=2, return_episode_rewards=True, warn=False)[0] == [0.0, 50.0]
    model.learn(32, callback=SNDCallback())


@pytest.mark.parametrize("above", [lambda env: env, VecMonitor])
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_an_environment_that_was_not_reset_is_named(algorithm, above):
    model = algorithm("MlpPolicy", counting(), device="cpu", **(dict(n_steps=16) if algorithm is PPO else {}))
    model.learn(32)
    model.set_env(above(VecIntrinsicReward(model.get_env(), "vic", device="cpu")), force_reset=False)
    with pytest.raises(ValueError, match=r"has not seen .* set_env\(\) with force_reset=True"):
        model.learn(32, callback=SNDCallback(), reset_num_timesteps=False)


def test_a_monitor_above_takes_the_rewards_of_evaluations(tmp_path):
    evaluation = VecMonitor(VecIntrinsicReward(counting(), "vic", device="cpu"), info_keywords=("intrinsic_reward",))
    model, _ = make_ppo()
    model.learn(32, callback=[SNDCallback(), EvalCallback(evaluation, n_eval_episodes=2, eval_freq=8, log_path=str(tmp_path))])
    assert np.load(tmp_path / "evaluations.npz")["results"].tolist() == [[0.0, 50.0]] * 2


@pytest.mark.parametrize("n_steps", [521, 7])
def test_a_rollout_of_a_prime_number_of_transitions(n_steps):
    env = VecIntrinsicReward(counting(1), device="cpu")
    model = PPO("MlpPolicy", env, n_steps=n_steps, batch_size=n_steps, n_epochs=1, device="cpu")
    model.learn(n_steps, callback=SNDCallback(), log_interval=None)
    assert np.isfinite(model.logger.name_to_value["snd/loss"])


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_schedules_follow_the_progress(algorithm):
    """The weights and eta fall in a straight line, as PPO's learning rate does; SND's rate is that of after the rollout."""
    fading = LinearSchedule(1.0, 0.0, 1.0)
    snd_kwargs = dict(batch_size=8, eta=fading, learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    env = VecIntrinsicReward(counting(), "vic", snd_kwargs, int_coef=fading, device="cpu")
    sizes = dict(n_steps=8) if algorithm is PPO else dict(learning_starts=0, train_freq=8)
    model = algorithm("MlpPolicy", env, device="cpu", **sizes)
    seen, rates = [], []

    class Watch(BaseCallback):
        def _on_step(self):
            seen.append((env.coefs[1].item(), env.snd.scale.eta))
            return True

        def _on_rollout_end(self):
            rates.append(env.snd.trainer.optimizer.param_groups[0]["lr"])

    for _ in range(2):  # the second training begins anew
        seen.clear(), rates.clear()
        model.learn(64, callback=[SNDCallback(), Watch()])
        np.testing.assert_allclose(seen, np.repeat([[1, 1], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]], 8, axis=0))
        np.testing.assert_allclose(rates, [7.5e-4, 5e-4, 2.5e-4, 0], atol=1e-12)


@pytest.mark.parametrize(("target", "message"), [("rnd", "are clipped at 1"), ("std", "has no effect beside")])
def test_a_bonus_that_does_not_fit_is_named(target, message):
    """CartPole with each target's own scale."""
    env = VecIntrinsicReward(make_vec_env("CartPole-v1", 8, seed=0), target, device="cpu")
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=512, n_epochs=1, device="cpu", seed=0)
    with pytest.warns(UserWarning, match=rf"{message}.* eta, which is 1.*norm_reward=True") as caught:
        model.learn(2048, callback=SNDCallback())
    assert len([each for each in caught if "eta" in str(each.message)]) == 1


@pytest.mark.parametrize("algorithm", [PPO, DQN, PPOSND])
def test_proposed_eta(algorithm, capsys):
    """Novelties of 0.01 and 0.02 are 0.03 on average with an eta of 2."""
    env = counting()
    snd = FakeSND(env.observation_space, batch_size=8)
    sizes = dict(learning_starts=0, train_freq=8) if algorithm is DQN else dict(n_steps=16, batch_size=16)
    if algorithm is PPOSND:
        model, callbacks = PPOSND("MlpPolicy", env, snd=snd, device="cpu", **sizes), []
    else:
        wrapped = VecIntrinsicReward(env, snd)
        model, callbacks = algorithm("MlpPolicy", wrapped, device="cpu", **sizes), [SNDCallback()]
    proposal = EtaProposal(n_rollouts=2)
    model.learn(10_000, callback=[proposal, *callbacks])
    assert proposal.eta == pytest.approx(2.0, rel=1e-5) and model.num_timesteps < 100
    assert "EtaProposal: eta=2 gives intrinsic rewards of 0.03 on average." in capsys.readouterr().out
    other = EtaProposal(n_rollouts=1, mean=0.3)
    model.learn(10_000, callback=[*callbacks, other])
    assert other.eta == pytest.approx(20.0, rel=1e-5)


def test_proposals_need_a_bonus():
    with pytest.raises(ValueError, match="EtaProposal found no intrinsic reward: use PPOSND"):
        A2C("MlpPolicy", counting(), device="cpu").learn(16, callback=EtaProposal())
    for bad in (dict(n_rollouts=0), dict(mean=0), dict(mean=2.0)):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}=.* must be"):
            EtaProposal(**bad)


def test_default_minibatch_fits_a_short_rollout():
    env = VecIntrinsicReward(counting(), device="cpu")
    model = A2C("MlpPolicy", env, device="cpu")  # 5 steps of 2 environments
    model.learn(20, callback=SNDCallback(), log_interval=None)
    assert model.logger.name_to_value["snd/loss"] > 0


def learn(algorithm, env, policy="MlpPolicy", callback=None, **kwargs):
    algorithm(policy, env, device="cpu", **kwargs).learn(32, callback=callback or SNDCallback())


@pytest.mark.parametrize(
    ("message", "function"),
    [
        ("found no intrinsic reward", lambda: learn(PPO, counting(), n_steps=16, batch_size=16)),
        ("ARS never fills one", lambda: learn(ARS, VecIntrinsicReward(DummyVecEnv([CountingEnv]), device="cpu"))),
        ("PPOSND trains its own SND", lambda: learn(PPOSND, counting(), n_steps=16, batch_size=16)),
        (
            "rollout of one transition",
            lambda: learn(A2C, VecIntrinsicReward(counting(1), device="cpu"), n_steps=1),
        ),
        (
            "DQN stores the rewards from below VecNormalize",
            lambda: learn(DQN, VecIntrinsicReward(VecNormalize(counting()), device="cpu"), buffer_size=64),
        ),
        (
            "Two SNDCallbacks would train the same nets",
            lambda: learn(
                A2C, VecIntrinsicReward(counting(), device="cpu"), callback=[SNDCallback(), SNDCallback()], n_steps=16
            ),
        ),
        (
            "HerReplayBuffer computes rewards itself",
            lambda: learn(
                DQN,
                VecIntrinsicReward(DummyVecEnv([BitFlippingEnv]), "vic", dict(obs_key="observation"), device="cpu"),
                "MultiInputPolicy",
                replay_buffer_class=HerReplayBuffer,
                buffer_size=64,
            ),
        ),
    ],
)
def test_bad_input(message, function):
    with pytest.raises(ValueError, match=message):
        function()


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


def test_one_environment_serves_one_algorithm_after_the_other():
    """PPO's recording has ended, and DQN's steps are not recorded."""
    env = VecIntrinsicReward(counting(), "vic", dict(batch_size=8), device="cpu")
    PPO("MlpPolicy", env, n_steps=4, batch_size=8, device="cpu").learn(8, callback=SNDCallback())
    DQN("MlpPolicy", env, buffer_size=64, learning_starts=99, device="cpu").learn(24, callback=SNDCallback())
    PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(16, callback=SNDCallback())
