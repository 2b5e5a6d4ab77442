"""Integrate this package with the RL Zoo: algo keys, YAML lookup, native environments, logs and commands.

Knows rl_zoo3 and the layout of a run's log folder. Must not know any loss or network.
"""

import argparse
import contextlib
import importlib
import inspect
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import LoadMonitorResultsError
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.common.extras import require, require_or_exit

if __name__ == "__main__":  # before the imports that need rl_zoo3
    require_or_exit("rl_zoo3", "zoo")

# isort: split
from sb3_snd.common.memory import keep_freed_memory
from sb3_snd.envs import as_ordinary, make_atari_env, make_procgen_env, require_package
from sb3_snd.envs.ordinary import ATARI_WRAPPER, with_defaults
from sb3_snd.hyperparams_opt import convert_ppo_snd_params, sample_ppo_snd_params
from sb3_snd.ppo_snd.ppo_snd import PPOSND
from sb3_snd.ppo_snd.validation import check_discount
from sb3_snd.resumable import ResumableManager
from sb3_snd.rewards.snd import SND
from sb3_snd.runs.checkpoint_files import normalizer_folder
from sb3_snd.runs.learning_curve import plot_learning_curve
from sb3_snd.runs.monitor import StreamMonitor
from sb3_snd.runs.stop_request import StopRequest
from sb3_snd.runs.video import VecNoveltyStrip, VecVideoFile

require("rl_zoo3", "zoo")

import rl_zoo3  # noqa: E402
import rl_zoo3.train  # noqa: E402
import rl_zoo3.utils  # noqa: E402
import yaml  # noqa: E402
from rl_zoo3.exp_manager import ExperimentManager  # noqa: E402
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER  # noqa: E402
from rl_zoo3.utils import create_test_env, get_wrapper_class  # noqa: E402

ALGO_KEYS = ("ppo_baseline", "ppo_rnd", "ppo_snd_v", "ppo_snd_v_original", "ppo_snd_std", "ppo_snd_vic", "ppo_snd")
#: ``env_wrapper`` of a YAML entry (or, without one, the id's entry point) -> function that makes the native vector environment
NATIVE: dict[str, Callable[..., VecEnv]] = {
    ATARI_WRAPPER: make_atari_env,
    "sb3_snd.envs:ProcgenEnv": make_procgen_env,
}


def register() -> None:
    """Add the algo keys to the Zoo's tables. Must be called before its parsers read them."""
    for key in ALGO_KEYS:
        rl_zoo3.ALGOS[key] = PPOSND
        HYPERPARAMS_SAMPLER[key] = sample_ppo_snd_params
        HYPERPARAMS_CONVERTER[key] = convert_ppo_snd_params


def hyperparams_folder() -> Path:
    """
    Find the folder of this package's YAML files, in a wheel or in a checkout.

    :return: path of the folder
    """
    package = Path(__file__).parent
    return next(folder for folder in (package / "hyperparams", package.parent / "hyperparams") if folder.is_dir())


