"""What the RL Zoo needs to know of this package: algo keys, YAML lookup, native environments, logs.

Knows rl_zoo3 and how a run is laid out in its log folder; no loss, no network.
"""

import argparse
import contextlib
import ctypes
import inspect
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import LoadMonitorResultsError
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_wrapper

from sb3_snd.callbacks import StreamMonitor
from sb3_snd.envs import make_atari_env
from sb3_snd.extras import require
from sb3_snd.ppo_snd import PPOSND, check_discount
from sb3_snd.snd import check_minibatch
from sb3_snd.wrappers import VecIntrinsicReward

require("rl_zoo3", "zoo")

import rl_zoo3  # noqa: E402
import rl_zoo3.train  # noqa: E402
from rl_zoo3.exp_manager import ExperimentManager  # noqa: E402
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER  # noqa: E402

ALGO_KEYS = ("ppo_rnd", "ppo_snd_v", "ppo_snd_std", "ppo_snd_vic", "ppo_snd")
#: per-environment wrapper of a YAML entry -> the same preprocessing for all environments at once
NATIVE: dict[str, Callable[..., VecEnv]] = {"sb3_snd.envs.AtariWrapper": make_atari_env}


def register() -> None:
    """Add the algo keys to the Zoo's shared table, before its parsers read it."""
    for key in ALGO_KEYS:
        rl_zoo3.ALGOS[key] = PPOSND
        HYPERPARAMS_SAMPLER[key] = HYPERPARAMS_SAMPLER["ppo"]
        HYPERPARAMS_CONVERTER[key] = HYPERPARAMS_CONVERTER["ppo"]


def hyperparams_folder() -> Path:
    """
    :return: the folder of this package's YAML files, in a wheel or in a checkout
    """
    package = Path(__file__).parent
    return next(folder for folder in (package / "hyperparams", package.parent / "hyperparams") if folder.is_dir())


def find_config(algo: str, env_id: str) -> str | None:
    """
    :param algo: Algo key
    :param env_id: Gymnasium id
    :return: this package's YAML file, if it has an entry for the environment; else None, the Zoo's own file
    """
    path = hyperparams_folder() / f"{algo}.yml"
    if not path.is_file():
        return None
    entries = yaml.safe_load(path.read_text())
    if env_id in entries or ExperimentManager.is_atari(env_id):
        return str(path)
    if algo not in ALGO_KEYS:
        return None
    raise ValueError(
        f"No hyperparameters for {env_id} in {path.name}: it has {', '.join(sorted(entries))};"
        " give your own file with --conf-file."
    )


