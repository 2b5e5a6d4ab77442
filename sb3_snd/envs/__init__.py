"""
Environments as Stable-Baselines3 takes them: the emulators' own vector environments and the ordinary ones beside them.

Game names may stand in this room. It must not know any network, novelty or algorithm.
"""

import re

from sb3_snd.envs import deep_sea  # noqa: F401  # registers its id
from sb3_snd.envs.atari import AtariVecEnv, AtariWrapper, VecPositiveReward, VecSignReward, make_atari_env
from sb3_snd.envs.ordinary import as_ordinary
from sb3_snd.envs.places import find_places
from sb3_snd.envs.procgen import ProcgenEnv, ProcgenVecEnv, make_procgen_env
from sb3_snd.extras import require

#: pattern of an id -> package that registers it, and the extra that installs it
PACKAGES = {r"ALE/|\w+NoFrameskip-v": ("ale_py", "atari"), "MiniGrid-": ("minigrid", "minigrid")}


def require_package(env_id: str) -> None:
    """
    :param env_id: Gymnasium id
    :raises ImportError: if the package that registers it is missing, with the extra that installs it
    """
    for pattern, (package, extra) in PACKAGES.items():
        if re.match(pattern, env_id):
            require(package, extra)


__all__ = [
    "AtariVecEnv",
    "AtariWrapper",
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