def find_config(algo: str, env_id: str) -> str | None:
    """
    Find the YAML file with the hyperparameters for an environment.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :return: this package's YAML file if it has an entry for the environment; None to use the Zoo's own file
    :raises ValueError: if the file of one of this package's algo keys has no entry for the environment
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
        f"No hyperparameters for {env_id} in {path.name}, which has {', '.join(sorted(entries))}:"
        " use --conf-file to give your own file."
    )


class SNDExperimentManager(ResumableManager):
    """
    The Zoo's manager with this package's YAML files, native vector environments and logs of both streams.

    :param args: Arguments of ``rl_zoo3.train``
    :param algo: Algo key
    :param env_id: Gymnasium id
    :param more: Additional positional arguments of ``ExperimentManager``
    :param kwargs: Additional keyword arguments of ``ExperimentManager``. Without ``config`` the YAML file is
        that of this package if it has an entry for the environment, else that of the Zoo
    """

    native = True  #: False if the user chose the Zoo's ordinary vector environments

    def __init__(self, args: argparse.Namespace, algo: str, env_id: str, *more: Any, **kwargs: Any) -> None:
        super().__init__(args, algo, env_id, *more, **kwargs)
        if kwargs.get("config") is None:
            self.config = find_config(algo, env_id) or self.config
        if self.tensorboard_log is None and not self.optimize_hyperparameters:
            self.tensorboard_log = self.save_path
        if self.entry_point(env_id) == "sb3_snd.envs:ProcgenEnv":
            self.deterministic_eval = (
                False  # as the Zoo does for Atari: a half-trained agent's most probable actions may loop forever
            )
        self.full_timesteps = 0
        self._native_env: Callable[..., VecEnv] | None = None
        self._native_kwargs: dict[str, Any] = {}
        self._ordinary: list[tuple[Any, dict[str, Any]]] = []  # wrapper, arguments: for training and for evaluation

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        See ``ExperimentManager.read_hyperparameters``. The command line changes single ``env_kwargs`` of the
        entry, which the Zoo would replace entirely, and evaluation environments use them, too. The saved
        hyperparameters are for ordinary environments, as made by the Zoo's other commands.

        :return: hyperparameters of the run; hyperparameters to save
        """
        given, self.env_kwargs = self.env_kwargs, {}
        hyperparams, saved = super().read_hyperparameters()
        entry, wrapper = hyperparams.get("env_kwargs") or {}, hyperparams.get("env_wrapper")
        env_kwargs, self.eval_env_kwargs = (
            with_defaults(wrapper, {**entry, **changed}) for changed in (given, self._eval_env_kwargs_args or given)
        )
        self._ordinary = [as_ordinary(self.env_name.gym_id, wrapper, kwargs) for kwargs in (env_kwargs, self.eval_env_kwargs)]
        if env_kwargs:
            hyperparams["env_kwargs"] = env_kwargs
            wrapper, ordinary = self._ordinary[0]
            # enjoy reads them from the saved arguments
            saved["env_kwargs"] = self.args.env_kwargs = ordinary
            if wrapper is not None:
                saved["env_wrapper"] = wrapper
        return hyperparams, saved

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        self.full_timesteps = int(hyperparams.get("n_timesteps", 0))
        wrapper = hyperparams.get("env_wrapper") or self.entry_point(self.env_name.gym_id)
        if isinstance(wrapper, list) and len(wrapper) == 1:
            wrapper = wrapper[0]
        name, kwargs = next(iter(wrapper.items())) if isinstance(wrapper, dict) else (wrapper, {})
        if self.native and isinstance(name, str) and name in NATIVE:
            self._native_env, self._native_kwargs = NATIVE[name], kwargs
        processed = super()._preprocess_hyperparams(hyperparams)
        if self._native_env is None:
            self.env_kwargs, self.eval_env_kwargs = (env_kwargs for _, env_kwargs in self._ordinary)
        if Path(self.config).parent == hyperparams_folder():  # some of the Zoo's own entries would be refused
            check_discount("gamma", processed[0].get("gamma", 0.99))
        if rl_zoo3.ALGOS[self.algo] is PPOSND:
            known = {*inspect.signature(PPOSND).parameters, *inspect.signature(PPO).parameters} - {"env", "kwargs"}
            known = {name for name in known if not name.startswith("_")}
            unknown = sorted(set(processed[0]) - known)
            if unknown:
                raise ValueError(f"Unknown hyperparameter {unknown[0]!r}: {self.algo} takes {', '.join(sorted(known))}.")
        return processed

    def create_log_folder(self) -> None:
        """Do nothing: :meth:`_save_config` creates the folder, so that nothing is written before the model exists."""

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        super().create_log_folder()
        super()._save_config(saved_hyperparams)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        See ``ExperimentManager.create_envs``. Only :class:`~sb3_snd.callbacks.StreamMonitor` writes a monitor
        file.

        :param n_envs: Number of environments
        :param eval_env: Whether the environments are for evaluation
        :param no_log: Unused
        :return: vector environment
        :raises ValueError: if an argument is not supported by the native environments
        """
        if self._native_env is None:
            self.env_wrapper = get_wrapper_class({"env_wrapper": self._ordinary[eval_env][0]})
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
            append = self._checkpoint is not None
            self.callbacks.append(StreamMonitor(self.save_path, self.env_name.gym_id, append))
            self.callbacks.append(FullRunTime(self.full_timesteps))

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        Save the model, draw its learning curve, and print the paths of all results.

        :param model: Trained model
        """
        super().save_trained_model(model)
        folder = Path(self.save_path)
        try:
            curve: Path | str = plot_learning_curve(folder)
        except (ImportError, OSError, LoadMonitorResultsError) as error:
            # A long run must not fail because of a picture
            curve = f"could not be drawn: {error}"
        lines = {
            "model": folder / f"{self.env_name}.zip",
            "monitor file": folder / "monitor.csv",
            "TensorBoard log": model.logger.dir or self.tensorboard_log,
            "learning curve": curve,
        }
        for name, place in lines.items():
            print(f"{name + ':':<17}{place}")


