"""Places of environments whose every state is known, and what ``ExplorationLogger`` makes of them."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import CountingEnv
from gymnasium.wrappers import FlattenObservation
from minigrid.core.world_object import Key
from minigrid.wrappers import ImgObsWrapper
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_snd import PPOSND, ExplorationLogger, SNDCallback, VecIntrinsicReward
from sb3_snd.envs import AtariVecEnv, AtariWrapper, find_places, make_atari_env, make_procgen_env
from sb3_snd.envs.places import coarse_position
from sb3_snd.runs import exploration_logger
from sb3_snd.targets import Target


class PlaceEnv(CountingEnv):
    """Where it is, it knows itself."""

    def get_place(self):
        return self.number, self.step_count


def places_env(*lengths):
    return DummyVecEnv([lambda n=n, length=length: PlaceEnv(n, length) for n, length in enumerate(lengths)])


def learn(model, folder, n_steps, callback):
    """:return: rows of the log"""
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(n_steps, callback=callback)
    with open(folder / "progress.csv") as file:
        return list(csv.DictReader(file))


def test_places_by_hand(tmp_path):
    """
    Environment 0 ends every 5 steps, environment 1 every 3: places 0 to 4 and 0 to 2. In a rollout of 4 steps the first
    reaches steps 1, 2, 3, 4 and the second 1, 2, (0), 1; the second rollout ends the first's episode of 5 places.
    """
    logger = ExplorationLogger()
    model = PPO("MlpPolicy", places_env(5, 3), n_steps=4, batch_size=8, n_epochs=1, device="cpu")
    first, second = learn(model, tmp_path, 16, logger)
    assert (first["exploration/places"], second["exploration/places"]) == ("8", "8")
    assert logger.places == {*((0, step) for step in range(5)), *((1, step) for step in range(3))}
    assert [float(row["exploration/places_per_episode"]) for row in (first, second)] == [3.0, 4.0]
    assert [row["exploration/places_per_episode_max"] for row in (first, second)] == ["3", "5"]


def test_places_under_wrappers_of_every_kind():
    env = VecNormalize(VecFrameStack(places_env(5, 3), 2))
    env.reset()
    env.step(np.zeros(2, dtype=int))
    assert find_places(env)() == [(0, 1), (1, 1)]
    assert find_places(DummyVecEnv([CountingEnv])) is None


def test_places_in_subprocesses():
    env = SubprocVecEnv([lambda: PlaceEnv(4, 5)])
    env.reset()
    assert find_places(env)() == [(4, 0)]
    env.close()
    env = SubprocVecEnv([CountingEnv])
    assert find_places(env) is None
    env.close()


def test_pitfall_begins_in_scene_196_and_226_lies_to_the_left():
    """As its disassembly says: $c4, and $e2 to the left of it."""
    make_atari_env("PitfallNoFrameskip-v4").close()  # registers the ids
    env = make_vec_env("PitfallNoFrameskip-v4", seed=0, wrapper_class=AtariWrapper)
    env.reset()
    places = find_places(env)
    seen = [places()[0]]
    for _ in range(20):
        env.step(np.array([4]))  # left
        seen += places()
    assert seen[0] == 196 and seen[-1] == 226 and set(seen) == {196, 226}


def test_shadow_emulators_go_where_ales_own_environments_go():
    """Sticky actions, game overs, time limits and a reset: lives are lost in the same steps, which no other way leads to."""
    env = AtariVecEnv("MontezumaRevengeNoFrameskip-v4", 10, max_episode_steps=250)
    env.seed(3)
    env.reset()
    places = find_places(env)
    assert places() == [1] * 8 + [None] * 2
    rng = np.random.default_rng(0)
    n_over, n_cut, n_lost = 0, 0, 0
    for step in range(600):
        _, _, dones, infos = env.step(rng.integers(18, size=10))
        lives = [emulator.lives() for emulator in env._shadows.emulators]
        assert lives == [info["lives"] for info in infos[:8]]
        n_cut += sum(info["TimeLimit.truncated"] for info in infos)
        n_over += dones.sum()
        n_lost += sum(count < 5 for count in lives)
        if step == 200:
            env.reset()
    assert n_over > n_cut > 5 and n_lost > 500 and len(env._shadows.emulators) == 8


def test_shadow_emulators_see_the_rooms_of_ordinary_environments():
    native = AtariVecEnv("PitfallNoFrameskip-v4", 2, repeat_action_probability=0.0)
    native.seed(0)
    native.reset()
    ordinary = make_vec_env("PitfallNoFrameskip-v4", 2, seed=0, wrapper_class=AtariWrapper)
    ordinary.reset()
    here, there = find_places(native), find_places(ordinary)
    seen = []
    for action in [4] * 60 + [11] * 60:  # far to the left, then right and jump
        native.step(np.array([action, 3]))
        ordinary.step(np.array([action, 3]))
        assert here() == there()
        seen += here()
    assert set(seen) == {196, 226}


def test_shadow_emulators_need_a_seeded_beginning():
    env = AtariVecEnv("PitfallNoFrameskip-v4", 2)
    env.reset()
    assert find_places(env) is None  # nobody knows the seeds
    env.seed(0)
    env.reset()
    env.step(np.zeros(2, dtype=int))
    assert find_places(env) is None  # nobody has seen the step
    env.seed(0)
    env.reset()
    assert find_places(env) is not None
    env.seed(1)
    env.reset()
    assert env._shadows is None


class Lost:
    """An emulator that has gone another way."""

    def game_over(self, with_truncation):
        return True


def test_lost_shadow_emulators_are_told():
    env = AtariVecEnv("PitfallNoFrameskip-v4", 1)
    env.seed(0)
    env.reset()
    places = find_places(env)
    env._shadows.emulators = [Lost()]
    with pytest.warns(UserWarning, match="no longer match the environments: places are unknown"):
        env.step(np.zeros(1, dtype=int))
    assert places() == [None]


def test_rooms_of_other_games():
    for game, room in (("MontezumaRevenge", 1), ("PrivateEye", 0)):
        env = make_vec_env(f"{game}NoFrameskip-v4", wrapper_class=AtariWrapper)
        env.reset()
        assert find_places(env)() == [room]
    env = make_vec_env("GravitarNoFrameskip-v4", wrapper_class=AtariWrapper)
    env.reset()
    assert find_places(env) is None


@pytest.mark.procgen
def test_places_of_procgen_follow_the_actions():
    """In a maze a step leads to the next square or, where a wall is, nowhere; the way back leads back."""
    env = make_procgen_env("procgen-maze-v0", 2, seed=0, distribution_mode="easy", num_levels=1, start_level=0)
    env.reset()
    places = find_places(env)
    starts = places()
    assert starts[0] == starts[1] and starts[0][0] == 0  # the level's seed
    seen = []
    for action in (7, 7, 1, 1):  # right, right, left, left
        env.step(np.array([action, 4]))  # the other stays
        seen.append(places())
    _, x, y = starts[0]
    assert [here for here, _ in seen] == [(0, x + 1, y), (0, x + 2, y), (0, x + 1, y), (0, x, y)]
    assert [there for _, there in seen] == [starts[1]] * 4
    env.close()


@pytest.mark.procgen
def test_exploration_mode_has_one_level():
    env = gym.make("procgen-jumper-v0", distribution_mode="exploration")
    env.reset(seed=0)
    assert len(env.get_wrapper_attr("get_place")()) == 2
    env.close()


def test_grids_and_classic_control():
    lake = make_vec_env("FrozenLake-v1", env_kwargs={"is_slippery": False})
    lake.reset()
    lake.step(np.array([1]))  # down, one row of four
    assert find_places(lake)() == [4]

    car = make_vec_env("MountainCar-v0")
    car.reset()
    car.envs[0].unwrapped.state = np.array([0.6, -0.07])
    assert find_places(car)() == [(19, 0)]
    assert find_places(make_vec_env("CartPole-v1")) is None  # has no bounds
    assert coarse_position(np.array([0.5]), np.array([0.0]), np.array([1.0])) == (10,)


def test_states_of_minigrid():
    env = make_vec_env("MiniGrid-DoorKey-5x5-v0", seed=0, wrapper_class=lambda env: FlattenObservation(ImgObsWrapper(env)))
    env.reset()
    read = find_places(env)
    inner = env.envs[0].unwrapped
    seen = [read()[0]]
    for action in (0, 1, 0, 0, 0, 0):  # left, right, then once around
        env.step(np.array([action]))
        seen += read()
    assert len(set(seen)) == 4 and seen[0] == seen[2] == seen[6]
    inner.carrying = Key("yellow")
    assert read()[0] not in seen


class Constant(Target):
    """Collapses by construction."""

    convs = learner_convs = ()

    def forward(self, frames):
        return super().forward(frames) * 0 + 3

    def loss(self, batch, learner):
        z = self(batch.states)
        distill = (learner(batch.states) - z.detach()).square().mean()
        return {"loss": distill, "distill": distill, "features": z.detach()}


class Identity(Target):
    """Features are the observations' two entries."""

    convs = learner_convs = ()

    def forward(self, frames):
        return frames

    def loss(self, batch, learner):
        distill = (learner(batch.states) - batch.states).square().mean()
        return {"loss": distill, "distill": distill, "features": batch.states}


