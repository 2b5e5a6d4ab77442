"""
The Zoo's manager for this package: YAML files, native vector environments, logs of both streams, runs that
can be resumed, and hyperparameter search.

Knows every step in which rl_zoo3 makes and trains a model, but no command line, loss or network.
"""

import argparse
import contextlib
import functools
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rl_zoo3
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_snd.envs import as_ordinary
from sb3_snd.envs.ordinary import with_defaults
from sb3_snd.envs.procgen import ENTRY_POINT
from sb3_snd.ppo_snd.ppo_snd import PPOSND
from sb3_snd.ppo_snd.validation import check_discount
from sb3_snd.runs.checkpoint_files import find_checkpoint, find_normalizer, save_atomically
from sb3_snd.runs.checkpoints import RunCheckpoint
from sb3_snd.runs.log_files import atomic_write, delete_event_files
from sb3_snd.runs.monitor import StreamMonitor
from sb3_snd.zoo import search
from sb3_snd.zoo.algo_keys import hyperparams_folder
from sb3_snd.zoo.command_line import Options
from sb3_snd.zoo.hyperparams import check_names, find_config, find_native_env
from sb3_snd.zoo.messages import FullRunTime, print_results
from sb3_snd.zoo.resume import check_unchanged, describe_fault, find_run, load_checkpoint