class SNDExperimentManager(ExperimentManager):
    """
    The Zoo's manager with this package's YAML files, native vector environments, and logs of both streams.

    :param args: Arguments of ``rl_zoo3.train``
    :param algo: Algo key
    :param env_id: Gymnasium id
    :param more: Further arguments of ``ExperimentManager``, by position
    :param kwargs: Further arguments of ``ExperimentManager``, by name; without ``config`` the YAML file is this
        package's, where it has the environment, else the Zoo's
    """

    native = True  #: False where the user chose the Zoo's ordinary vector environments
    began = False  #: whether a run got past its checks

    def __init__(self, args: argparse.Namespace, algo: str, env_id: str, *more: Any, **kwargs: Any) -> None:
        super().__init__(args, algo, env_id, *more, **kwargs)
        if kwargs.get("config") is None:
            self.config = find_config(algo, env_id) or self.config
        if self.tensorboard_log is None and not self.optimize_hyperparameters:
            self.tensorboard_log = self.save_path
        self.full_timesteps = 0
        self._native_env: Callable[..., VecEnv] | None = None
        self._native_kwargs: dict[str, Any] = {}

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        self.full_timesteps = int(hyperparams.get("n_timesteps", 0))
        wrapper = hyperparams.get("env_wrapper")
        if isinstance(wrapper, list) and len(wrapper) == 1:
            wrapper = wrapper[0]
        name, kwargs = next(iter(wrapper.items())) if isinstance(wrapper, dict) else (wrapper, {})
        if self.native and isinstance(name, str) and name in NATIVE:
            self._native_env, self._native_kwargs = NATIVE[name], kwargs
        processed = super()._preprocess_hyperparams(hyperparams)
        if Path(self.config).parent == hyperparams_folder():  # the Zoo's own entries are not all that strict
            check_discount("gamma", processed[0].get("gamma", 0.99))
            if "batch_size" in processed[0] and "n_steps" in processed[0]:
                check_minibatch(processed[0]["batch_size"], processed[0]["n_steps"] * self.n_envs)
        if rl_zoo3.ALGOS[self.algo] is PPOSND:
            known = {*inspect.signature(PPOSND).parameters, *inspect.signature(PPO).parameters} - {"env", "kwargs"}
            known = {name for name in known if not name.startswith("_")}
            unknown = sorted(set(processed[0]) - known)
            if unknown:
                raise ValueError(f"Unknown hyperparameter {unknown[0]!r}: {self.algo} takes {', '.join(sorted(known))}.")
        return processed

    def create_log_folder(self) -> None:
        """Nothing is written before the model exists; see :meth:`_save_config`."""

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        super().create_log_folder()
        super()._save_config(saved_hyperparams)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        See ``ExperimentManager.create_envs``; :class:`~sb3_snd.callbacks.StreamMonitor` writes the one monitor file.

        :param n_envs: Number of environments
        :param eval_env: Whether it is for evaluation
        :param no_log: Unused
        :return: the environments
        """
        env = self._create_envs(n_envs, eval_env)
        wrapper = unwrap_vec_wrapper(env, VecIntrinsicReward)
        if eval_env and wrapper is not None:
            wrapper.training = False
        return env

    def _create_envs(self, n_envs: int, eval_env: bool) -> VecEnv:
        if self._native_env is None:
            return super().create_envs(n_envs, eval_env, no_log=True)
        env_kwargs = self.eval_env_kwargs if eval_env else self.env_kwargs
        kwargs = {**self._native_kwargs, **env_kwargs, "n_stack": self.frame_stack or 1}
        try:
            env = self._native_env(self.env_name.gym_id, n_envs, seed=self.seed, **kwargs)
        except TypeError as error:
            raise ValueError(f"{error}: the native environments take fewer arguments; add --vec-env dummy.") from error
        if self.vec_env_wrapper is not None:
            env = self.vec_env_wrapper(env)
        return self._maybe_normalize(env, eval_env)

    def create_callbacks(self) -> None:
        super().create_callbacks()
        if not self.optimize_hyperparameters:
            self.callbacks.append(StreamMonitor(self.save_path, self.env_name.gym_id))
            self.callbacks.append(FullRunTime(self.full_timesteps))

    def learn(self, model: BaseAlgorithm) -> None:
        """
        See ``ExperimentManager.learn``.

        :param model: The model to train
        """
        type(self).began = True
        super().learn(model)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        Save the model, draw its learning curve, and say where everything lies.

        :param model: The trained model
        """
        super().save_trained_model(model)
        folder = Path(self.save_path)
        try:
            curve: Path | str = plot_learning_curve(folder)
        except (
            ImportError,
            OSError,
            LoadMonitorResultsError,
        ) as error:  # a long run must not end in an error for want of a picture
            curve = f"not drawn: {error}"
        lines = {
            "model": folder / f"{self.env_name}.zip",
            "monitor file": folder / "monitor.csv",
            "TensorBoard log": model.logger.dir or self.tensorboard_log,
            "learning curve": curve,
        }
        for name, place in lines.items():
            print(f"{name + ':':<17}{place}")


class FullRunTime(BaseCallback):
    """
    On a CPU, says once, after the first update, how long all steps of the YAML entry take with the settings of this run.

    :param full_timesteps: Its length in steps
    """

    def __init__(self, full_timesteps: int) -> None:
        super().__init__()
        self.full_timesteps = full_timesteps
        self._said = False
        self._first_step = 0
        self._began = 0.0

    def _on_rollout_start(self) -> None:
        if self._began == 0.0:
            self._began, self._first_step = time.time(), self.num_timesteps
        elif not self._said and self.model.device.type == "cpu":
            speed = (self.num_timesteps - self._first_step) / (time.time() - self._began)
            days = self.full_timesteps / speed / 86400
            steps = f"{self.full_timesteps:,} steps"
            print(
                f"At {speed:.0f} steps/s on this CPU, a full run of {steps} with these settings takes about {days:.1f} days."
            )
            self._said = True

    def _on_step(self) -> bool:
        return True


