"""The runs of a sweep from its command line, after everything that can be checked without starting one.

Knows the Zoo's algo keys, entries and command line; no Ray.
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

from sb3_snd import zoo
from sb3_snd.envs import require_package
from sb3_snd.sweep.runs import Run

#: arguments of ``train.py`` that the sweep gives itself, and what else would lead runs astray
OWN = {
    *("--algo", "--env", "--seed", "-n", "--n-timesteps", "-f", "--log-folder", "--save-freq", "--num-threads", "--resume"),
    *("-uuid", "--uuid", "-i", "--trained-agent", "-optimize", "--optimize-hyperparameters"),
}


def plan(
    algos: Sequence[str], env_ids: Sequence[str], n_seeds: int, n_steps: int | None, logs: Path, further: Sequence[str]
) -> list[Run]:
    """
    :param algos: Algo keys
    :param env_ids: Gymnasium ids
    :param n_seeds: Seeds are 0 to this number
    :param n_steps: Of each run; None: those of its entry
    :param logs: Log folder
    :param further: Arguments for ``train.py``
    :return: all runs, one seed after the other
    :raises ValueError: if there is something that ``train.py`` would refuse, or the folder cannot be written to
    """
    zoo.register()
    if n_seeds < 1:
        raise ValueError(f"--seeds {n_seeds}: give the number of seeds, 1 at least.")
    if n_steps is not None and n_steps < 1:
        raise ValueError(f"-n {n_steps}: a run has 1 step at least.")
    mine = sorted({argument.partition("=")[0] for argument in further} & OWN)
    if mine:
        raise ValueError(f"{mine[0]} after --: the sweep gives it to each run itself, leave it away.")
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    known, _ = parser.parse_known_args(list(further))
    for package in known.gym_packages:
        importlib.import_module(package)
    pairs = [(algo, env_id) for env_id in dict.fromkeys(env_ids) for algo in dict.fromkeys(algos)]
    steps = {pair: entry_steps(*pair, known.conf_file, n_steps) for pair in pairs}
    check_folder(logs)
    return [Run(*pair, seed, steps[pair], logs.absolute()) for seed in range(n_seeds) for pair in pairs]


def entry_steps(algo: str, env_id: str, conf_file: str | None, n_steps: int | None) -> int:
    """
    :param algo: Algo key
    :param env_id: Gymnasium id
    :param conf_file: YAML file instead of that of the algo key
    :param n_steps: Steps of a run, if they are given
    :return: steps of a run
    :raises ValueError: if there is no such algo key, environment or entry
    """
    known = [key for key, algorithm in rl_zoo3.ALGOS.items() if issubclass(algorithm, OnPolicyAlgorithm)]
    if algo not in known:
        raise ValueError(f"{algo} is no algo key whose runs can be resumed: choose from {', '.join(sorted(known))}.")
    require_package(env_id)
    if env_id not in gym.registry:
        raise ValueError(f"{env_id} is not registered in Gymnasium: name the package that does it, -- --gym-packages PACKAGE.")
    if conf_file is not None and not conf_file.endswith((".yml", ".yaml")):
        if n_steps is None:
            raise ValueError(f"--conf-file {conf_file} is no YAML file: give the number of steps with -n.")
        return n_steps
    path = Path(conf_file or zoo.find_config(algo, env_id) or Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml")
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
    :param logs: Log folder, which is made
    :raises ValueError: if nothing can be written to it
    """
    try:
        logs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=logs):
            pass
    except OSError as error:
        raise ValueError(f"{logs} cannot be written to ({error.strerror}): choose another folder with -f.") from error
