"""Load saved models and their environments, and find the best model.

Knows the Zoo's log folders. Must not know any feature or picture.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_snd.envs import require_package
from sb3_snd.ppo_snd.ppo_snd import PPOSND
from sb3_snd.report import published
from sb3_snd.report.read_logs import RunSummary, read_run
from sb3_snd.report.tables import last_reward
from sb3_snd.rewards.snd import SND
from sb3_snd.runs.checkpoint_files import normalizer_folder


class Model(NamedTuple):
    """A saved model with its path and environment."""

    path: Path
    algo: str  # algo key, or the name of the class if the model is outside a log folder
    env_id: str
    config: Path | None  # folder with the run's config.yml; None if the model is outside a log folder
    algorithm: BaseAlgorithm

    @property
    def snd(self) -> SND | None:
        """Return the model's ``SND``; None if it has none, or another reward, which may rate transitions only."""
        snd = getattr(self.algorithm, "snd", None)
        return snd if isinstance(snd, SND) else None


def load_models(paths: Sequence[Path], env_id: str | None, device: str) -> list[Model]:
    """
    Load models that were all trained in the same environment.

    :param paths: Files written by ``sb3-snd train`` or ``save``
    :param env_id: Gymnasium id, for models outside log folders; None if all are in log folders of the Zoo
    :param device: PyTorch device
    :return: the models
    :raises ValueError: if a file does not exist, no model has an ``SND``, or the environments differ
    """
    for path in paths:
        if not path.is_file():
            raise ValueError(f"The file {path} does not exist: give a zip file written by sb3-snd train or model.save.")
    # Checked before any model is loaded
    configs = {path: None if env_id else _find_config(path) for path in paths}
    models = [_load(path, config, env_id or "", device) for path, config in configs.items()]
    env_ids = sorted({model.env_id for model in models})
    if len(env_ids) > 1:
        raise ValueError(f"The models were trained in {' and '.join(env_ids)}: analyse one environment at a time.")
    if all(model.snd is None for model in models):
        raise ValueError("None of the models has an SND: give at least one of ppo_rnd or ppo_snd_*.")
    return models


def _find_config(path: Path) -> Path:
    """Return the folder with ``config.yml`` and ``args.yml`` of a model in one of the Zoo's log folders."""
    folders = [file.parent for file in path.parent.glob("*/config.yml") if (file.parent / "args.yml").is_file()]
    if len(folders) != 1:
        raise ValueError(
            f"{path} is not in a log folder of the Zoo (ALGO/ENV_1/ENV.zip next to ENV/config.yml): give the path that"
            " sb3-snd train wrote, or the environment with --env."
        )
    return folders[0]


def _args(config: Path) -> dict[str, Any]:
    import yaml  # requires an extra

    # Contains Python objects; as in the Zoo
    return yaml.load((config / "args.yml").read_text(), Loader=yaml.UnsafeLoader)


def _load(path: Path, config: Path | None, env_id: str, device: str) -> Model:
    if config is None:
        data, _, _ = load_from_zip_file(path, device=device)
        algorithm = PPOSND if data is not None and "snd_target" in data else PPO
        return Model(path, algorithm.__name__, env_id, None, algorithm.load(path, device=device, n_steps=1))
    import rl_zoo3  # requires an extra

    from sb3_snd.zoo.hyperparams import register

    algo, args = path.resolve().parent.parent.name, _args(config)
    register()
    if algo not in rl_zoo3.ALGOS:
        raise ValueError(f"{path} is in the folder of {algo!r}, which is not one of {', '.join(rl_zoo3.ALGOS)}: move it.")
    for package in args.get("gym_packages", []):  # packages with custom environments and targets
        importlib.import_module(package)
    # No rollout is collected, so its memory is not needed
    small: dict[str, Any] = {"n_steps" if issubclass(rl_zoo3.ALGOS[algo], OnPolicyAlgorithm) else "buffer_size": 1}
    return Model(path, algo, args["env"], config, rl_zoo3.ALGOS[algo].load(path, device=device, **small))


def short_labels(models: Sequence[Model]) -> list[str]:
    """
    Choose a short distinct label for each model.

    :param models: Models from different files
    :return: label of each model
    """
    names = published.names(model.algo for model in models)
    parts = [
        (names[model.algo], f"run {model.path.parent.name.rpartition('_')[2]}", model.path.stem)
        if model.config
        else (model.path.stem,)
        for model in models
    ]
    candidates = [[", ".join(part[:n]) for part in parts] for n in (1, 2, 3)] + [[str(model.path) for model in models]]
    return next(labels for labels in candidates if len(set(labels)) == len(labels))


def choose_collector(models: Sequence[Model]) -> tuple[int, str]:
    """
    Find the best model: the one with the highest mean reward in the last 5 % of its run's steps.

    :param models: At least one model
    :return: index of the best model, or 0 if no run has a monitor file; and the reason for the choice
    """
    rewards: dict[int, float] = {}
    for index, model in enumerate(models):
        run = read_run(model.path.parent) if any(model.path.parent.glob("*monitor.csv")) else None
        if isinstance(run, RunSummary):
            rewards[index] = last_reward(run)
    if not rewards:
        return 0, "it comes first, and no run has an episode in its monitor file to compare by"
    best = max(rewards, key=lambda index: rewards[index])
    reason = f"no other had a higher mean reward, {rewards[best]:.2f}, in the last 5 % of its run's steps"
    missing = len(models) - len(rewards)
    return best, reason + (f" ({missing} of {len(models)} have no episode to compare by)" if missing else "")


def make_env(model: Model, n_envs: int, seed: int) -> VecEnv:
    """
    Make the environment of a model's run from ordinary environments, wrapped as in ``rl_zoo3.enjoy``.

    :param model: A model
    :param n_envs: Number of environments
    :param seed: Seed of the environments
    :return: vector environment
    """
    require_package(model.env_id)
    if model.config is None:
        return make_vec_env(model.env_id, n_envs=n_envs, seed=seed)
    from rl_zoo3.utils import get_saved_hyperparams

    from sb3_snd.zoo.enjoy import make_test_env

    hyperparams, stats_path = get_saved_hyperparams(str(model.config), test_mode=True)
    env_kwargs = hyperparams.pop("env_kwargs", None)
    env_kwargs = _args(model.config).get("env_kwargs") or env_kwargs
    with normalizer_folder(model.path, stats_path) as folder:
        return make_test_env(
            model.env_id,
            n_envs=n_envs,
            stats_path=folder,
            seed=seed,
            should_render=False,
            hyperparams=hyperparams,
            env_kwargs=env_kwargs,
            vec_env_cls=DummyVecEnv,
        )
