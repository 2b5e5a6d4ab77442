"""
Environments for SB3: the emulators' native vector environments, and their ordinary counterparts.

Game names may appear here. Must not know any network, novelty or algorithm.
"""

import re

from sb3_snd.common.extras import require
from sb3_snd.envs import deep_sea  # noqa: F401  # registers DeepSea-v0
from sb3_snd.envs.atari import AtariVecEnv, make_atari_env
from sb3_snd.envs.atari_rewards import VecPositiveReward, VecSignReward
from sb3_snd.envs.atari_wrapper import AtariWrapper
from sb3_snd.envs.minigrid import MiniGridMap, MiniGridWrapper
from sb3_snd.envs.ordinary import as_ordinary
from sb3_snd.envs.places import PlaceInfo, find_places
from sb3_snd.envs.procgen import ProcgenEnv, ProcgenVecEnv, make_procgen_env

#: pattern of an id -> package that registers the id, and the extra that installs the package
PACKAGES = {r"ALE/|\w+NoFrameskip-v": ("ale_py", "atari"), "MiniGrid-": ("minigrid", "minigrid")}


def require_package(env_id: str) -> None:
    """
    Check that the package that registers an id is installed.

    :param env_id: Gymnasium id
    :raises ImportError: if the package is missing; the message names the extra
    """
    for pattern, (package, extra) in PACKAGES.items():
        if re.match(pattern, env_id):
            require(package, extra)


__all__ = [
    "AtariVecEnv",
    "AtariWrapper",
    "MiniGridMap",
    "MiniGridWrapper",
    "PlaceInfo",
    "ProcgenEnv",
    "ProcgenVecEnv",
    "VecPositiveReward",
    "VecSignReward",
    "as_ordinary",
    "find_places",
    "make_atari_env",
    "make_procgen_env",
    "require_package",
]
