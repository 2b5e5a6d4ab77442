"""
Procgen games in two forms: the engine's vector environment as a ``VecEnv``, and ordinary environments.

Knows how Procgen's engine is stepped and seeded. Importing this module registers the Gymnasium ids
``procgen-<game>-v0``. Must not know any network, novelty or algorithm.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_snd.common.processors import available_threads
from sb3_snd.common.validation import FRACTION, one_of, validate
from sb3_snd.envs import native
from sb3_snd.envs.native import NativeVecEnv, find_spec
from sb3_snd.envs.procgen_engine import GAMES, agent_position, check_options, engine_class, time_limit

ENTRY_POINT = "sb3_snd.envs:ProcgenEnv"
N_ACTIONS = 15
RULES = {**native.RULES, "random_action_probability": FRACTION, "render_mode": one_of(None, "rgb_array")}

for game in GAMES:
    gym.register(f"procgen-{game}-v0", entry_point=ENTRY_POINT, kwargs={"game": game})


class ProcgenVecEnv(NativeVecEnv):
    """
    Procgen's engine, which steps all games in C++ threads, as a ``VecEnv``.

    Observations are ``(n_envs, 3 * n_stack, 64, 64)`` uint8, with three channels (red, green, blue) per frame
    and the newest frame last. After a reset the older frames are zero. Rewards are the game's own. Every info
    has ``"level_seed"``, the seed of the level in the observation returned with it, and
    ``"prev_level_complete"``, whether the step before that observation reached the goal.

    The engine never shows the last screen of an episode: with the last reward it returns the first screen of
    the next episode. The newest frame of a terminal observation therefore repeats that of the previous step.
    An episode that reaches the engine's time limit without the goal counts as truncated. This includes
    episodes in which the agent dies in that very step, because the engine does not distinguish them.

    The defaults are those of the engine, here and in ``ProcgenEnv``. The settings of arXiv 2302.11563 are
    ``distribution_mode="exploration", random_action_probability=0.01``.

    :param env_id: Gymnasium id of a Procgen game, ``"procgen-<game>-v0"``
    :param n_envs: Number of environments
    :param n_stack: Number of frames in an observation
    :param distribution_mode: ``"easy"``, ``"hard"``, ``"extreme"``, ``"memory"`` or ``"exploration"`` (one
        fixed hard level); not every game has the last three
    :param random_action_probability: Probability per step that a uniformly random action replaces the given
        one
    :param num_threads: Number of C++ threads; 0 for the number that
        :func:`~sb3_snd.common.processors.available_threads` returns
    :param render_mode: None or ``"rgb_array"``, which renders pictures of 512x512 pixels
    :param engine_options: Other options of ``procgen.ProcgenGym3Env``, such as ``num_levels`` or
        ``use_backgrounds``
    """

    #: steps between two calls of :meth:`get_places` in ``ExplorationLogger``: a call takes as long as a step
    place_interval = 8

    def __init__(
        self,
        env_id: str,
        n_envs: int = 1,
        n_stack: int = 2,
        distribution_mode: str = "hard",
        random_action_probability: float = 0.0,
        num_threads: int = 0,
        render_mode: str | None = None,
        **engine_options: Any,
    ):
        self.spec = find_spec(env_id, ENTRY_POINT, "a Procgen game")
        game = self.spec.kwargs["game"]
        check_options(game, distribution_mode, engine_options)
        numbers = dict(n_envs=n_envs, n_stack=n_stack, num_threads=num_threads)
        others = dict(random_action_probability=random_action_probability, render_mode=render_mode)
        given = validate({**numbers, **others}, RULES)
        n_envs, n_stack, num_threads = given["n_envs"], given["n_stack"], given["num_threads"]
        self.random_action_probability = random_action_probability
        self.time_limit = time_limit(game, distribution_mode)
        self.many_levels = distribution_mode != "exploration"
        self.render_mode = render_mode
        self.engine_kwargs = dict(
            engine_options,
            num=n_envs,
            env_name=game,
            distribution_mode=distribution_mode,
            render_mode=render_mode,
            # For the engine, 0 means the calling thread, which is sufficient for a single game
            num_threads=0 if n_envs == 1 else min(num_threads or available_threads(), n_envs),
        )
        self._engine: Any = None
        self.zero_padded_stack = n_stack
        super().__init__(n_envs, spaces.Box(0, 255, (3 * n_stack, 64, 64), np.uint8), spaces.Discrete(N_ACTIONS))

    def reset(self) -> np.ndarray:
        """
        Start a new episode in all environments, with the seed given to ``seed`` since the last reset.

        For a new seed a new engine is made, because an engine takes one seed for all its games. If all
        environments are already at the start of an episode, nothing is stepped.

        :return: observations ``(n_envs, 3 * n_stack, 64, 64)`` uint8
        """
        seed = self._seeds[0]
        if self._engine is None or seed is not None:
            self.close()
            rand_seed = None if seed is None else seed % 2**31  # the engine accepts 31 bits
            self._engine = engine_class()(rand_seed=rand_seed, **self.engine_kwargs)
            self._rng = np.random.default_rng(seed)
        elif not self._engine.observe()[2].all():
            self._engine.act(np.full(self.num_envs, -1))  # ends all episodes
        self._reset_seeds()
        self._reset_options()
        _, frames, _ = self._engine.observe()
        engine_infos = self._engine.get_info()
        self.reset_infos = [{"level_seed": int(info["level_seed"])} for info in engine_infos]
        self._images = [info.get("rgb") for info in engine_infos]
        self._elapsed = np.zeros(self.num_envs, np.int64)
        self._stack = np.zeros((self.num_envs, *self.observation_space.shape), np.uint8)  # type: ignore[misc]
        self._stack[:, -3:] = frames["rgb"].transpose(0, 3, 1, 2)
        return self._stack

    def step_async(self, actions: np.ndarray) -> None:
        """
        Pass the actions, some replaced by random ones, to the C++ threads and return immediately.

        :param actions: ``(n_envs,)`` integers
        :raises RuntimeError: if ``reset`` has not been called
        """
        if self._engine is None:
            raise RuntimeError("No episode has started: call reset() before step().")
        is_random = self._rng.random(self.num_envs) < self.random_action_probability
        random_actions = self._rng.integers(N_ACTIONS, size=self.num_envs)
        self._engine.act(np.where(is_random, random_actions, self.check_actions(actions)))

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the results of the step that ``step_async`` started.

        :return: observations ``(n_envs, 3 * n_stack, 64, 64)`` uint8, in memory that later steps do not
            change; rewards ``(n_envs,)`` float32; dones ``(n_envs,)`` bool; infos
        """
        rewards, frames, dones = self._engine.observe()
        engine_infos = self._engine.get_info()
        self._images = [info.get("rgb") for info in engine_infos]
        complete = np.array([info["prev_level_complete"] for info in engine_infos], dtype=bool)  # (n_envs,)
        self._elapsed += 1
        truncated = dones & ~complete & (self._elapsed >= self.time_limit)
        # With use_sequential_levels an episode continues in the next level, whose time starts at 0
        self._elapsed[dones | complete] = 0

        infos: list[dict[str, Any]] = [
            {"level_seed": int(info["level_seed"]), "prev_level_complete": done, "TimeLimit.truncated": cut}
            for info, done, cut in zip(engine_infos, complete.tolist(), truncated.tolist(), strict=True)
        ]
        for i in np.flatnonzero(dones):
            infos[i]["terminal_observation"] = np.concatenate((self._stack[i, 3:], self._stack[i, -3:]))
        stack = np.empty_like(self._stack)
        stack[:, :-3] = self._stack[:, 3:]
        stack[dones, :-3] = 0
        stack[:, -3:] = frames["rgb"].transpose(0, 3, 1, 2)
        self._stack = stack
        return stack, rewards, dones, infos

    def get_places(self) -> list[tuple[int, ...]]:
        """
        Read the place of each agent from the engine. A call takes about as long as a step.

        :return: unit square ``(x, y)`` of each agent, after the level's seed if there are several
        """
        seeds = [(info["level_seed"],) if self.many_levels else () for info in self._engine.get_info()]
        squares = map(agent_position, self._engine.get_state())
        return [(*map(int, seed), int(x), int(y)) for seed, (x, y) in zip(seeds, squares, strict=True)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        Return the pictures that the engine rendered.

        :return: picture ``(512, 512, 3)`` uint8 of each environment's observation; None without
            ``render_mode="rgb_array"``
        """
        return self._images

    def close(self) -> None:
        """Stop the engine and its C++ threads."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def make_procgen_env(env_id: str, n_envs: int = 1, seed: int | None = None, **kwargs: Any) -> VecEnv:
    """
    Make Procgen environments with unscaled rewards; ``infos[i]["episode"]`` has score and length of an
    episode that ended.

    :param env_id: Gymnasium id of a Procgen game, ``"procgen-<game>-v0"``
    :param n_envs: Number of environments
    :param seed: Seed of the levels and the random actions; drawn from numpy's global generator if None
    :param kwargs: Other arguments of ``ProcgenVecEnv``
    :return: vector environment
    """
    seed = validate({"seed": seed}, RULES)["seed"]
    venv = ProcgenVecEnv(env_id, n_envs, **kwargs)
    venv.seed(seed)
    return VecMonitor(venv)


class ProcgenEnv(gym.Env):
    """
    One Procgen game as an ordinary environment, ``gym.make("procgen-<game>-v0")``, for ``make_vec_env`` and
    the RL Zoo.

    With two frames stacked and transposed it returns the same observations as ``ProcgenVecEnv``, and it has
    the same defaults and arguments. Its own observations are ``(64, 64, 3)`` uint8. The engine never shows
    the last screen of an episode, so the last observation repeats that of the previous step.

    :param game: Name of the game
    :param distribution_mode: See ``ProcgenVecEnv``
    :param random_action_probability: Probability per step that a uniformly random action replaces the given
        one
    :param render_mode: None or ``"rgb_array"``, from which Gymnasium makes ``"human"``
    :param engine_options: Other options of ``procgen.ProcgenGym3Env``, such as ``num_levels`` or
        ``use_backgrounds``
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        game: str,
        distribution_mode: str = "hard",
        random_action_probability: float = 0.0,
        render_mode: str | None = None,
        **engine_options: Any,
    ):
        kwargs = dict(engine_options, render_mode=render_mode)
        self._venv = ProcgenVecEnv(f"procgen-{game}-v0", 1, 1, distribution_mode, random_action_probability, **kwargs)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = self._venv.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Start a new episode.

        :param seed: Seed of the levels and the random actions; None continues their current sequence
        :param options: Unused
        :return: observation ``(64, 64, 3)`` uint8, info
        """
        super().reset(seed=seed)
        if seed is not None:
            self._venv.seed(seed)
        obs = self._venv.reset()
        self._info = self._venv.reset_infos[0]
        self._picture = self._venv.get_images()[0]
        return obs[0].transpose(1, 2, 0), dict(self._info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Make one step.

        :param action: Integer from 0 to 14
        :return: observation ``(64, 64, 3)`` uint8, reward, terminated, truncated, info
        """
        obs, rewards, (done,), (info,) = self._venv.step(np.array([action]))
        truncated = info.pop("TimeLimit.truncated")
        frame = info.pop("terminal_observation", np.asarray(obs)[0])
        if done:
            info["level_seed"] = self._info["level_seed"]  # the engine is already in the next episode
        else:
            self._picture = self._venv.get_images()[0]
        self._info = info
        return frame.transpose(1, 2, 0), float(rewards[0]), bool(done) and not truncated, truncated, info

    def get_place(self) -> tuple[int, ...]:
        """
        Read the place of the agent from the engine.

        :return: unit square of the agent, see ``ProcgenVecEnv.get_places``; after the end of an episode that
            of the next one
        """
        return self._venv.get_places()[0]

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """
        Return the picture that the engine rendered.

        :return: picture ``(512, 512, 3)`` uint8 of the observation; None without ``render_mode="rgb_array"``
        """
        return self._picture

    def close(self) -> None:
        """Stop the engine."""
        self._venv.close()
