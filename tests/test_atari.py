import sys

import ale_py
import cv2
import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

from sb3_snd.envs import AtariVecEnv, AtariWrapper, VecPositiveReward, VecSignReward, make_atari_env

gym.register_envs(ale_py)

BREAKOUT = "BreakoutNoFrameskip-v4"
SPACE_INVADERS = "SpaceInvadersNoFrameskip-v4"
PONG = "PongNoFrameskip-v4"


class HandBuilt:
    """The preprocessing by hand on Gymnasium's raw frames: max of a step's last two frames, grey, area interpolation."""

    def __init__(self, env_id: str):
        self.env = gym.make(env_id)
        self.lengths: list[int] = []  # raw frames of each step

    def grey(self) -> np.ndarray:
        return self.env.unwrapped.ale.getScreenGrayscale()

    def resize(self, screen: np.ndarray) -> np.ndarray:
        return cv2.resize(screen, (96, 96), interpolation=cv2.INTER_AREA)

    def reset(self) -> np.ndarray:
        self.env.reset(seed=0)
        return self.resize(self.grey())

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        screens, score, done = [], 0.0, False
        while len(screens) < 4 and not done:
            _, reward, done, _, _ = self.env.step(action)
            screens.append(self.grey())
            score += reward
        self.lengths.append(len(screens))
        return self.resize(np.max(screens[-2:], axis=0)), score, done


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float32) - b.astype(np.float32)).mean())


def wrapped(env_id: str, n_envs: int = 1, **kwargs) -> VecEnv:
    venv = make_vec_env(env_id, n_envs, seed=0, wrapper_class=AtariWrapper, wrapper_kwargs=kwargs)
    return VecTransposeImage(VecFrameStack(venv, 4))


