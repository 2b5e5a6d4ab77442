import struct
import subprocess
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from procgen import ProcgenGym3Env
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

from sb3_snd.envs import ProcgenEnv, ProcgenVecEnv, make_procgen_env, procgen, procgen_engine

COINRUN = "procgen-coinrun-v0"
NO_OP, RIGHT = 4, 7
RUN = np.array([RIGHT, RIGHT, 8])  # to the right, at times jumping: a short episode of coinrun


def bare(n_envs: int, game: str = "coinrun", seed: int = 0, mode: str = "easy", **kwargs) -> ProcgenGym3Env:
    return ProcgenGym3Env(n_envs, game, rand_seed=seed, distribution_mode=mode, num_threads=0, **kwargs)


def run_actions(n_steps: int, n_envs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(RUN, size=(n_steps, n_envs))


def channels_first(frames: np.ndarray) -> np.ndarray:
    return np.moveaxis(frames, -1, 1)


def limit_in_state(engine: ProcgenGym3Env) -> int:
    """The time limit as the engine keeps it, read from the state it saves."""
    state, place = engine.get_state()[0], 0

    def skip_string():
        nonlocal place
        place += 4 + struct.unpack_from("<i", state, place)[0]

    place += 4  # version
    skip_string()  # game
    place += 4 * (9 + 3 + 5)  # options, more options, level range
    for _ in range(2):  # random generators
        place += 4
        skip_string()
    place += 4 * 4  # reward, done, complete, action
    return struct.unpack_from("<i", state, place)[0]


class FakeEngine:
    """The engine's interface over a script: ``script[t] = (ended, complete)`` of each environment after step t."""

    script: list[tuple[list[bool], list[bool]]] = []

    def __init__(self, num, rand_seed=None, **kwargs):
        self.num, self.rand_seed, self.kwargs = num, rand_seed, kwargs
        self.acts: list[np.ndarray] = []
        self.closed = False
        self.first, self.complete = [True] * num, [False] * num

    def act(self, actions):
        if self.script and actions[0] >= 0:
            self.first, self.complete = self.script[sum(a[0] >= 0 for a in self.acts)]
        else:
            self.first, self.complete = [bool(actions[0] < 0)] * self.num, [False] * self.num
        self.acts.append(np.array(actions))

    def observe(self):
        frames = np.full((self.num, 64, 64, 3), len(self.acts) + 1, np.uint8)
        return np.zeros(self.num, np.float32), {"rgb": frames}, np.array(self.first)

    def get_info(self):
        infos = [{"level_seed": np.int32(len(self.acts))} for _ in range(self.num)]
        for info, complete in zip(infos, self.complete, strict=True):
            info["prev_level_complete"] = np.uint8(complete)
        return infos

    def close(self):
        self.closed = True


@pytest.fixture
def fake(monkeypatch):
    """Fake engines in the place of the real ones, in the order in which they are made."""
    made = []

    def engine(**kwargs):
        made.append(FakeEngine(**kwargs))
        return made[-1]

    monkeypatch.setattr(procgen, "engine_class", lambda: engine)
    return made


def test_native_equals_the_bare_engine():
    engine = bare(3)
    venv = ProcgenVecEnv(COINRUN, 3, distribution_mode="easy")
    venv.seed(0)
    obs = venv.reset()
    _, frames, _ = engine.observe()
    newest = channels_first(frames["rgb"])
    before = np.zeros_like(newest)
    level_seeds = [info["level_seed"] for info in venv.reset_infos]
    n_goals = n_lost = 0
    for actions in run_actions(200, 3):
        np.testing.assert_array_equal(obs, np.concatenate([before, newest], axis=1))
        obs, rewards, dones, infos = venv.step(actions)
        engine.act(actions)
        expected_rewards, frames, first = engine.observe()
        np.testing.assert_array_equal(rewards, expected_rewards)
        np.testing.assert_array_equal(dones, first)
        for i, expected in enumerate(engine.get_info()):
            assert infos[i]["level_seed"] == expected["level_seed"] and type(infos[i]["level_seed"]) is int
            assert infos[i]["prev_level_complete"] is bool(expected["prev_level_complete"])
            assert infos[i]["TimeLimit.truncated"] is False
            assert level_seeds[i] == infos[i]["level_seed"] or first[i]
            level_seeds[i] = infos[i]["level_seed"]
            n_goals += infos[i]["prev_level_complete"]
            assert ("terminal_observation" in infos[i]) == first[i]
            if first[i]:
                n_lost += not infos[i]["prev_level_complete"]
                assert rewards[i] == (10 if infos[i]["prev_level_complete"] else 0)
                # The engine never shows the last screen: the one before stands for it, and none of the next episode
                terminal_obs = infos[i]["terminal_observation"]
                np.testing.assert_array_equal(terminal_obs, np.concatenate([newest[i], newest[i]]))
                assert terminal_obs.base is None  # keeps no other rows alive
        before = np.where(first[:, None, None, None], 0, newest)
        newest = channels_first(frames["rgb"])
    assert n_goals >= 2 and n_lost >= 2


def test_longer_stack_and_none():
    four, one = ProcgenVecEnv(COINRUN, n_stack=4), ProcgenVecEnv(COINRUN, n_stack=1)
    frames = []
    for venv in (four, one):
        venv.seed(3)
    four_obs, one_obs = four.reset(), one.reset()
    for _ in range(6):
        frames.append(one_obs[0])
        expected = np.concatenate([np.zeros((12, 64, 64), np.uint8), *frames])[-12:]
        np.testing.assert_array_equal(four_obs[0], expected)
        four_obs, one_obs = four.step(np.array([RIGHT]))[0], one.step(np.array([RIGHT]))[0]
    assert not np.array_equal(frames[0], frames[-1])


def test_spaces_and_dtypes():
    venv = ProcgenVecEnv(COINRUN, 3)
    assert venv.observation_space == gym.spaces.Box(0, 255, (6, 64, 64), np.uint8)
    assert venv.action_space == gym.spaces.Discrete(15)
    obs = venv.reset()
    assert obs.shape == (3, 6, 64, 64) and obs.dtype == np.uint8
    obs, rewards, dones, _ = venv.step([0, 1, 2])
    assert obs.shape == (3, 6, 64, 64) and obs.dtype == np.uint8
    assert rewards.shape == (3,) and rewards.dtype == np.float32
    assert dones.shape == (3,) and dones.dtype == bool
    venv.close()
    venv.close()


def test_observations_keep_their_memory():
    venv = ProcgenVecEnv(COINRUN, 2)
    kept = [venv.reset()]
    copies = [kept[0].copy()]
    for actions in run_actions(30, 2):
        kept.append(venv.step(actions)[0])
        copies.append(kept[-1].copy())
    np.testing.assert_array_equal(kept, copies)
    assert any(not np.array_equal(kept[0], obs) for obs in kept[1:])


@pytest.mark.parametrize(
    ("game", "seed"), [("coinrun", 1949448038), ("caveflyer", 1259048185), ("jumper", 1434825276), ("climber", 1561126160)]
)
def test_exploration_has_one_level(game, seed):
    venv = ProcgenVecEnv(f"procgen-{game}-v0", 2, distribution_mode="exploration")
    venv.seed(11)
    venv.reset()
    assert venv.reset_infos == [{"level_seed": seed}] * 2
    infos = venv.step(np.array([NO_OP, RIGHT]))[3]
    assert [info["level_seed"] for info in infos] == [seed] * 2


# In these games an agent that does nothing stays alive
@pytest.mark.parametrize(
    ("game", "limit"),
    [
        ("caveflyer", 1000),
        ("coinrun", 1000),
        ("jumper", 1000),
        ("climber", 1000),
        ("heist", 1000),
        ("leaper", 500),
        ("maze", 500),
    ],
)
def test_time_limit_by_waiting(game, limit):
    venv = ProcgenVecEnv(f"procgen-{game}-v0", distribution_mode="exploration")
    venv.reset()
    for _ in range(20):  # a reset begins the time anew
        venv.step(np.array([NO_OP]))
    venv.reset()
    for step in range(1, limit + 3):
        _, _, dones, infos = venv.step(np.array([NO_OP]))
        assert dones[0] == infos[0]["TimeLimit.truncated"] == (step == limit), step


@pytest.mark.parametrize("mode", ["easy", "hard", "extreme", "memory", "exploration"])
def test_time_limits_are_those_in_the_engines_state(mode):
    limits = {game: limit_in_state(bare(1, game, mode=mode)) for game in procgen_engine.MODES[mode]}
    assert limits == {game: procgen_engine.time_limit(game, mode) for game in limits}
    assert limits.get("jumper", 1000) == (2000 if mode == "memory" else 1000)


def test_games_and_modes_are_the_engines():
    from procgen import env

    assert list(procgen_engine.GAMES) == env.ENV_NAMES
    assert list(procgen_engine.MODES) == list(env.DISTRIBUTION_MODE_DICT)
    assert set(procgen_engine.MODES["exploration"]) == set(env.EXPLORATION_LEVEL_SEEDS)
    assert {f"procgen-{game}-v0" for game in env.ENV_NAMES} <= set(gym.registry)


@pytest.mark.usefixtures("fake")
def test_truncation_is_an_end_at_the_limit_short_of_the_goal(monkeypatch):
    """Environment 0 runs out of time, 1 reaches the goal in its last step, 2 is lost before and runs out later."""
    ended = [[False] * 3 for _ in range(8)]
    complete = [[False] * 3 for _ in range(8)]
    ended[2], ended[4], ended[7] = [False, False, True], [True, True, False], [False, False, True]
    complete[4] = [False, True, False]
    monkeypatch.setattr(FakeEngine, "script", list(zip(ended, complete, strict=True)))
    venv = ProcgenVecEnv(COINRUN, 3)
    venv.time_limit = 5
    venv.reset()
    truncated = []
    for _ in range(8):
        _, _, _, infos = venv.step(np.zeros(3, np.int64))
        truncated.append([info["TimeLimit.truncated"] for info in infos])
    expected = [[False] * 3 for _ in range(8)]
    expected[4] = [True, False, False]
    expected[7] = [False, False, True]
    assert truncated == expected


@pytest.mark.usefixtures("fake")
def test_a_level_within_an_episode_has_its_own_time(monkeypatch):
    """With use_sequential_levels the goal does not end the episode: the engine counts again from the next level."""
    script = [([step in (5, 13)], [step in (2, 8)]) for step in range(14)]
    monkeypatch.setattr(FakeEngine, "script", script)
    venv = ProcgenVecEnv(COINRUN)
    venv.time_limit = 5
    venv.reset()
    for step in range(14):
        obs, _, dones, infos = venv.step(np.array([0]))
        assert dones[0] == (step in (5, 13))
        assert infos[0]["TimeLimit.truncated"] is (step == 13)  # at step 5 the agent was lost
        assert obs[0, :3].any() == (not dones[0])


@pytest.mark.usefixtures("fake")
def test_a_reset_begins_the_time_anew(monkeypatch):
    monkeypatch.setattr(FakeEngine, "script", [([step == 5], [False]) for step in range(6)])
    venv = ProcgenVecEnv(COINRUN)
    venv.time_limit = 5
    for _ in range(2):
        venv.reset()
        for _ in range(3):
            _, _, dones, infos = venv.step(np.array([0]))
    assert dones[0] and infos[0]["TimeLimit.truncated"] is False


def test_sequential_levels_of_the_engine():
    venv = ProcgenVecEnv(COINRUN, distribution_mode="easy", use_sequential_levels=True)
    venv.seed(0)
    venv.reset()
    infos = venv.reset_infos
    for actions in run_actions(200, 1):
        level = infos[0]["level_seed"]
        _, rewards, dones, infos = venv.step(actions)
        if infos[0]["prev_level_complete"]:
            break
    assert rewards[0] == 10 and not dones[0] and "terminal_observation" not in infos[0]
    assert infos[0]["level_seed"] == level + 997


def test_random_actions_replace_their_share(fake):
    venv = ProcgenVecEnv(COINRUN, 500, random_action_probability=0.3)
    venv.seed(0)
    venv.reset()
    for _ in range(40):
        venv.step(np.full(500, NO_OP))
    acts = np.array(fake[0].acts)
    counts = np.bincount(acts.ravel(), minlength=15) / acts.size
    assert len(counts) == 15
    # 20,000 draws: the standard deviations are 0.001 and 0.003
    np.testing.assert_allclose(np.delete(counts, NO_OP), 0.02, atol=0.005)
    assert counts[NO_OP] == pytest.approx(0.72, abs=0.015)
    assert len(np.unique(acts, axis=0)) == 40  # drawn anew at each step


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_no_or_only_random_actions(fake, probability):
    venv = ProcgenVecEnv(COINRUN, 50, random_action_probability=probability)
    venv.reset()
    venv.step(np.full(50, NO_OP))
    assert (fake[0].acts[0] == NO_OP).all() == (probability == 0)


def test_reset_ends_episodes_only_where_there_are_any(fake, monkeypatch):
    venv = ProcgenVecEnv(COINRUN, 2)
    venv.reset()
    venv.reset()
    assert fake[0].acts == []
    monkeypatch.setattr(FakeEngine, "script", [([True, False], [False] * 2), ([True, True], [False] * 2)])
    venv.step(np.zeros(2, np.int64))
    obs = venv.reset()
    assert [act.tolist() for act in fake[0].acts] == [[0, 0], [-1, -1]]
    assert not obs[:, :3].any() and (obs[:, 3:] == 3).all()
    venv.step(np.zeros(2, np.int64))
    venv.reset()  # both have just begun
    assert len(fake[0].acts) == 3 and len(fake) == 1


def test_reset_starts_new_episodes():
    venv = ProcgenVecEnv(COINRUN, 3)
    obs = venv.reset()
    first_levels = venv.reset_infos
    assert not obs[:, :3].any() and obs[:, 3:].any(axis=(1, 2, 3)).all()
    for actions in run_actions(5, 3):
        obs = venv.step(actions)[0]
    assert obs[:, :3].any(axis=(1, 2, 3)).all()
    obs = venv.reset()
    assert not obs[:, :3].any() and obs[:, 3:].any(axis=(1, 2, 3)).all()
    assert all(old != new for old, new in zip(first_levels, venv.reset_infos, strict=True))


def test_reset_while_a_step_is_under_way():
    venv = ProcgenVecEnv(COINRUN, 2, num_threads=2)
    venv.seed(0)
    venv.reset()
    venv.step_async(np.array([RIGHT, RIGHT]))
    venv.seed(0)
    interrupted = trajectory(venv)
    fresh = ProcgenVecEnv(COINRUN, 2)
    fresh.seed(0)
    np.testing.assert_array_equal(interrupted, trajectory(fresh))


def trajectory(venv: ProcgenVecEnv, n_steps: int = 60) -> np.ndarray:
    actions = np.repeat(run_actions(n_steps, 1), venv.num_envs, axis=1)  # the same for all environments
    return np.stack([venv.reset()] + [venv.step(row)[0] for row in actions])


def test_seeds():
    venv = ProcgenVecEnv(COINRUN, 2, num_threads=2, distribution_mode="easy", random_action_probability=0.2)
    venv.seed(0)
    first = trajectory(venv)
    other = ProcgenVecEnv(COINRUN, 2, num_threads=1, distribution_mode="easy", random_action_probability=0.2)
    other.seed(0)
    np.testing.assert_array_equal(trajectory(other), first)
    assert not np.array_equal(first[:, 0], first[:, 1])
    assert not np.array_equal(trajectory(venv), first)  # seeds are used once
    venv.seed(0)
    np.testing.assert_array_equal(trajectory(venv), first)
    venv.seed(1)
    assert not np.array_equal(trajectory(venv), first)
    venv.seed(2**32 - 1)  # what SB3 may draw
    large = trajectory(venv)
    venv.seed(2**32 - 1)
    np.testing.assert_array_equal(trajectory(venv), large)


def test_seed_reaches_engine_and_random_actions(fake):
    venv = ProcgenVecEnv(COINRUN, 40, random_action_probability=0.5)
    for seed in (5, 5, 2**31 + 5):
        venv.seed(seed)
        venv.reset()
        venv.step(np.zeros(40, np.int64))
    venv.reset()
    assert [engine.rand_seed for engine in fake] == [5, 5, 5]
    assert [engine.closed for engine in fake] == [True, True, False]
    np.testing.assert_array_equal(fake[0].acts, fake[1].acts)
    assert not np.array_equal(fake[0].acts[0], fake[2].acts[0])
    unseeded = [ProcgenVecEnv(COINRUN, 40, random_action_probability=0.5) for _ in range(2)]
    for venv in unseeded:
        venv.reset()
        venv.step(np.zeros(40, np.int64))
    assert not np.array_equal(fake[3].acts[0], fake[4].acts[0])


def test_options_reach_the_engine(fake):
    ProcgenVecEnv(COINRUN, 8, num_threads=3, num_levels=7, start_level=5, use_backgrounds=False).reset()
    assert fake[0].kwargs == {
        **{"env_name": "coinrun", "distribution_mode": "hard", "render_mode": None, "num_threads": 3},
        **{"num_levels": 7, "start_level": 5, "use_backgrounds": False},
    }
    for n_envs, num_threads in ((1, 4), (3, 8)):
        ProcgenVecEnv(COINRUN, n_envs, num_threads=num_threads).reset()
    # No thread beside the calling one for a single game, and no more threads than games
    assert [engine.kwargs["num_threads"] for engine in fake] == [3, 0, 3]


def test_levels_are_those_asked_for():
    venv = ProcgenVecEnv(COINRUN, 20, num_levels=3, start_level=50)
    venv.reset()
    assert {info["level_seed"] for info in venv.reset_infos} == {50, 51, 52}


def test_score_and_length_of_an_episode():
    venv = make_procgen_env(COINRUN, 2, seed=0, distribution_mode="easy")
    venv.reset()
    lengths, n_goals = np.zeros(2, int), 0
    for actions in run_actions(200, 2):
        _, rewards, dones, infos = venv.step(actions)
        lengths += 1
        for i in np.flatnonzero(dones):
            assert (infos[i]["episode"]["r"], infos[i]["episode"]["l"]) == (rewards[i], lengths[i])
            lengths[i], n_goals = 0, n_goals + (rewards[i] == 10)
    assert n_goals >= 1


def test_attributes():
    venv = make_procgen_env(COINRUN, 3)
    assert venv.get_attr("render_mode") == [None] * 3
    assert [spec.id for spec in venv.get_attr("spec", [0, 2])] == [COINRUN] * 2
    assert venv.env_is_wrapped(Monitor) == [False] * 3
    assert not venv.has_attr("nonsense")
    with pytest.raises(AttributeError, match=r"of ProcgenVecEnv run in C\+\+ and do not have nonsense: use --vec-env dummy"):
        venv.get_attr("nonsense")
    with pytest.raises(NotImplementedError, match="use --vec-env dummy"):
        venv.set_attr("nonsense", 1)
    with pytest.raises(NotImplementedError, match="use --vec-env dummy"):
        venv.env_method("nonsense")
    venv.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_id": "procgen-coinrn-v0"}, r"no environment procgen-coinrn-v0: did you mean procgen-coinrun-v0\?"),
        ({"env_id": "CartPole-v1"}, "CartPole-v1 is not a Procgen game: make it with make_vec_env"),
        ({"distribution_mode": "medium"}, "no distribution_mode 'medium': choose from easy, hard, extreme, memory, explor"),
        ({"distribution_mode": "memory"}, "coinrun has no distribution_mode 'memory': choose from easy, hard, exploration"),
        ({"env_id": "procgen-bigfish-v0", "distribution_mode": "exploration"}, "bigfish has no .*: choose from easy, hard"),
        ({"nonsense": 1}, "Procgen has no option 'nonsense': choose from center_agent, debug_mode, num_levels, num_thre"),
        ({"debug": True}, "Procgen has no option 'debug'"),
        ({"distribution_mode": "exploration", "num_levels": 9}, "num_levels=9 is not supported .* choose distribution_mode="),
        ({"distribution_mode": "exploration", "start_level": 0}, "start_level=0 is not supported with"),
        ({"num_levels": -1}, "num_levels=-1 must be an integer from 0 to"),
        ({"num_levels": 5.0}, r"num_levels=5\.0 must be an integer from 0 to"),
        ({"num_levels": True}, "num_levels=True must be an integer from"),
        ({"start_level": 2**31}, "start_level=2147483648 must be an integer from"),
        ({"start_level": 2**31 - 5, "num_levels": 5}, "choose a smaller start_level or num_levels"),
        ({"use_backgrounds": 1}, "use_backgrounds=1 must be True or False"),
        ({"n_envs": 0}, "n_envs=0 must be an integer >= 1"),
        ({"n_stack": 0}, "n_stack=0 must be an integer >= 1"),
        ({"num_threads": -1}, "num_threads=-1 must be an integer >= 0"),
        ({"random_action_probability": 1.5}, r"random_action_probability=1\.5 must lie in \[0, 1\]"),
        ({"random_action_probability": "often"}, "random_action_probability='often' must lie in"),
        ({"render_mode": "ansi"}, "render_mode='ansi' must be None or 'rgb_array'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        ProcgenVecEnv(**{"env_id": COINRUN, **arguments})
    assert "\n" not in str(error.value)


def test_bad_actions():
    venv = ProcgenVecEnv(COINRUN, 2)
    with pytest.raises(RuntimeError, match=r"call reset\(\) before"):
        venv.step(np.array([0, 0]))
    venv.reset()
    for actions in ([0, 15], [-1, 0]):
        with pytest.raises(ValueError, match="between 0 and 14"):
            venv.step(np.array(actions))


def test_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "procgen", None)
    with pytest.raises(ImportError, match=r'procgen could not be imported: run `pip install "sb3-snd\[procgen\]"`'):
        ProcgenVecEnv(COINRUN)
    monkeypatch.setattr(procgen_engine, "sys", SimpleNamespace(version_info=(3, 13, 1)))
    with pytest.raises(ImportError, match=r"no wheel for Python 3\.13: use Python 3\.10 to 3\.12"):
        gym.make(COINRUN)
    monkeypatch.undo()
    monkeypatch.setattr(procgen_engine, "sys", SimpleNamespace(version_info=(3, 13, 1)))
    ProcgenVecEnv(COINRUN)  # a build of one's own works there


def test_nothing_is_said_when_the_engine_comes_in():
    code = (
        "import sys, gymnasium, sb3_snd\n"
        "assert 'procgen' not in sys.modules and 'procgen-coinrun-v0' in gymnasium.registry\n"
        "from sb3_snd.envs import make_procgen_env\n"
        "make_procgen_env('procgen-coinrun-v0', 2).reset()\n"
        "assert 'gym' in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_picture_of_each_environment():
    venv = ProcgenVecEnv(COINRUN, 2, render_mode="rgb_array")
    venv.seed(0)
    venv.reset()
    engine = bare(2, mode="hard", render_mode="rgb_array")
    for _ in range(2):
        expected = [info["rgb"] for info in engine.get_info()]
        np.testing.assert_array_equal(venv.get_images(), expected)
        venv.step(np.array([RIGHT, NO_OP]))
        engine.act(np.array([RIGHT, NO_OP]))
    assert venv.render("rgb_array").shape == (1024, 512, 3)


def test_ordinary_environment_equals_native():
    ordinary = VecTransposeImage(VecFrameStack(DummyVecEnv([lambda: gym.make(COINRUN, distribution_mode="easy")]), 2))
    native = ProcgenVecEnv(COINRUN, distribution_mode="easy")
    assert ordinary.observation_space == native.observation_space and ordinary.action_space == native.action_space
    for venv in (ordinary, native):
        venv.seed(5)
    np.testing.assert_array_equal(ordinary.reset(), native.reset())
    n_ends = 0
    for step, actions in enumerate(run_actions(300, 1)):
        obs, rewards, dones, infos = ordinary.step(actions)
        native_obs, native_rewards, native_dones, native_infos = native.step(actions)
        np.testing.assert_array_equal(obs, native_obs)
        assert (rewards[0], dones[0]) == (native_rewards[0], native_dones[0])
        assert infos[0]["TimeLimit.truncated"] == native_infos[0]["TimeLimit.truncated"]
        assert infos[0]["prev_level_complete"] == native_infos[0]["prev_level_complete"]
        if dones[0]:
            n_ends += 1
            expected = native_infos[0]["terminal_observation"]
            np.testing.assert_array_equal(infos[0]["terminal_observation"], expected)
            assert ordinary.unwrapped.reset_infos[0]["level_seed"] == native_infos[0]["level_seed"] != infos[0]["level_seed"]
        elif step % 100 == 50:  # a reset in the midst of an episode
            np.testing.assert_array_equal(ordinary.reset(), native.reset())
    assert n_ends >= 4


def test_ordinary_time_limit_truncates():
    env = ProcgenEnv("maze")
    env.reset(seed=0)
    ends = [env.step(NO_OP)[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]


def test_ordinary_episode_ends_with_its_own_level_and_picture():
    env = ProcgenEnv("coinrun", distribution_mode="easy", render_mode="rgb_array")
    engine = bare(1, seed=4, render_mode="rgb_array")
    frame, info = env.reset(seed=4)
    for (action,) in run_actions(200, 1):
        last, level, picture = frame, info["level_seed"], engine.get_info()[0]["rgb"]
        np.testing.assert_array_equal(env.render(), picture)
        frame, reward, terminated, truncated, info = env.step(action)
        engine.act(np.array([action]))
        if terminated:
            break
    assert not truncated and isinstance(reward, float) and set(info) == {"level_seed", "prev_level_complete"}
    np.testing.assert_array_equal(frame, last)
    np.testing.assert_array_equal(env.render(), picture)
    assert info["level_seed"] == level
    frame, info = env.reset()
    np.testing.assert_array_equal(frame, engine.observe()[1]["rgb"][0])  # no level is skipped
    assert info == {"level_seed": engine.get_info()[0]["level_seed"]}
    np.testing.assert_array_equal(env.render(), engine.get_info()[0]["rgb"])
    env.close()


def test_defaults_are_the_engines():
    env, engine = gym.make(COINRUN), bare(1, seed=2, mode="hard")
    frame, _ = env.reset(seed=2)
    for (action,) in run_actions(40, 1):
        np.testing.assert_array_equal(frame, engine.observe()[1]["rgb"][0])
        frame = env.step(action)[0]
        engine.act(np.array([action]))
    assert env.metadata["render_fps"] == 15


@pytest.mark.filterwarnings("error")
def test_checkers_of_gymnasium_and_stable_baselines():
    check_gymnasium_env(gym.make("procgen-jumper-v0", render_mode="rgb_array").unwrapped)
    check_env(ProcgenEnv("jumper", render_mode="rgb_array"))