def test_features_of_the_target_by_hand(tmp_path):
    """
    Identity on 8 environments in step with each other, whose step count and number vary independently: after normalisation two
    directions of equal length, so that the rank is 2, and both deviate by 1.
    """
    env = DummyVecEnv([lambda n=n: CountingEnv(n, length=4) for n in range(8)])
    env = VecIntrinsicReward(env, Identity, snd_kwargs={"features_dim": 2})
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=512, n_epochs=1, device="cpu", seed=0)
    with th.random.fork_rng():
        *_, row = learn(model, tmp_path, 2048, [SNDCallback(), ExplorationLogger()])
    assert float(row["exploration/effective_rank"]) == pytest.approx(2.0, abs=1e-3)
    assert float(row["exploration/feature_std"]) == pytest.approx(1.0, abs=2e-2)


def test_collapsed_features_warn_once(tmp_path):
    env = make_vec_env("CartPole-v1", n_envs=8)
    model = PPOSND("MlpPolicy", env, snd=Constant, n_steps=128, batch_size=256, n_epochs=1, device="cpu", seed=0)
    with pytest.warns(UserWarning) as caught:
        rows = learn(model, tmp_path, 3072, ExplorationLogger())
    said = [str(warning.message) for warning in caught if "collapsed" in str(warning.message)]
    assert len(said) == 1 and "after 1024 steps: their effective rank is 0.00" in said[0]
    assert "exploration/places" not in rows[0]
    assert any("cannot read the places of DummyVecEnv" in str(warning.message) for warning in caught)


