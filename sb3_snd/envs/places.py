"""
Find out where agents are, to count how much of an environment they have seen.

Knows the internals of environments. Must not know any network, novelty or algorithm.
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_snd.common.type_aliases import PLACE_KEY
from sb3_snd.envs.atari import AtariVecEnv
from sb3_snd.envs.procgen import ProcgenVecEnv

N_BINS = 20  # number of bins per dimension of a coarse position
N_SHADOWS = 8  # number of ALE's environments whose rooms are read, each from a shadow emulator
MAX_DIMS = 3  # maximum number of dimensions of a coarse position


def find_places(venv: VecEnv) -> Callable[[], Sequence[Hashable]] | None:
    """
    Find a function that returns the place of each agent. A place depends on the environment:

    - any environment or wrapper with a method ``get_place()``: the hashable value that it returns;
    - Atari: the room, see :data:`~sb3_snd.envs.atari_rooms.ROOM_BYTES`. In ALE's vector environment only
      those of the first eight environments are known, and only if this function is called between a seeded
      reset and the first step;
    - Procgen: the unit square;
    - MiniGrid and Gymnasium's toy texts, without subprocesses: the state;
    - classic control with up to three bounded dimensions, without subprocesses: the position, in 20 bins
      each.

    :param venv: Vector environment with any wrappers
    :return: function that returns ``n_envs`` places, None for environments whose place is unknown; None if no
        places can be read
    """
    base = venv.unwrapped
    if isinstance(base, AtariVecEnv):
        return base.get_places if base.start_shadow_emulators(N_SHADOWS) else None
    if isinstance(base, ProcgenVecEnv):
        return base.get_places
    if base.has_attr("get_place"):
        return None if base.env_method("get_place", indices=0)[0] is None else lambda: base.env_method("get_place")
    if not isinstance(base, DummyVecEnv):
        return None
    readers = [_reader(env) for env in base.envs]
    return None if None in readers else lambda: [reader() for reader in readers if reader is not None]


class PlaceInfo(gym.Wrapper):
    """
    Add the place of the agent to the infos, as a number under ``"place"``, for rewards that count places.

    :param env: An environment with a method ``get_place()``, one of MiniGrid or of Gymnasium's toy texts, or one of
        classic control with up to three bounded dimensions, see :func:`find_places`
    :raises ValueError: at the first reset, if its places cannot be read
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._read: Callable[[], Hashable] | None = None

    def _find_reader(self) -> Callable[[], Hashable]:
        """Find the function that returns the place. Some environments have none before their first reset."""
        reader = self.env.get_wrapper_attr("get_place") if self.env.has_wrapper_attr("get_place") else _reader(self.env)
        if reader is None:
            raise ValueError(
                f"PlaceInfo cannot read the places of {self.env}: give it a method get_place() that returns a hashable value."
            )
        return reader

    def _number(self) -> int:
        if self._read is None:
            self._read = self._find_reader()
        digest = hashlib.blake2b(repr(self._read()).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env.reset``."""
        obs, info = self.env.reset(**kwargs)
        return obs, {**info, PLACE_KEY: self._number()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env.step``."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, PLACE_KEY: self._number()}


def read_places(infos: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """
    Read the places of all agents.

    :param infos: Infos of a step or of a reset
    :return: one or several keys of each place, ``(n_envs, K)`` int64
    :raises ValueError: if an environment does not tell its place
    """
    if not all(PLACE_KEY in info for info in infos):
        raise ValueError("place=True needs places in the infos: wrap each environment in sb3_snd.envs.PlaceInfo.")
    return np.array([info[PLACE_KEY] for info in infos], dtype=np.int64).reshape(len(infos), -1)


def _reader(env: gym.Env) -> Callable[[], Hashable] | None:
    """Return a function that returns the place of one environment; None if its places cannot be read."""
    inner: Any = env.unwrapped
    space = inner.observation_space
    if all(hasattr(inner, name) for name in ("grid", "agent_pos", "agent_dir", "carrying")):
        return lambda: _grid_state(inner)
    if isinstance(space, spaces.Discrete) and hasattr(inner, "s"):
        return lambda: int(inner.s)
    if (
        isinstance(space, spaces.Box)
        and len(space.shape) == 1
        and space.shape[0] <= MAX_DIMS
        and np.isfinite([space.low, space.high]).all()
        and np.shape(getattr(inner, "state", ())) == space.shape
    ):
        return lambda: coarse_position(inner.state, space.low, space.high)
    return None


def _grid_state(env: Any) -> Hashable:
    """Return the state of MiniGrid: hash of the grid, the agent's square and direction, what it carries."""
    # grid.encode() takes ten times as long
    cells = [cell if cell is None else cell.encode() for cell in env.grid.grid]
    grid = hashlib.blake2b(repr(cells).encode(), digest_size=8).digest()
    carried = None if env.carrying is None else env.carrying.encode()
    return grid, *map(int, env.agent_pos), int(env.agent_dir), carried


def coarse_position(state: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[int, ...]:
    """
    Divide a state into bins.

    :param state: State, ``(D,)``
    :param low: Smallest values, ``(D,)``
    :param high: Largest values, ``(D,)``
    :return: bin of each dimension, 0 to 19
    """
    shares = [(float(s) - float(a)) / (float(b) - float(a)) for s, a, b in zip(state, low, high, strict=True)]
    return tuple(min(max(math.floor(share * N_BINS), 0), N_BINS - 1) for share in shares)
