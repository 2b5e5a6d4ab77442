"""Make the Zoo's runs resumable: ``train.py --resume``, signals, and faults reported in one sentence.

Knows rl_zoo3's manager, its log folders and checkpoints. Must not know any environment or YAML file.
"""

import argparse
import contextlib
import pickle
import sys
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.common.extras import require
from sb3_snd.hyperparams_opt import SearchManager, evaluated
from sb3_snd.runs.checkpoint_files import find_checkpoint, find_normalizer, save_atomically
from sb3_snd.runs.checkpoints import RunCheckpoint
from sb3_snd.runs.fault_messages import describe, needed_memory
from sb3_snd.runs.log_files import atomic_write, delete_event_files
from sb3_snd.runs.resume import load_run
from sb3_snd.runs.stop_request import StopRequest

require("rl_zoo3", "zoo")

import rl_zoo3  # noqa: E402
import yaml  # noqa: E402


class ResumableManager(SearchManager):
    """
    The Zoo's manager for runs of on-policy algorithms that can be resumed after any interruption.

    :param args: Arguments of ``rl_zoo3.train``
    :param algo: Algo key
    :param env_id: Gymnasium id
    :param more: Additional positional arguments of ``ExperimentManager``
    :param kwargs: Additional keyword arguments of ``ExperimentManager``
    """

    began = False  #: whether a run has passed its checks
    resume = False  #: whether to resume a run of the same algo, environment and seed
    stop: StopRequest | None = None  #: request to end the run

    def __init__(self, args: argparse.Namespace, algo: str, env_id: str, *more: Any, **kwargs: Any) -> None:
        super().__init__(args, algo, env_id, *more, **kwargs)
        self._check_numbers()
        self._checkpoint: Path | None = None
        self._resumed: dict[str, Any] | None = None
        self._save_freq = 0
        if self.resume:
            self._find_run()

    def _check_numbers(self) -> None:
        """Refuse numbers that the Zoo would silently ignore, or divide by."""
        n_steps, interval = getattr(self.args, "n_timesteps", -1), getattr(self.args, "log_interval", -1)
        if n_steps < 1 and n_steps != -1:
            raise ValueError(f"-n {n_steps}: the number of steps must be >= 1; omit -n to use that of the YAML entry.")
        if interval == 0:
            raise ValueError("--log-interval 0: give the number of rollouts between two logs, or -2 to log nothing.")

    @property
    def _identity(self) -> dict[str, Any]:
        return {"algo": self.algo, "environment": self.env_name.gym_id, "seed": self.seed}

    def _find_run(self) -> None:
        """Find the newest run with the given seed (any if none is given) and use its folder and seed."""
        if self.continue_training or self.optimize_hyperparameters:
            raise ValueError("--resume cannot be combined with -i or -optimize: remove one of them.")
        if not issubclass(rl_zoo3.ALGOS[self.algo], OnPolicyAlgorithm):
            raise ValueError(f"--resume is for on-policy algorithms, but {self.algo} uses a replay buffer: remove --resume.")
        runs = Path(self.log_path).glob(f"{self.env_name}_*/{self.env_name}/args.yml")
        for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True):
            seed = yaml.load(path.read_text(), Loader=yaml.UnsafeLoader)["seed"]
            if seed == self.seed or not any(argument.split("=")[0] == "--seed" for argument in sys.argv):
                self.seed = self.args.seed = seed
                self.save_path, self.params_path = str(path.parent.parent), str(path.parent)
                break
        else:
            print(f"--resume: there is no run of {self._identity} in {self.log_path}, so a new one starts.")
            return
        self._checkpoint, refused = find_checkpoint(Path(self.save_path), self._identity)
        print(*refused, f"--resume: {self._checkpoint or f'no checkpoint in {self.save_path}, so the run restarts'}", sep="\n")
        self.continue_training = self._checkpoint is not None
        if self._checkpoint is None:
            delete_event_files(Path(self.save_path))

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        """See ``ExperimentManager``. A checkpoint (``-i``) gets its own statistics, not the final ones or none."""
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
        given = {name: value for name, value in hyperparams.items() if name not in ("policy", "policy_kwargs")}
        model, self._resumed, reason = load_run(
            self._checkpoint,
            rl_zoo3.ALGOS[self.algo],
            env,
            tensorboard_log=self.tensorboard_log,
            verbose=self.verbose,
            device=self.device,
            seed=self.seed,
            **given,
        )
        print(f"--resume: continues at step {model.num_timesteps:,}.", f"All episodes restart: {reason}." if reason else "")
        return model

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        """
        See ``ExperimentManager``. Also check that the hyperparameters of a resumed run have not changed: this
        is the last method called before a model is loaded that knows the hyperparameters to be saved.
        """
        if self._checkpoint is not None:
            before = yaml.load((Path(self.params_path) / "config.yml").read_text(), Loader=yaml.UnsafeLoader)
            before, now = evaluated(before), evaluated(saved_hyperparams)
            for name in sorted({*before, *now} - {"n_timesteps"}):
                if before.get(name) != now.get(name):
                    raise ValueError(
                        f"--resume: {name} was {before.get(name)!r} and is {now.get(name)!r}:"
                        " use the hyperparameters of the run, or start a new run without --resume."
                    )
        return super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)

    def create_callbacks(self) -> None:
        """See ``ExperimentManager.create_callbacks``. :meth:`learn` adds checkpoints for on-policy algorithms."""
        on_policy = issubclass(rl_zoo3.ALGOS[self.algo], OnPolicyAlgorithm) and not self.optimize_hyperparameters
        if on_policy:
            self._save_freq, self.save_freq = max(0, self.save_freq), -1
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, CheckpointCallback):
                callback.save_vecnormalize = True

    def learn(self, model: BaseAlgorithm) -> None:
        """
        See ``ExperimentManager.learn``. The total number of steps includes those before a run was resumed.

        :param model: Model to train
        """
        type(self).began = True
        if not isinstance(model, OnPolicyAlgorithm):
            super().learn(model)
            return
        folder = Path(self.save_path)
        saver = RunCheckpoint(folder, self._save_freq, self.callbacks, self._identity, self.stop, self._resumed)
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
            self._explain(error, model, saver)
            raise
        finally:
            assert model.env is not None
            with contextlib.suppress(EOFError, OSError):  # a worker process has died
                model.env.close()

    def _explain(self, error: Exception, model: OnPolicyAlgorithm, saver: RunCheckpoint) -> None:
        """Save a checkpoint if possible and end the process with one sentence about the fault."""
        sentence = describe(error, lambda: needed_memory(model))
        if sentence is None or self.args.verbose >= 2:
            return
        steps = model.num_timesteps
        try:
            saved = None if getattr(error, "poisoned", False) else saver.save_after_fault()
        except (OSError, NonFiniteError):
            saved = None
        last = saved or find_checkpoint(Path(self.save_path), self._identity)[0]
        state = f"the state before is in {last}, use --resume to continue" if last else "there is no checkpoint yet"
        sys.exit(f"{Path(sys.argv[0]).name}: after {steps:,} steps {sentence}; {state}.")

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        See ``ExperimentManager.save_trained_model``. Model and statistics are written atomically.

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
