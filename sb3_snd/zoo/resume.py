"""Resume a run of the Zoo: find its folder, check that it is the same run, restore its model, and describe
its faults.

Knows the Zoo's log folders and our checkpoints. Must not know any manager, environment or YAML file.
"""

from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.runs.checkpoint_files import find_checkpoint
from sb3_snd.runs.checkpoints import RunCheckpoint
from sb3_snd.runs.fault_messages import describe, needed_memory
from sb3_snd.runs.resume import load_run
from sb3_snd.zoo.search import evaluated


def find_run(log_path: Path, env_name: str, seed: int | None) -> tuple[Path, int] | None:
    """
    Find the newest run of an environment. A run whose process has not yet written its arguments, or was killed while
    it did, is passed over.

    :param log_path: Log folder of the algo key
    :param env_name: Name of the environment in file names
    :param seed: Seed of the run; None for any
    :return: folder of the run and its seed; None if there is no such run
    """
    paths = sorted(log_path.glob(f"{env_name}_*/{env_name}/args.yml"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        found = _read_seed(path)
        if found is not None and seed in (None, found):
            return path.parent.parent, found
    return None


def _read_seed(path: Path) -> int | None:
    try:
        return int(yaml.load(path.read_text(), Loader=yaml.UnsafeLoader)["seed"])  # as the Zoo reads its own files
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        return None  # empty or cut off


def check_unchanged(before: Path, now: dict[str, Any]) -> None:
    """
    Check that a run is resumed with the hyperparameters that it was started with.

    :param before: The run's ``config.yml``
    :param now: Hyperparameters to save
    :raises ValueError: if one differs; the number of steps may
    """
    old, new = evaluated(yaml.load(before.read_text(), Loader=yaml.UnsafeLoader)), evaluated(now)
    for name in sorted({*old, *new} - {"n_timesteps"}):
        if old.get(name) != new.get(name):
            raise ValueError(
                f"--resume: {name} was {old.get(name)!r} and is {new.get(name)!r}:"
                " use the hyperparameters of the run, or start a new run without --resume."
            )


def load_checkpoint(
    checkpoint: Path, algorithm: type[BaseAlgorithm], env: VecEnv, hyperparams: dict[str, Any], **kwargs: Any
) -> tuple[BaseAlgorithm, dict[str, Any]]:
    """
    Restore a run and print where it continues.

    :param checkpoint: Path of the checkpoint
    :param algorithm: Class of the model
    :param env: New environment
    :param hyperparams: Arguments of the algorithm; the saved policy replaces theirs
    :param kwargs: Additional arguments of :func:`~sb3_snd.runs.resume.load_run`
    :return: model; value for ``resumed`` of ``RunCheckpoint``
    """
    given = {name: value for name, value in hyperparams.items() if name not in ("policy", "policy_kwargs")}
    model, resumed, reason = load_run(checkpoint, algorithm, env, **kwargs, **given)
    print(f"--resume: continues at step {model.num_timesteps:,}.", f"All episodes restart: {reason}." if reason else "")
    return model, resumed


def describe_fault(error: Exception, model: Any, saver: RunCheckpoint) -> str | None:
    """
    Describe a fault in one sentence, after saving a checkpoint of the state before it if that is possible.

    :param error: Error raised by the training
    :param model: Model that was trained
    :param saver: Callback that writes the run's checkpoints
    :return: the fault and the checkpoint to continue from; None if the error is not a known fault
    """
    sentence = describe(error, lambda: needed_memory(model))
    if sentence is None:
        return None
    steps = model.num_timesteps
    try:
        saved = None if getattr(error, "poisoned", False) else saver.save_after_fault()
    except (OSError, NonFiniteError):
        saved = None
    last = saved or find_checkpoint(saver.folder, saver.identity)[0]
    state = f"the state before is in {last}, use --resume to continue" if last else "there is no checkpoint yet"
    return f"after {steps:,} steps {sentence}; {state}."