def make_test_env(
    env_id: str, *, hyperparams: dict[str, Any], env_kwargs: dict[str, Any] | None = None, **kwargs: Any
) -> VecEnv:
    """
    See ``rl_zoo3.create_test_env``. Atari and Procgen accept the arguments of native vector environments.

    :param env_id: Gymnasium id
    :param hyperparams: Saved hyperparameters of a run
    :param env_kwargs: Arguments of the environment
    :param kwargs: Additional arguments of ``rl_zoo3.create_test_env``
    :return: vector environment of ordinary environments
    :raises ValueError: if ordinary environments do not support an argument
    """
    wrapper, made = as_ordinary(env_id, hyperparams.get("env_wrapper"), env_kwargs or {})
    return create_test_env(env_id, hyperparams={**hyperparams, "env_wrapper": wrapper}, env_kwargs=made, **kwargs)


class FullRunTime(BaseCallback):
    """
    On a CPU, print once, after the first update, how long a full run would take with the current settings.

    :param full_timesteps: Number of steps in the YAML entry
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


@contextlib.contextmanager
def one_sentence(verbose: int) -> Iterator[None]:
    """
    Exit with the error's message instead of a traceback if an error is raised before training begins.

    :param verbose: Verbosity; from 2 on, all errors are passed through
    """
    try:
        yield
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        if SNDExperimentManager.began or verbose >= 2:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def train() -> None:
    """
    Run ``rl_zoo3.train`` with this package's algo keys, YAML files and environments. There is no evaluation
    by default.

    The additional flag ``--resume`` continues from the newest checkpoint of the same algo, environment and
    seed in the log folder. Without a checkpoint it starts the run. ``-n`` is the total number of steps.
    SIGTERM and SIGINT end the run after the current step and save a checkpoint.
    """
    register()
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--resume", action="store_true")
    asked, sys.argv[1:] = parser.parse_known_args()
    parser.add_argument("--vec-env")
    parser.add_argument("--env", default="")
    parser.add_argument("--verbose", type=int, default=1)
    known, _ = parser.parse_known_args()
    keep_freed_memory()  # here and not in PPOSND only, so that PPO benefits, too
    SNDExperimentManager.native, SNDExperimentManager.began = known.vec_env is None, False
    SNDExperimentManager.resume = asked.resume
    rl_zoo3.train.ExperimentManager = SNDExperimentManager  # type: ignore[misc]  # train() has no argument for it
    sys.argv[1:1] = ["--eval-freq", "-1"]  # first, so that the user's own value overrides it
    with one_sentence(known.verbose), StopRequest() as stop:
        SNDExperimentManager.stop = stop
        require_package(known.env)
        rl_zoo3.train.train()
    if stop.received == signal.SIGTERM:
        sys.exit(128 + signal.SIGTERM)


def enjoy() -> None:
    """
    Run ``rl_zoo3.enjoy`` with this package's algo keys on the folder that ``train`` writes to.

    Agents of on-policy algorithms sample their actions, as in training, unless ``--deterministic`` is given.
    There are two additional flags: ``--record FILE.mp4`` writes a video of the first ``-n`` steps instead of
    opening a window, and ``--novelty`` draws the novelty of each step below the frames of the video.
    """
    require_or_exit("requests", "zoo")  # rl_zoo3.enjoy imports it, but rl_zoo3 does not depend on it
    import rl_zoo3.enjoy

    register()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--novelty", action="store_true")
    known, sys.argv[1:] = parser.parse_known_args()
    parser = argparse.ArgumentParser(add_help=False)  # with abbreviations, as in rl_zoo3's parser
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("-n", "--n-timesteps", type=int, default=1000)
    parser.add_argument("--verbose", type=int, default=1)
    parser.parse_known_args(namespace=known)
    sys.argv[1:1] = ["--folder", "logs"]
    algorithm = rl_zoo3.ALGOS.get(known.algo)
    if algorithm is not None and issubclass(algorithm, OnPolicyAlgorithm) and not known.deterministic:
        sys.argv.append("--stochastic")
    SNDExperimentManager.began = False
    with one_sentence(known.verbose), own_statistics(rl_zoo3.enjoy), contextlib.ExitStack() as stack:
        if known.novelty and known.record is None:
            raise ValueError("--novelty draws into a video: add --record FILE.mp4.")
        if known.record is not None:
            if known.record.suffix != ".mp4":
                raise ValueError(f"--record {known.record}: the video is an mp4 file, choose a name that ends in .mp4.")
            require("moviepy", "zoo")
            sys.argv.append("--no-render")
            if known.algo in rl_zoo3.ALGOS:  # otherwise rl_zoo3's parser reports the error
                stack.enter_context(recording(known.record, known.n_timesteps, known.novelty, known.algo))
        rl_zoo3.enjoy.enjoy()


@contextlib.contextmanager
def own_statistics(*modules: ModuleType) -> Iterator[None]:
    """
    Make the Zoo use the statistics saved next to each model and the ``env_kwargs`` of its run, within this
    context. Some of the Zoo's commands do not read ``env_kwargs`` from ``config.yml``.

    :param modules: Further modules that have imported ``get_model_path`` and ``create_test_env``
    """
    utils = rl_zoo3.utils
    find = utils.get_model_path
    chosen = [Path()]

    def get_model_path(*args: Any, **kwargs: Any) -> tuple[str, str, str]:
        found = find(*args, **kwargs)
        chosen[0] = Path(found[1])
        return found

    def make_env(env_id: str, stats_path: str | None = None, **kwargs: Any) -> VecEnv:
        hyperparams = kwargs.pop("hyperparams", None) or {}
        env_kwargs = {**(hyperparams.pop("env_kwargs", None) or {}), **(kwargs.pop("env_kwargs", None) or {})}
        with normalizer_folder(chosen[0], stats_path) as folder:
            return make_test_env(env_id, hyperparams=hyperparams, env_kwargs=env_kwargs, stats_path=folder, **kwargs)

    own = {"get_model_path": get_model_path, "create_test_env": make_env}
    holders = [(module, name) for module in (utils, rl_zoo3, *modules) for name in own if name in vars(module)]
    with replaced([(module, name, own[name]) for module, name in holders]):
        yield


@contextlib.contextmanager
def replaced(changes: Sequence[tuple[ModuleType, str, Any]]) -> Iterator[None]:
    """
    Replace attributes of modules within this context.

    :param changes: module, name of the attribute, temporary value
    """
    before = [(module, name, vars(module)[name]) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextlib.contextmanager
def mended_hub() -> Iterator[None]:
    """
    Make the Zoo's scripts work with the installed Hugging Face packages, within this context. In these
    packages ``generate_metadata`` has another name and a missing file raises another error. Model cards name
    this package's commands, which know its algo keys.
    """
    import huggingface_sb3
    from huggingface_hub import errors, repocard
    from requests import HTTPError

    hub: Any = importlib.import_module("huggingface_sb3.push_to_hub")  # as an attribute, the name is a function
    load, save = huggingface_sb3.load_from_hub, repocard.metadata_save
    if not hasattr(hub, "generate_metadata"):
        hub.generate_metadata = lambda *args: hub._generate_metadata(*args).to_dict()

    def load_from_hub(repo_id: str, filename: str) -> str:
        try:
            return load(repo_id, filename)
        except errors.EntryNotFoundError as error:
            if filename == "vec_normalize.pkl":  # optional: the Zoo catches this error
                raise HTTPError(str(error)) from error
            raise ValueError(f"{filename} of {repo_id} could not be loaded: {str(error).splitlines()[0]}") from error

    def metadata_save(local_path: Path, data: dict[str, Any]) -> None:
        card = local_path.read_text(encoding="utf-8").replace("python -m rl_zoo3.", "python -m sb3_snd.zoo ")
        local_path.write_text(card.replace("pip install rl_zoo3", 'pip install "sb3-snd[all]"'), encoding="utf-8")
        save(local_path, data)

    with replaced([(huggingface_sb3, "load_from_hub", load_from_hub), (repocard, "metadata_save", metadata_save)]):
        yield


@contextlib.contextmanager
def recording(path: Path, n_steps: int, novelty: bool, algo: str) -> Iterator[None]:
    """
    Record what ``rl_zoo3.enjoy`` plays within this context as a video.

    :param path: Path of the video, ``*.mp4``
    :param n_steps: Maximum number of steps
    :param novelty: Whether to draw novelty below the frames
    :param algo: Algo key
    :raises ValueError: during playback, if ``novelty`` is True and the model has no ``SND``
    """
    import rl_zoo3.enjoy

    make_env, algorithm = rl_zoo3.enjoy.create_test_env, rl_zoo3.ALGOS[algo]
    loaded: list[BaseAlgorithm] = []

    class Remembered(algorithm):  # type: ignore[misc, valid-type]
        """Remember the loaded model: the environment is made first and needs the model's ``SND`` later."""

        @classmethod
        def load(cls, *args: Any, **kwargs: Any) -> BaseAlgorithm:
            loaded.append(algorithm.load(*args, **kwargs))
            return loaded[-1]

    def get_snd() -> SND:
        snd = getattr(loaded[-1], "snd", None)
        if snd is None:
            raise ValueError(f"A model of {algo} has no novelty to draw: remove --novelty.")
        return snd

    def create_recorded_env(env_id: str, **kwargs: Any) -> VecEnv:
        kwargs["env_kwargs"]["render_mode"] = "rgb_array"
        env = make_env(env_id, **kwargs)
        return VecVideoFile(VecNoveltyStrip(env, get_snd) if novelty else env, path, n_steps)

    rl_zoo3.enjoy.create_test_env, rl_zoo3.ALGOS[algo] = create_recorded_env, Remembered  # type: ignore[assignment]
    try:
        yield
    finally:
        rl_zoo3.enjoy.create_test_env, rl_zoo3.ALGOS[algo] = make_env, algorithm