def random_actions(n_steps: int, n_envs: int, n_actions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(n_actions, size=(n_steps, n_envs))


@pytest.mark.parametrize("env_id", [BREAKOUT, SPACE_INVADERS])
def test_native_equals_hand_built(env_id):
    hand = HandBuilt(env_id)
    venv = AtariVecEnv(env_id, repeat_action_probability=0.0)
    venv.seed(0)
    newest = venv.reset()[0, -1]
    assert distance(newest, hand.reset()) < 0.01
    n_ends, scores, distances = 0, 0.0, []
    # With this seed Breakout ends once in the last raw frame of a step and once before it
    for action in random_actions(450, 1, venv.action_space.n, seed=1):
        last = newest
        obs, rewards, dones, infos = venv.step(action)
        expected, score, done = hand.step(action[0])
        assert (rewards[0], dones[0]) == (score, done)
        scores += score
        newest = obs[0, -1]
        if done:
            n_ends += 1
            terminal_obs = infos[0]["terminal_observation"]
            # The one known difference: a game over repeats the frame of the step before
            np.testing.assert_array_equal(terminal_obs[-1], last)
            np.testing.assert_array_equal(terminal_obs[-2], last)
            assert terminal_obs.base is None  # a copy of its row, which keeps no other rows alive
            assert infos[0]["TimeLimit.truncated"] is False
            expected = hand.reset()
        else:
            assert "terminal_observation" not in infos[0]
        distances.append(distance(newest, expected))
    assert n_ends >= 1 and scores > 0
    assert np.mean(distances) < 0.01 and np.max(distances) < 0.1


@pytest.mark.parametrize("env_id", [BREAKOUT, SPACE_INVADERS])
def test_wrapper_equals_native(env_id):
    native = VecPositiveReward(AtariVecEnv(env_id, 2, repeat_action_probability=0.0))
    ordinary = wrapped(env_id, 2)
    assert native.observation_space == ordinary.observation_space
    assert native.action_space == ordinary.action_space
    assert distance(native.reset(), ordinary.reset()) < 0.01
    n_ends = 0
    for actions in random_actions(700, 2, native.action_space.n):
        obs, rewards, dones, infos = native.step(actions)
        other_obs, other_rewards, other_dones, other_infos = ordinary.step(actions)
        assert distance(obs, other_obs) < 0.01
        np.testing.assert_array_equal(rewards, other_rewards)
        np.testing.assert_array_equal(dones, other_dones)
        for info, other_info in zip(infos, other_infos, strict=True):
            assert info["TimeLimit.truncated"] == other_info["TimeLimit.truncated"]
            assert ("terminal_observation" in info) == ("terminal_observation" in other_info)
            if "terminal_observation" in info:
                n_ends += 1
                assert distance(info["terminal_observation"][:-1], other_info["terminal_observation"][:-1]) < 0.01
    assert n_ends >= 2


def test_wrapper_terminal_frame_is_the_max_of_the_steps_last_two():
    hand = HandBuilt(SPACE_INVADERS)
    env = AtariWrapper(gym.make(SPACE_INVADERS))
    hand.reset()
    env.reset(seed=0)
    ends = []
    for action in random_actions(1500, 1, 6)[:, 0]:
        obs, _, terminated, _, _ = env.step(action)
        expected, _, done = hand.step(action)
        assert terminated == done
        assert distance(obs[..., 0], expected) < 0.01
        if done:
            ends.append(hand.lengths[-1])
            hand.reset()
            env.reset(seed=0)
    assert any(length < 4 for length in ends)  # at least one episode ended inside the repeat


def test_spaces_and_dtypes():
    venv = AtariVecEnv(BREAKOUT, 3, frame_size=48, n_stack=2)
    assert venv.observation_space == gym.spaces.Box(0, 255, (2, 48, 48), np.uint8)
    assert venv.action_space == gym.spaces.Discrete(4)
    obs = venv.reset()
    assert obs.shape == (3, 2, 48, 48) and obs.dtype == np.uint8
    obs, rewards, dones, infos = venv.step([0, 1, 2])
    assert obs.shape == (3, 2, 48, 48) and obs.dtype == np.uint8
    assert rewards.shape == (3,) and rewards.dtype == np.float32
    assert dones.shape == (3,) and dones.dtype == bool
    assert [info["lives"] for info in infos] == [5, 5, 5]
    venv.close()


def test_observations_keep_their_memory():
    venv = AtariVecEnv(BREAKOUT, 2)
    kept = [venv.reset()]
    copies = [kept[0].copy()]
    for actions in random_actions(30, 2, 4):
        kept.append(venv.step(actions)[0])
        copies.append(kept[-1].copy())
    np.testing.assert_array_equal(kept, copies)
    assert any(not np.array_equal(kept[0], obs) for obs in kept[1:])


def test_results_come_in_the_order_of_the_environments():
    """Each environment plays one action alone, whichever thread is first."""
    together = AtariVecEnv(BREAKOUT, 4, repeat_action_probability=0.0)
    together.reset()
    actions = np.array([0, 2, 3, 1])
    for _ in range(20):
        obs = together.step(actions)[0]
    for i, action in enumerate(actions):
        alone = AtariVecEnv(BREAKOUT, repeat_action_probability=0.0)
        alone.reset()
        for _ in range(20):
            alone_obs = alone.step(action[None])[0]
        np.testing.assert_array_equal(obs[i], alone_obs[0])
    assert not np.array_equal(obs[1], obs[2])


def test_stack_is_empty_before_the_newest_frame_after_a_reset():
    venv = AtariVecEnv(BREAKOUT, 2, max_episode_steps=6)
    obs = venv.reset()
    for actions in random_actions(6, 2, 4):
        assert obs[:, -1].any()
        obs, _, dones, _ = venv.step(actions)
    assert dones.all()
    for after_reset in (obs, venv.reset()):
        assert not after_reset[:, :-1].any()
        assert after_reset[:, -1].any(axis=(1, 2)).all()


def test_time_limit_truncates_with_the_exact_last_observation():
    limited = AtariVecEnv(BREAKOUT, 2, max_episode_steps=5, repeat_action_probability=0.0)
    free = AtariVecEnv(BREAKOUT, 2, repeat_action_probability=0.0)
    first_obs = limited.reset()
    np.testing.assert_array_equal(first_obs, free.reset())
    for step, actions in enumerate(random_actions(10, 2, 4), start=1):
        if step == 6:
            free.reset()
        obs, _, dones, infos = limited.step(actions)
        free_obs, _, _, _ = free.step(actions)
        at_limit = step % 5 == 0
        assert (dones == at_limit).all()
        for i, info in enumerate(infos):
            assert info["TimeLimit.truncated"] is at_limit
            if at_limit:
                np.testing.assert_array_equal(info["terminal_observation"], free_obs[i])
                assert info["terminal_observation"].base is None
        np.testing.assert_array_equal(obs, first_obs if at_limit else free_obs)


def test_time_limit_ends_only_the_environment_that_reached_it():
    """One environment loses its game first, so that the two reach the limit at different steps."""
    venv = AtariVecEnv(BREAKOUT, 2, max_episode_steps=250, repeat_action_probability=0.0)
    venv.reset()
    ends: list[list[tuple[int, bool]]] = [[], []]
    for step in range(1, 501):
        actions = np.array([1, 1 if step > 251 else 0])  # firing loses all balls, doing nothing waits for the limit
        obs, _, dones, infos = venv.step(actions)
        for i in np.flatnonzero(dones):
            ends[i].append((step, infos[i]["TimeLimit.truncated"]))
            assert not obs[i, :-1].any()
        for i in np.flatnonzero(~dones):
            assert "terminal_observation" not in infos[i]
    assert ends[1][0] == (250, True)
    assert not ends[0][0][1] and ends[0][0][0] < 250
    assert ends[1][1][1] is False and ends[1][1][0] - 250 < 250


def test_wrapper_time_limit_reaches_the_monitor():
    venv = wrapped(BREAKOUT, max_episode_steps=5)
    assert venv.env_is_wrapped(Monitor) == [True]
    venv.reset()
    for step in range(1, 11):
        _, _, dones, infos = venv.step(np.array([1]))
        at_limit = step % 5 == 0
        assert dones[0] == at_limit
        assert infos[0]["TimeLimit.truncated"] is at_limit
        assert ("terminal_observation" in infos[0]) is at_limit
        if at_limit:
            assert infos[0]["episode"]["l"] == 20  # raw frames


def test_wrapper_time_limit_needs_no_seed():
    env = AtariWrapper(gym.make(BREAKOUT), max_episode_steps=3)
    for _ in range(2):
        env.reset()
        assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize(
    ("made", "given", "frame_skip", "expected"),
    [
        ({"max_episode_steps": 7}, {}, 4, 7),  # as gym.make takes it
        ({"max_episode_steps": 7}, {}, 3, 7),
        ({}, {"max_episode_steps": 7}, 3, 7),
        ({"max_episode_steps": 7}, {"max_episode_steps": 9}, 4, 7),
        ({"max_episode_steps": 9}, {"max_episode_steps": 7}, 1, 7),
        ({}, {}, 4, 4500),
        ({"max_episode_steps": 5000}, {}, 4, 5000),
    ],
)
def test_time_limits_count_agent_steps_however_they_are_given(made, given, frame_skip, expected):
    kwargs = dict(wrapper_class=AtariWrapper, wrapper_kwargs={"frame_skip": frame_skip, **given}, env_kwargs=made)
    venv = make_vec_env(BREAKOUT, 2, seed=0, **kwargs)  # without a ball nothing ends the game but the limit
    venv.reset()
    native = AtariVecEnv(BREAKOUT, 2, frame_skip=frame_skip, max_episode_steps=expected, repeat_action_probability=0.0)
    assert native.max_episode_frames == expected * frame_skip
    native.reset()
    if expected > 100:
        assert [env.unwrapped.ale.getInt("max_num_frames_per_episode") for env in venv.envs] == [expected * frame_skip] * 2
        return
    for _ in range(2):
        for step in range(1, expected + 1):
            for env in (venv, native):
                _, _, dones, infos = env.step(np.zeros(2, np.int64))
                assert dones.tolist() == [step == expected] * 2
                assert [info["TimeLimit.truncated"] for info in infos] == [step == expected] * 2


def test_a_wrapped_environment_repeats_no_action_itself():
    """The ids ``ALE/...-v5`` repeat each action four times, unless they are asked not to."""
    for frame_skip in (1, 4):
        with pytest.raises(ValueError, match=r"repeats actions itself, .* make it with frameskip=1"):
            AtariWrapper(gym.make("ALE/Breakout-v5"), frame_skip=frame_skip)
    env = AtariWrapper(gym.make("ALE/Breakout-v5", frameskip=1), max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(0)[4]["episode_frame_number"] for _ in range(3)] == [4, 8, 12]


def trajectory(venv: AtariVecEnv, n_steps: int = 60) -> np.ndarray:
    actions = np.repeat(random_actions(n_steps, 1, 4), venv.num_envs, axis=1)  # the same for all environments
    return np.stack([venv.reset()] + [venv.step(row)[0] for row in actions])


def test_seeds():
    venv = AtariVecEnv(BREAKOUT, 2, num_threads=2)
    assert list(venv.seed(0)) == [0, 1]
    first = trajectory(venv)
    other = AtariVecEnv(BREAKOUT, 2, num_threads=1)
    other.seed(0)
    np.testing.assert_array_equal(trajectory(other), first)
    assert not np.array_equal(first[:, 0], first[:, 1])
    assert not np.array_equal(trajectory(venv), first)  # seeds are used once
    venv.seed(1)
    np.testing.assert_array_equal(trajectory(venv)[:, 0], first[:, 1])  # environment i has seed + i
    venv.seed(2**32 - 1)  # what SB3 may draw
    large = trajectory(venv)
    venv.seed(2**32 - 1)
    np.testing.assert_array_equal(trajectory(venv), large)


def test_no_stickiness_is_deterministic():
    first, second = (trajectory(AtariVecEnv(BREAKOUT, 2, repeat_action_probability=0.0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_reset_while_a_step_is_under_way():
    interrupted = AtariVecEnv(BREAKOUT, repeat_action_probability=0.0)
    interrupted.reset()
    interrupted.step_async(np.array([1]))
    fresh = AtariVecEnv(BREAKOUT, repeat_action_probability=0.0)
    np.testing.assert_array_equal(trajectory(interrupted), trajectory(fresh))


LEARNERS = {"positive": lambda raw: np.maximum(0, np.sign(raw)), "sign": np.sign, "raw": lambda raw: raw}


@pytest.mark.parametrize("reward", [None, *LEARNERS])
def test_raw_score_for_the_reader_whatever_the_learner_gets(reward):
    """In Pong, whose left player scores: -1 a point. Space Invaders has rewards above 1."""
    options = {} if reward is None else {"reward": reward}
    for env_id, n_steps in ((SPACE_INVADERS, 320), (PONG, 220)):
        venv = make_atari_env(env_id, 2, seed=0, max_episode_steps=n_steps - 20, **options)
        raw = AtariVecEnv(env_id, 2, max_episode_steps=n_steps - 20)
        raw.seed(0)
        raw.reset()
        venv.reset()
        scores, n_episodes = np.zeros(2), 0
        for actions in random_actions(n_steps, 2, 6):
            _, rewards, dones, infos = venv.step(actions)
            raw_rewards = raw.step(actions)[1]
            assert rewards.dtype == np.float32
            np.testing.assert_array_equal(rewards, LEARNERS[reward or "positive"](raw_rewards))
            scores += raw_rewards
            for i in np.flatnonzero(dones):
                assert infos[i]["episode"]["r"] == scores[i]
                assert scores[i] >= 5 if env_id == SPACE_INVADERS else scores[i] <= -2
                scores[i], n_episodes = 0, n_episodes + 1
        assert n_episodes >= 2


class Scored(gym.Wrapper):
    """The scores of the raw frames are given."""

    def __init__(self, env, scores):
        super().__init__(env)
        self.scores = iter(scores)

    def step(self, action):
        obs, _, *rest = self.env.step(action)
        return obs, next(self.scores), *rest


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ({}, [0, 0, 1, 0]),
        ({"reward": "positive"}, [0, 0, 1, 0]),
        ({"reward": "sign"}, [-1, 0, 1, -1]),
        ({"reward": "raw"}, [-1, 0, 30, -200]),
    ],
)
def test_rewards_natively_and_one_by_one(reward, expected):
    """Of the sum over the repeated action."""

    class Fake(AtariVecEnv):
        def step_wait(self):
            obs, _, dones, infos = super().step_wait()
            return obs, np.array([-1.0, 0.0, 30.0, -200.0], np.float32), dones, infos

    wrapper = {"sign": VecSignReward, "raw": lambda venv: venv}.get(reward.get("reward"), VecPositiveReward)
    venv = wrapper(Fake(BREAKOUT, 4))
    venv.reset()
    rewards = venv.step(np.zeros(4, np.int64))[1]
    assert rewards.tolist() == expected and rewards.dtype == np.float32

    scores = [*(-1, 0, 0, 0), *(2, -2, 0, 0), *(10, 0, 25, -5), *(-50, -50, -50, -50)]
    env = AtariWrapper(Scored(gym.make(BREAKOUT), map(float, scores)), **reward)
    env.reset(seed=0)
    assert [env.step(0)[1] for _ in range(4)] == expected


def test_raw_score_reaches_the_monitor_one_by_one():
    for reward in LEARNERS:
        venv = wrapped(PONG, max_episode_steps=200, reward=reward)
        venv.reset()
        total = 0.0
        for _ in range(200):
            _, rewards, dones, infos = venv.step(np.array([0]))
            total += rewards[0]
        score = infos[0]["episode"]["r"]
        assert dones[0] and score <= -3 and total == (0 if reward == "positive" else score)


def test_attributes():
    venv = make_atari_env(BREAKOUT, 3)
    assert venv.get_attr("render_mode") == [None] * 3
    assert [spec.id for spec in venv.get_attr("spec", [0, 2])] == [BREAKOUT] * 2
    assert venv.env_is_wrapped(Monitor) == [False] * 3
    assert not venv.has_attr("nonsense")
    with pytest.raises(AttributeError, match="do not have nonsense: use --vec-env dummy"):
        venv.get_attr("nonsense")
    with pytest.raises(NotImplementedError, match="use --vec-env dummy"):
        venv.set_attr("nonsense", 1)
    with pytest.raises(NotImplementedError, match="use --vec-env dummy"):
        venv.env_method("nonsense")
    venv.close()


def test_bad_input():
    with pytest.raises(ValueError, match=r"did you mean MontezumaRevengeNoFrameskip-v4\?"):
        AtariVecEnv("MontezumasRevengeNoFrameskip-v4")
    with pytest.raises(ValueError, match="not an Atari game: make it with make_vec_env"):
        AtariVecEnv("CartPole-v1")
    with pytest.raises(ValueError, match="frame_size=35 must be an integer >= 36"):
        AtariVecEnv(BREAKOUT, frame_size=35)
    with pytest.raises(ValueError, match="frame_size=35 must be an integer >= 36"):
        AtariWrapper(gym.make(BREAKOUT), frame_size=35)
    for make in (
        lambda **kwargs: make_atari_env(BREAKOUT, **kwargs),
        lambda **kwargs: AtariWrapper(gym.make(BREAKOUT), **kwargs),
    ):
        with pytest.raises(ValueError, match="reward='clip' must be one of 'positive', 'sign', 'raw'"):
            make(reward="clip")
        with pytest.raises(ValueError, match="max_episode_steps=0 must be an integer >= 1"):
            make(max_episode_steps=0)
    with pytest.raises(ValueError, match="max_episode_steps=5000000 must be an integer >= 1 and <= "):
        AtariWrapper(gym.make(BREAKOUT, max_episode_steps=5_000_000))
    with pytest.raises(ValueError, match="not an Atari game: make it without AtariWrapper"):
        AtariWrapper(gym.make("CartPole-v1"))
    venv = AtariVecEnv(BREAKOUT)
    venv.reset()
    with pytest.raises(ValueError, match="between 0 and 3"):
        venv.step(np.array([4]))


@pytest.mark.parametrize("package", ["ale_py", "cv2"])
def test_missing_extra(monkeypatch, package):
    env = gym.make(BREAKOUT)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package} could not be imported: run `pip install "sb3-snd\[atari\]"`'):
        AtariVecEnv(BREAKOUT) if package == "ale_py" else AtariWrapper(env)
