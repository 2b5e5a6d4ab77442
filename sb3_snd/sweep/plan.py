"""Plan the jobs of a sweep from its command line, and check everything that can be checked without starting
one.

Knows the Zoo's algo keys, entries and command line. Must not know Ray.
"""

import argparse
import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import rl_zoo3
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_snd.envs import require_package
from sb3_snd.sweep.job import Job
from sb3_snd.zoo.hyperparams import find_config, register

#: arguments of ``sb3-snd train`` that the sweep sets itself, and others that runs of a sweep do not support
RESERVED_FLAGS = {
    *("--algo", "--env", "--seed", "-n", "--n-timesteps", "-f", "--log-folder", "--save-freq", "--num-threads", "--resume"),
    *("-uuid", "--uuid", "-i", "--trained-agent", "-optimize", "--optimize-hyperparameters"),
}


def plan(
    algos: Sequence[str],
    env_ids: Sequence[str],
    n_seeds: int,
    n_steps: int | None,
    logs: Path,
    train_args: Sequence[str],
) -> list[Job]:
    """
    List all jobs of a sweep.

    :param algos: Algo keys
    :param env_ids: Gymnasium ids
    :param n_seeds: Number of seeds, which are 0, 1, 2, ...
    :param n_steps: Number of steps of each run; None for that of its entry
    :param logs: Log folder
    :param train_args: Additional arguments for ``sb3-snd train``
    :return: all jobs, ordered by seed
    :raises ValueError: if ``sb3-snd train`` would refuse an argument, or the folder cannot be written to
    """
    register()
    if n_seeds < 1:
        raise ValueError(f"--seeds {n_seeds}: the number of seeds must be >= 1.")
    if n_steps is not None and n_steps < 1:
        raise ValueError(f"-n {n_steps}: the number of steps must be >= 1.")
    reserved = sorted({argument.partition("=")[0] for argument in train_args} & RESERVED_FLAGS)
    if reserved:
        raise ValueError(f"{reserved[0]} is not supported after --, because the sweep sets it for each run: remove it.")
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    known, _ = parser.parse_known_args(list(train_args))
    for package in known.gym_packages:
        importlib.import_module(package)
    pairs = [(algo, env_id) for env_id in dict.fromkeys(env_ids) for algo in dict.fromkeys(algos)]
    steps = {}
    for pair in pairs:
        check_pair(*pair)
        steps[pair] = n_timesteps_of(*pair, known.conf_file, n_steps)
    check_folder(logs)
    return [Job(*pair, seed, steps[pair], logs.absolute()) for seed in range(n_seeds) for pair in pairs]


def check_pair(algo: str, env_id: str) -> None:
    """
    Check that an algorithm can be resumed and that an environment exists.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :raises ValueError: if one of them does not exist
    """
    known = [key for key, algorithm in rl_zoo3.ALGOS.items() if issubclass(algorithm, OnPolicyAlgorithm)]
    if algo not in known:
        raise ValueError(f"{algo} is not an algo key whose runs can be resumed: choose from {', '.join(sorted(known))}.")
    require_package(env_id)
    if env_id not in gym.registry:
        raise ValueError(f"{env_id} is not registered in Gymnasium: add the package that does, -- --gym-packages PACKAGE.")


def n_timesteps_of(algo: str, env_id: str, conf_file: str | None, n_steps: int | None) -> int:
    """
    Look up the number of steps of a run.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :param conf_file: YAML file to use instead of the algo key's
    :param n_steps: Number of steps from the command line, if given
    :return: number of steps
    :raises ValueError: if there is no entry for the environment
    """
    if conf_file is not None and not conf_file.endswith((".yml", ".yaml")):
        if n_steps is None:
            raise ValueError(f"--conf-file {conf_file} is not a YAML file: give the number of steps with -n.")
        return n_steps
    path = Path(conf_file or find_config(algo, env_id) or Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml")
    try:
        entries = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: give a YAML file with -- --conf-file FILE.") from error
    atari = ExperimentManager.is_atari(env_id)
    entry = entries.get(env_id) or (entries.get("atari") if atari else None) or entries.get("default")
    if entry is None:
        raise ValueError(f"No hyperparameters for {env_id} in {path}: give your own file with -- --conf-file FILE.")
    return int(n_steps or entry["n_timesteps"])


def check_folder(logs: Path) -> None:
    """
    Create the log folder and check that files can be written to it.

    :param logs: Log folder
    :raises ValueError: if the folder cannot be written to
    """
    try:
        logs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=logs):
            pass
    except OSError as error:
        raise ValueError(f"{logs} cannot be written to ({error.strerror}): choose another folder with -f.") from error