def plot_learning_curve(folder: Path) -> Path:
    """
    Draw score and intrinsic return of the finished episodes, and the mean novelty of each rollout.

    :param folder: A run's folder with ``monitor.csv`` and ``progress.csv``
    :return: the picture, ``learning_curve.png``
    :raises ImportError: if matplotlib or pandas is missing, naming the extra
    """
    require("matplotlib", "plots")
    require("pandas", "plots")
    import pandas
    from matplotlib.figure import Figure
    from stable_baselines3.common.monitor import load_results
    from stable_baselines3.common.results_plotter import window_func

    episodes = load_results(str(folder))
    logged = (folder / "progress.csv").stat().st_size > 0  # not if the run ended before the first line of the log
    progress = pandas.read_csv(folder / "progress.csv") if logged else pandas.DataFrame()
    figure = Figure(figsize=(7, 8), layout="constrained")
    axes = figure.subplots(3)
    for axis, key, label in ((axes[0], "r", "score of an episode"), (axes[1], "r_int", "intrinsic return of an episode")):
        axis.set(xlabel="environment steps of finished episodes", ylabel=label)
        if episodes.empty:  # then it has not even the column
            axis.set_title("no episode has ended yet", fontsize="small")
            continue
        steps, values = episodes["l"].cumsum().to_numpy(), episodes[key].to_numpy()
        axis.plot(steps, values, ".", alpha=0.4, label="episodes")
        window = min(100, (len(values) + 1) // 2)
        axis.plot(*window_func(steps, values, window, np.mean), label=f"mean of {window}")
        axis.legend()
    if "rollout/novelty_mean" in progress:
        axes[2].plot(progress["time/total_timesteps"], progress["rollout/novelty_mean"], ".-")
    axes[2].set(ylabel="mean novelty of a rollout", xlabel="environment steps")
    figure.suptitle(folder.name)
    path = folder / "learning_curve.png"
    figure.savefig(path, dpi=120)
    return path


def keep_freed_memory() -> None:
    """
    Let glibc keep what tensors free. By default it gives large blocks back to the kernel at once, which then zeroes
    them anew, page by page, for every minibatch: more than half the time of an update on a CPU.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for a large request
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep the top of the heap


@contextlib.contextmanager
def one_sentence(verbose: int) -> Iterator[None]:
    """
    End in the error's message instead of a traceback, until training has begun.

    :param verbose: From 2 on, errors pass through
    """
    try:
        yield
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        if SNDExperimentManager.began or verbose >= 2:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def train() -> None:
    """Run ``rl_zoo3.train`` with the algo keys, YAML files and environments of this package; no evaluation unless asked."""
    register()
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--vec-env")
    parser.add_argument("--env", default="")
    parser.add_argument("--verbose", type=int, default=1)
    known, _ = parser.parse_known_args()
    keep_freed_memory()
    SNDExperimentManager.native, SNDExperimentManager.began = known.vec_env is None, False
    rl_zoo3.train.ExperimentManager = SNDExperimentManager  # type: ignore[misc]  # the seam that train() leaves
    sys.argv[1:1] = ["--eval-freq", "-1"]  # what the user says comes later and wins
    with one_sentence(known.verbose):
        if known.env.startswith("procgen-"):
            raise ValueError(f"{known.env}: the Procgen environments are not part of this version yet.")
        if known.env.startswith("ALE/") or "NoFrameskip-v" in known.env:
            require("ale_py", "atari")
        rl_zoo3.train.train()


def enjoy() -> None:
    """Run ``rl_zoo3.enjoy`` with the algo keys of this package, on the folder that ``train`` writes to."""
    require("requests", "zoo")  # rl_zoo3.enjoy imports it without requiring it
    import rl_zoo3.enjoy

    register()
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--verbose", type=int, default=1)
    verbose = parser.parse_known_args()[0].verbose
    sys.argv[1:1] = ["--folder", "logs"]
    SNDExperimentManager.began = False
    with one_sentence(verbose):
        rl_zoo3.enjoy.enjoy()


if __name__ == "__main__":
    train()
