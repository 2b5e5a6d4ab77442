"""Entries of YAML files: which file has them, and what they mean; and the algo keys in the tables of the RL
Zoo.

Knows rl_zoo3's tables and the notation of entries. Must not know any manager or command line.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.common.extras import require
from sb3_snd.envs import make_atari_env, make_procgen_env
from sb3_snd.envs.ordinary import ATARI_WRAPPER
from sb3_snd.envs.procgen import ENTRY_POINT
from sb3_snd.ppo_snd.ppo_snd import PPOSND

require("rl_zoo3", "zoo")

# isort: split
import rl_zoo3
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from sb3_snd.zoo.algo_keys import ALGO_KEYS, config_path
from sb3_snd.zoo.search import convert_ppo_snd_params, sample_ppo_snd_params

#: ``env_wrapper`` of a YAML entry (or, without one, the id's entry point) -> function that makes the native
#: vector environment
NATIVE: dict[str, Callable[..., VecEnv]] = {ATARI_WRAPPER: make_atari_env, ENTRY_POINT: make_procgen_env}


def register() -> None:
    """Add the algo keys to the Zoo's tables. Must be called before its parsers read them."""
    for key in ALGO_KEYS:
        rl_zoo3.ALGOS[key] = PPOSND
        HYPERPARAMS_SAMPLER[key] = sample_ppo_snd_params
        HYPERPARAMS_CONVERTER[key] = convert_ppo_snd_params


def find_config(algo: str, env_id: str) -> str | None:
    """
    Find the YAML file with the hyperparameters for an environment.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :return: this package's YAML file if it has an entry for the environment; None to use the Zoo's own file
    :raises ValueError: if the file of one of this package's algo keys has no entry for the environment
    """
    path = config_path(algo)
    if not path.is_file():
        return None
    entries = yaml.safe_load(path.read_text())
    if env_id in entries or (ExperimentManager.is_atari(env_id) and "atari" in entries):
        return str(path)
    if algo not in ALGO_KEYS:
        return None
    raise ValueError(
        f"No hyperparameters for {env_id} in {path.name}, which has {', '.join(sorted(entries))}:"
        " use --conf-file to give your own file."
    )


def find_native_env(env_wrapper: Any) -> Callable[..., VecEnv] | None:
    """
    Find the native vector environment that replaces ordinary environments.

    :param env_wrapper: ``env_wrapper`` of an entry, in the Zoo's notation, or the id's entry point
    :return: function that makes it, with the arguments of the wrapper; None if there is none
    """
    if isinstance(env_wrapper, list) and len(env_wrapper) == 1:
        env_wrapper = env_wrapper[0]
    name, kwargs = next(iter(env_wrapper.items())) if isinstance(env_wrapper, dict) else (env_wrapper, {})
    return functools.partial(NATIVE[name], **kwargs) if isinstance(name, str) and name in NATIVE else None


def check_names(algo: str, hyperparams: dict[str, Any]) -> None:
    """
    Refuse hyperparameters that ``PPOSND`` does not have.

    :param algo: Algo key
    :param hyperparams: Arguments of the algorithm
    :raises ValueError: if a name is unknown; the message lists the known
    """
    known = {*inspect.signature(PPOSND).parameters, *inspect.signature(PPO).parameters} - {"env", "kwargs"}
    known = {name for name in known if not name.startswith("_")}
    unknown = sorted(set(hyperparams) - known)
    if unknown:
        raise ValueError(f"Unknown hyperparameter {unknown[0]!r}: {algo} takes {', '.join(sorted(known))}.")