def main() -> None:
    """
    Run a command of the Zoo, by default ``train``, with this package's algo keys:
    ``python -m sb3_snd.zoo COMMAND ...``.
    """
    command = "train"
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        command = sys.argv.pop(1)
    if command not in COMMANDS:
        sys.exit(f"{Path(sys.argv[0]).name}: unknown command {command!r}: choose from {', '.join(COMMANDS)}.")
    COMMANDS[command](command)


def run_script(name: str) -> None:
    """
    Run a command of the Zoo that is a module without a main function.

    :param name: Name of the module
    """
    require_or_exit("requests", "zoo")  # for the same reason as in enjoy
    register()
    if name == "record_video":
        sys.argv[1:1] = ["--folder", "logs"]  # same default as in enjoy
    SNDExperimentManager.began = False
    with one_sentence(verbose=1), own_statistics(), mended_hub():
        if name == "record_video":
            require("moviepy", "zoo")
        runpy.run_module(f"rl_zoo3.{name}", run_name="__main__")


def plot(name: str) -> None:
    """
    Run a plot command of the Zoo.

    :param name: Name of the function in ``rl_zoo3.plots``
    """
    with one_sentence(verbose=1):
        getattr(require("rl_zoo3.plots", "plots"), name)()


#: command of the Zoo -> function that runs it, called with the command's name
COMMANDS: dict[str, Callable[[str], None]] = {
    "train": lambda _: train(),
    "enjoy": lambda _: enjoy(),
    **dict.fromkeys(("record_video", "push_to_hub", "load_from_hub"), run_script),
    **dict.fromkeys(("plot_train", "plot_from_file", "all_plots"), plot),
}

if __name__ == "__main__":
    main()
