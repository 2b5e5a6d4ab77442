"""
Where agents are, for counting how much of an environment they have seen: rooms of Atari games, states of grids, coarse
positions.

Knows the insides of environments. Must not know any network, novelty or algorithm.
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

N_BINS = 20  # a bounded dimension's, where places are coarse positions
N_FOLLOWED = 8  # environments of ALE's vector environment, each in an emulator of its own
MAX_DIMS = 3  # of a state that is divided into bins


def find_places(venv: VecEnv) -> Callable[[], Sequence[Hashable]] | None:
    """
    Environments of one's own tell by a method ``get_place()``, of theirs or of a wrapper's, that returns something hashable.
    Known besides: rooms of Atari games (see :data:`~sb3_snd.envs.atari.ROOM_BYTES`; of ALE's vector environment those of the
    first eight environments, and only if this is called between a seeded reset and the first step), unit squares in Procgen,
    and without subprocesses states of MiniGrid and of Gymnasium's toy texts, and classic control with up to three bounded
    dimensions, in 20 bins each.

    :param venv: The environment, however wrapped
    :return: a function that returns where each environment is now, ``n_envs`` of them, None for one that cannot be asked;
        None where nothing is known
    """
    base = venv.unwrapped
    if isinstance(base, AtariVecEnv):
        return base.get_places if base.follow(N_FOLLOWED) else None
    if isinstance(base, ProcgenVecEnv):
        return base.get_places
    if base.has_attr("get_place"):
        return None if base.env_method("get_place", indices=0)[0] is None else lambda: base.env_method("get_place")
    if not isinstance(base, DummyVecEnv):
        return None
    readers = [_reader(env) for env in base.envs]
    return None if None in readers else lambda: [reader() for reader in readers if reader is not None]


def _reader(env: gym.Env) -> Callable[[], Hashable] | None:
    """:return: a function that returns where one environment is; None where nothing is known"""
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
    """:return: of MiniGrid: what lies where, the agent's square and direction, and what it carries"""
    cells = [cell if cell is None else cell.encode() for cell in env.grid.grid]  # grid.encode() takes ten times as long
    grid = hashlib.blake2b(repr(cells).encode(), digest_size=8).digest()
    carried = None if env.carrying is None else env.carrying.encode()
    return grid, *map(int, env.agent_pos), int(env.agent_dir), carried


def coarse_position(state: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[int, ...]:
    """
    :param state: ``(D,)``
    :param low: Least values, ``(D,)``
    :param high: Largest values, ``(D,)``
    :return: the bin of each dimension, 0 to 19
    """
    shares = [(float(s) - float(a)) / (float(b) - float(a)) for s, a, b in zip(state, low, high, strict=True)]
    return tuple(min(max(math.floor(share * N_BINS), 0), N_BINS - 1) for share in shares)