def test_off_policy(tmp_path, monkeypatch):
    monkeypatch.setattr(exploration_logger, "N_STATES", 64)
    monkeypatch.setattr(exploration_logger, "PERIOD", 640)
    env = VecIntrinsicReward(places_env(5, 3), "vic", snd_kwargs={"features_dim": 8})
    model = DQN("MlpPolicy", env, learning_starts=10, device="cpu", seed=0)
    rows = learn(model, tmp_path, 1000, [SNDCallback(), ExplorationLogger()])
    assert rows[-1]["exploration/places"] == "8"
    (rank,) = [float(row["exploration/effective_rank"]) for row in rows if row["exploration/effective_rank"]]
    assert 1 < rank < 8  # of at most as many directions as there are features and places


def test_nothing_to_log_is_one_sentence():
    make = lambda env: PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")  # noqa: E731
    with pytest.raises(ValueError, match=r"cannot read the places of DummyVecEnv: give your environment a method get_place"):
        make(DummyVecEnv([CountingEnv])).learn(8, callback=ExplorationLogger())
    env = make_atari_env("GravitarNoFrameskip-v4", frame_size=36)
    with pytest.raises(ValueError, match=r"AtariVecEnv: it must be seeded .* and the game must be one of montezuma_revenge, "):
        make_cnn = PPO("CnnPolicy", env, n_steps=8, batch_size=8, device="cpu")
        make_cnn.learn(8, callback=ExplorationLogger())