class SNDExperimentManager(ExperimentManager):
    """
    See ``rl_zoo3.exp_manager.ExperimentManager``. It differs from the Zoo's in this:

    - The YAML file is that of this package if it has an entry for the environment.
    - Atari and Procgen run in native vector environments unless ``options`` say otherwise.
    - Only :class:`~sb3_snd.runs.monitor.StreamMonitor` writes a monitor file, and a learning curve is drawn.
    - Runs of on-policy algorithms can be resumed after any interruption.
    - The search keeps the entry's nested ``snd_kwargs`` and ``policy_kwargs``, and trial 0 can be selected.

    :param args: Arguments of ``rl_zoo3.train``
    :param algo: Algo key
    :param env_id: Gymnasium id
    :param more: Additional positional arguments of ``ExperimentManager``
    :param options: Options of the command; ``began`` is set to True when training begins
    :param kwargs: Additional keyword arguments of ``ExperimentManager``
    :raises ValueError: if arguments contradict each other, or the YAML file has no entry for the environment
    """

    def __init__(
        self, args: argparse.Namespace, algo: str, env_id: str, *more: Any, options: Options | None = None, **kwargs: Any
    ) -> None:
        super().__init__(args, algo, env_id, *more, **kwargs)
        self.options = options or Options()
        self._check_arguments()
        self._trial_id, self.trial_id = self.trial_id, None  # loaded here, as the Zoo would ignore trial 0
        if kwargs.get("config") is None:
            self.config = find_config(algo, env_id) or self.config
        self._checkpoint: Path | None = None
        self._resumed: dict[str, Any] | None = None  # content of the checkpoint
        if self.options.resume:
            self._find_run()
        if self.tensorboard_log is None and not self.optimize_hyperparameters:
            self.tensorboard_log = self.save_path
        if self.entry_point(env_id) == ENTRY_POINT:  # as for Atari, where a half-trained agent may loop forever
            self.deterministic_eval = False
        self.full_timesteps = 0
        self._checkpoint_freq = 0
        self._saved_hyperparams: dict[str, Any] = {}
        self._native_env: Callable[..., VecEnv] | None = None
        self._ordinary: list[tuple[Any, dict[str, Any]]] = []  # (env_wrapper, env_kwargs): training, evaluation

    def _check_arguments(self) -> None:
        """Refuse numbers that the Zoo would ignore or divide by, and flags that contradict each other."""
        n_steps, interval = getattr(self.args, "n_timesteps", -1), getattr(self.args, "log_interval", -1)
        if n_steps < 1 and n_steps != -1:
            raise ValueError(f"-n {n_steps}: the number of steps must be >= 1; omit -n to use that of the YAML entry.")
        if interval == 0:
            raise ValueError("--log-interval 0: give the number of rollouts between two logs, or -2 to log nothing.")
        if self.trial_id is not None and not (self.storage and self.study_name):
            raise ValueError(f"--trial-id {self.trial_id} requires --storage and --study-name, which identify the study.")
        if self.options.resume and (self.continue_training or self.optimize_hyperparameters):
            raise ValueError("--resume cannot be combined with -i or -optimize: remove one of them.")
        if self.options.resume and not self._is_on_policy:
            raise ValueError(f"--resume is for on-policy algorithms, but {self.algo} uses a replay buffer: remove --resume.")

    @property
    def _is_on_policy(self) -> bool:
        return issubclass(rl_zoo3.ALGOS[self.algo], OnPolicyAlgorithm)

    @property
    def _is_ppo_snd(self) -> bool:
        return rl_zoo3.ALGOS[self.algo] is PPOSND

    @property
    def _identity(self) -> dict[str, Any]:
        return {"algo": self.algo, "environment": self.env_name.gym_id, "seed": self.seed}

    def _find_run(self) -> None:
        """Find the newest run with the given seed (any if none is given) and use its folder and seed."""
        found = find_run(Path(self.log_path), self.env_name, self.seed if self.options.seed_given else None)
        if found is None:
            print(f"--resume: there is no run of {self._identity} in {self.log_path}, so a new one starts.")
            return
        folder, self.seed = found
        self.args.seed = self.seed
        self.save_path, self.params_path = str(folder), str(folder / self.env_name)
        self._checkpoint, refused = find_checkpoint(folder, self._identity)
        print(*refused, f"--resume: {self._checkpoint or f'no checkpoint in {folder}, so the run restarts'}", sep="\n")
        self.continue_training = self._checkpoint is not None

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        See ``ExperimentManager.read_hyperparameters``. The command line changes single ``env_kwargs`` of the
        entry, which the Zoo would replace entirely, and evaluation environments use them, too. The saved
        hyperparameters are for ordinary environments, as made by the Zoo's other commands.

        :return: hyperparameters of the run; hyperparameters to save
        """
        given, self.env_kwargs = self.env_kwargs, {}
        hyperparams, saved = super().read_hyperparameters()
        if self._trial_id is not None:
            entry = search.evaluated(hyperparams) if self._is_ppo_snd else {}
            hyperparams.update({**search.load_trial(self, self._trial_id, entry), **(self.custom_hyperparams or {})})
            saved = OrderedDict(sorted(hyperparams.items()))
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
        self._saved_hyperparams = saved
        return hyperparams, saved

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        self.full_timesteps = int(hyperparams.get("n_timesteps", 0))
        if self.options.native:
            self._native_env = find_native_env(hyperparams.get("env_wrapper") or self.entry_point(self.env_name.gym_id))
        processed = super()._preprocess_hyperparams(search.evaluated(hyperparams))
        if self._native_env is None:
            self.env_kwargs, self.eval_env_kwargs = (env_kwargs for _, env_kwargs in self._ordinary)
        if Path(self.config).parent == hyperparams_folder():  # some of the Zoo's own entries would be refused
            check_discount("gamma", processed[0].get("gamma", 0.99))
        if self._is_ppo_snd:
            check_names(self.algo, processed[0])
        if self._checkpoint is not None:
            check_unchanged(Path(self.params_path) / "config.yml", self._saved_hyperparams)
        return processed

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        """See ``ExperimentManager``. The arguments in ``search.SCHEDULED`` accept schedules, too."""
        return search.with_all_schedules(ExperimentManager._preprocess_schedules(hyperparams))

    def setup_experiment(self) -> Any:
        """
        See ``ExperimentManager.setup_experiment``. The sampler of a search keeps nested values of the entry.

        :return: model and hyperparameters; None before a search
        """
        experiment = super().setup_experiment()
        if experiment is None and self._is_ppo_snd:
            HYPERPARAMS_SAMPLER[self.algo] = functools.partial(search.sample_ppo_snd_params, entry=self._hyperparams)
        return experiment

    def create_log_folder(self) -> None:
        """Do nothing: :meth:`_save_config` creates the folder, after all input has been checked."""

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        super().create_log_folder()
        if self.options.resume and self._checkpoint is None:
            delete_event_files(Path(self.save_path))  # of a run that restarts
        super()._save_config(saved_hyperparams)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        See ``ExperimentManager.create_envs``. No monitor file is written for single environments.

        :param n_envs: Number of environments
        :param eval_env: Whether the environments are for evaluation
        :param no_log: Unused
        :return: vector environment
        :raises ValueError: if an argument is not supported by the native environments
        """
        if self._native_env is None:
            self.env_wrapper = get_wrapper_class({"env_wrapper": self._ordinary[eval_env][0]})
            return super().create_envs(n_envs, eval_env, no_log=True)
        kwargs = {**(self.eval_env_kwargs if eval_env else self.env_kwargs), "n_stack": self.frame_stack or 1}
        try:
            env = self._native_env(self.env_name.gym_id, n_envs, seed=self.seed, **kwargs)
        except TypeError as error:
            raise ValueError(f"{error}: the native environments take fewer arguments; add --vec-env dummy.") from error
        if self.vec_env_wrapper is not None:
            env = self.vec_env_wrapper(env)
        return self._maybe_normalize(env, eval_env)

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        """See ``ExperimentManager``. A checkpoint (``-i``) gets its own statistics, not the final ones."""
        beside = find_normalizer(Path(self.trained_agent))
        if beside is None:
            return super()._maybe_normalize(env, eval_env)
        normalizer = VecNormalize.load(str(beside), env)
        if eval_env:
            normalizer.training = normalizer.norm_reward = False
        return normalizer

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        if self._checkpoint is None:
            return super()._load_pretrained_agent(hyperparams, env)
        model, self._resumed = load_checkpoint(
            self._checkpoint,
            rl_zoo3.ALGOS[self.algo],
            env,
            hyperparams,
            tensorboard_log=self.tensorboard_log,
            verbose=self.verbose,
            device=self.device,
            seed=self.seed,
        )
        return model

    def create_callbacks(self) -> None:
        """See ``ExperimentManager``; for on-policy algorithms, :meth:`learn` adds checkpoints."""
        if self._is_on_policy and not self.optimize_hyperparameters:
            self._checkpoint_freq, self.save_freq = max(0, self.save_freq), -1
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, CheckpointCallback):
                callback.save_vecnormalize = True
        if not self.optimize_hyperparameters:
            self.callbacks.append(StreamMonitor(self.save_path, self.env_name.gym_id, self._checkpoint is not None))
            self.callbacks.append(FullRunTime(self.full_timesteps))

    def learn(self, model: BaseAlgorithm) -> None:
        """
        See ``ExperimentManager.learn``. The total number of steps includes those before a run was resumed.

        :param model: Model to train
        """
        self.options.began = True
        if not isinstance(model, OnPolicyAlgorithm):
            super().learn(model)
            return
        folder, stop = Path(self.save_path), self.options.stop
        saver = RunCheckpoint(folder, self._checkpoint_freq, self.callbacks, self._identity, stop, self._resumed)
        self.callbacks.append(saver)
        kwargs: dict[str, Any] = {"callback": self.callbacks, "reset_num_timesteps": self._resumed is None}
        if self.log_interval != -1:  # same rule as in the Zoo
            kwargs["log_interval"] = self.log_interval if self.log_interval > -1 else None
        n_steps = self.n_timesteps if self._resumed is None else max(0, self.n_timesteps - model.num_timesteps)
        try:
            model.learn(n_steps, **kwargs)
        except KeyboardInterrupt:  # from the second SIGINT
            pass
        except Exception as error:
            sentence = describe_fault(error, model, saver) if self.options.verbose < 2 else None
            if sentence is None:
                raise
            sys.exit(f"{Path(sys.argv[0]).name}: {sentence}")
        finally:
            assert model.env is not None
            with contextlib.suppress(EOFError, OSError):  # a worker process has died
                model.env.close()

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        See ``ExperimentManager.save_trained_model``. Model and statistics are written atomically, and the
        paths of all results are printed.

        :param model: Trained model
        """
        folder = Path(self.save_path)
        print(f"Saving to {folder}")
        save_atomically(model, folder / f"{self.env_name}.zip")
        if self.save_replay_buffer and hasattr(model, "save_replay_buffer"):
            model.save_replay_buffer(folder / "replay_buffer.pkl")
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:
            with atomic_write(Path(self.params_path) / "vecnormalize.pkl") as file:
                pickle.dump(normalizer, file)
        print_results(folder, self.env_name, model.logger.dir or self.tensorboard_log)
