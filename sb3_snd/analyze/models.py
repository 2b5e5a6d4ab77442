"""Saved models, which of them is the best, and the environments that they were trained in.

Knows the Zoo's log folders; no feature, no picture.
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

from sb3_snd.checkpoints import normalizer_folder
from sb3_snd.envs import require_package
from sb3_snd.ppo_snd import PPOSND
from sb3_snd.report import published
from sb3_snd.report.runs import Run, read_run
from sb3_snd.report.tables import last_reward
from sb3_snd.snd import SND


class Model(NamedTuple):
    """A saved model, where it lies, and its environment."""

    path: Path
    algo: str  # algo key, or the name of the class where there is no log folder
    env_id: str
    config: Path | None  # the folder of the run's config.yml, None where there is no log folder
    algorithm: BaseAlgorithm

    @property
    def snd(self) -> SND | None:
        """Its nets, None where it has none."""
        return getattr(self.algorithm, "snd", None)


def load_models(paths: Sequence[Path], env_id: str | None, device: str) -> list[Model]:
    """
    :param paths: What ``train.py`` or ``save`` wrote
    :param env_id: Gymnasium id of models that lie in no log folder; None: all lie in log folders of the Zoo
    :param device: PyTorch device
    :return: the models
    :raises ValueError: if there is no such file, none has an SND, or they are of several environments
    """
    for path in paths:
        if not path.is_file():
            raise ValueError(f"There is no file {path}: give the zip that train.py or model.save wrote.")
    configs = {path: None if env_id else _find_config(path) for path in paths}  # all of them before the first is loaded
    models = [_load(path, config, env_id or "", device) for path, config in configs.items()]
    env_ids = sorted({model.env_id for model in models})
    if len(env_ids) > 1:
        raise ValueError(f"These models are of {' and '.join(env_ids)}: analyse those of one environment at a time.")
    if all(model.snd is None for model in models):
        raise ValueError("None of the models has an SND: give one of ppo_rnd or ppo_snd at least.")
    return models


def _find_config(path: Path) -> Path:
    """:return: the folder of ``config.yml`` and ``args.yml``, as the Zoo lays it out"""
    folders = [file.parent for file in path.parent.glob("*/config.yml") if (file.parent / "args.yml").is_file()]
    if len(folders) != 1:
        raise ValueError(
            f"{path} lies in no log folder of the Zoo (ALGO/ENV_1/ENV.zip beside ENV/config.yml): give it where train.py"
            " wrote it, or say its environment with --env."
        )
    return folders[0]


def _args(config: Path) -> dict[str, Any]:
    import yaml  # needs an extra

    return yaml.load((config / "args.yml").read_text(), Loader=yaml.UnsafeLoader)  # as the Zoo does: it holds Python objects


def _load(path: Path, config: Path | None, env_id: str, device: str) -> Model:
    if config is None:
        data, _, _ = load_from_zip_file(path, device=device)
        algorithm = PPOSND if data is not None and "snd_target" in data else PPO
        return Model(path, algorithm.__name__, env_id, None, algorithm.load(path, device=device, n_steps=1))
    from sb3_snd import zoo  # needs an extra

    algo, args = path.resolve().parent.parent.name, _args(config)
    zoo.register()
    if algo not in zoo.rl_zoo3.ALGOS:
        raise ValueError(f"{path} lies in the folder of {algo!r}, which is none of {', '.join(zoo.rl_zoo3.ALGOS)}: move it.")
    for package in args.get("gym_packages", []):  # environments and targets of one's own
        importlib.import_module(package)
    # no rollout is collected, so none needs its room
    small: dict[str, Any] = {"n_steps" if issubclass(zoo.rl_zoo3.ALGOS[algo], OnPolicyAlgorithm) else "buffer_size": 1}
    return Model(path, algo, args["env"], config, zoo.rl_zoo3.ALGOS[algo].load(path, device=device, **small))


def names(models: Sequence[Model]) -> list[str]:
    """
    :param models: Any number of different files
    :return: a name for each, as short as tells them apart
    """
    called = published.names(model.algo for model in models)
    parts = [
        (called[model.algo], f"run {model.path.parent.name.rpartition('_')[2]}", model.path.stem)
        if model.config
        else (model.path.stem,)
        for model in models
    ]
    candidates = [[", ".join(part[:n]) for part in parts] for n in (1, 2, 3)] + [[str(model.path) for model in models]]
    return next(names for names in candidates if len(set(names)) == len(names))


def choose_collector(models: Sequence[Model]) -> tuple[int, str]:
    """
    The best model is that of the highest mean reward in the last 5 % of its run's steps.

    :param models: One at least
    :return: which one is the best, or the first where no run has a monitor file; and why
    """
    rewards: dict[int, float] = {}
    for index, model in enumerate(models):
        run = read_run(model.path.parent) if any(model.path.parent.glob("*monitor.csv")) else None
        if isinstance(run, Run):
            rewards[index] = last_reward(run)
    if not rewards:
        return 0, "it comes first, and no run has an episode in its monitor file to compare by"
    best = max(rewards, key=lambda index: rewards[index])
    reason = f"no other had a higher mean reward, {rewards[best]:.2f}, in the last 5 % of its run's steps"
    missing = len(models) - len(rewards)
    return best, reason + (f" ({missing} of {len(models)} have no episode to compare by)" if missing else "")


def make_env(model: Model, n_envs: int, seed: int) -> VecEnv:
    """
    :param model: A model
    :param n_envs: Number of environments
    :param seed: Of the environments
    :return: ordinary environments of the model's run, wrapped as there, as ``rl_zoo3.enjoy`` makes them
    """
    require_package(model.env_id)
    if model.config is None:
        return make_vec_env(model.env_id, n_envs=n_envs, seed=seed)
    from rl_zoo3.utils import get_saved_hyperparams

    from sb3_snd.zoo import make_test_env

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
