"""
Find out where agents are, to count how much of an environment they have seen.

Knows the internals of environments. Must not know any network, novelty or algorithm.
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

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
