"""The Zoo's runs, resumable: ``train.py --resume``, signals, and faults told in one sentence.

Knows rl_zoo3's manager, its log folders and checkpoints; no environment, no YAML file.
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

from sb3_snd.checkpoints import RunCheckpoint, StopRequest, find_checkpoint, find_normalizer, load_run, save_whole
from sb3_snd.extras import require
from sb3_snd.faults import NonFiniteError, describe, needed_memory
from sb3_snd.hyperparams_opt import SearchManager, evaluated
from sb3_snd.run_files import forget_events, written_whole

require("rl_zoo3", "zoo")

import rl_zoo3  # noqa: E402
import yaml  # noqa: E402


class ResumableManager(SearchManager):
    """
    The Zoo's manager whose runs of on-policy algorithms go on where they ended.

    :param args: Arguments of ``rl_zoo3.train``
    :param algo: Algo key
    :param env_id: Gymnasium id
    :param more: Further arguments of ``ExperimentManager``, by position
    :param kwargs: Further arguments of ``ExperimentManager``, by name
    """

    began = False  #: whether a run got past its checks
    resume = False  #: whether to go on with a run of the same algo, environment and seed
    stop: StopRequest | None = None  #: asks to end the run

    def __init__(self, args: argparse.Namespace, algo: str, env_id: str, *more: Any, **kwargs: Any) -> None:
        super().__init__(args, algo, env_id, *more, **kwargs)
        self._check_numbers()
        self._checkpoint: Path | None = None
        self._resumed: dict[str, Any] | None = None
        self._save_freq = 0
        if self.resume:
            self._find_run()

    def _check_numbers(self) -> None:
        """Of the command line, those that the Zoo would take for none, or divide by."""
        n_steps, interval = getattr(self.args, "n_timesteps", -1), getattr(self.args, "log_interval", -1)
        if n_steps < 1 and n_steps != -1:
            raise ValueError(f"-n {n_steps}: a run must have 1 step at least; without -n it has those of its entry.")
        if interval == 0:
            raise ValueError("--log-interval 0: give the number of rollouts from one log to the next, or -2 for no log.")

    @property
    def _identity(self) -> dict[str, Any]:
        return {"algo": self.algo, "environment": self.env_name.gym_id, "seed": self.seed}

    def _find_run(self) -> None:
        """The newest run of the same seed, of any where none is given, goes on in its own folder."""
        if self.continue_training or self.optimize_hyperparameters:
            raise ValueError("--resume goes on with a run of its own: leave -i and -optimize away.")
        if not issubclass(rl_zoo3.ALGOS[self.algo], OnPolicyAlgorithm):
            raise ValueError(f"--resume is for on-policy algorithms, {self.algo} keeps a replay buffer: leave it away.")
        runs = Path(self.log_path).glob(f"{self.env_name}_*/{self.env_name}/args.yml")
        for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True):
            seed = yaml.load(path.read_text(), Loader=yaml.UnsafeLoader)["seed"]
            if seed == self.seed or not any(argument.split("=")[0] == "--seed" for argument in sys.argv):
                self.seed = self.args.seed = seed
                self.save_path, self.params_path = str(path.parent.parent), str(path.parent)
                break
        else:
            print(f"--resume: there is no run of {self._identity} in {self.log_path}, this is its beginning.")
            return
        self._checkpoint, refused = find_checkpoint(Path(self.save_path), self._identity)
        print(*refused, f"--resume: {self._checkpoint or f'no checkpoint in {self.save_path}, from the beginning'}", sep="\n")
        self.continue_training = self._checkpoint is not None
        if self._checkpoint is None:
            forget_events(Path(self.save_path))

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        """See ``ExperimentManager``, which would give a checkpoint (``-i``) the statistics of the run's end, or none."""
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
        print(f"--resume: goes on at step {model.num_timesteps:,}.", f"Episodes begin anew: {reason}." if reason else "")
        return model

    def _preprocess_action_noise(
        self, hyperparams: dict[str, Any], saved_hyperparams: dict[str, Any], env: VecEnv
    ) -> dict[str, Any]:
        """See ``ExperimentManager``; the last place before a model is loaded that knows what will be saved."""
        if self._checkpoint is not None:
            before = yaml.load((Path(self.params_path) / "config.yml").read_text(), Loader=yaml.UnsafeLoader)
            before, now = evaluated(before), evaluated(saved_hyperparams)
            for name in sorted({*before, *now} - {"n_timesteps"}):
                if before.get(name) != now.get(name):
                    raise ValueError(
                        f"--resume: {name} was {before.get(name)!r} and is {now.get(name)!r}:"
                        " give the hyperparameters that the run began with, or begin another."
                    )
        return super()._preprocess_action_noise(hyperparams, saved_hyperparams, env)

    def create_callbacks(self) -> None:
        """See ``ExperimentManager.create_callbacks``; on-policy algorithms get their checkpoints in :meth:`learn`."""
        on_policy = issubclass(rl_zoo3.ALGOS[self.algo], OnPolicyAlgorithm) and not self.optimize_hyperparameters
        if on_policy:
            self._save_freq, self.save_freq = max(0, self.save_freq), -1
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, CheckpointCallback):
                callback.save_vecnormalize = True

    def learn(self, model: BaseAlgorithm) -> None:
        """
        See ``ExperimentManager.learn``; a run that is resumed goes on to the same total number of steps.

        :param model: The model to train
        """
        type(self).began = True
        if not isinstance(model, OnPolicyAlgorithm):
            super().learn(model)
            return
        folder = Path(self.save_path)
        saver = RunCheckpoint(folder, self._save_freq, self.callbacks, self._identity, self.stop, self._resumed)
        self.callbacks.append(saver)
        kwargs: dict[str, Any] = {"callback": self.callbacks, "reset_num_timesteps": self._resumed is None}
        if self.log_interval != -1:  # as the Zoo has it
            kwargs["log_interval"] = self.log_interval if self.log_interval > -1 else None
        n_steps = self.n_timesteps if self._resumed is None else max(0, self.n_timesteps - model.num_timesteps)
        try:
            model.learn(n_steps, **kwargs)
        except KeyboardInterrupt:  # the second one
            pass
        except Exception as error:
            self._explain(error, model, saver)
            raise
        finally:
            assert model.env is not None
            with contextlib.suppress(EOFError, OSError):  # of a worker that is no more
                model.env.close()

    def _explain(self, error: Exception, model: OnPolicyAlgorithm, saver: RunCheckpoint) -> None:
        """End the process in one sentence over a fault of the run, with its state saved where that is possible."""
        sentence = describe(error, lambda: needed_memory(model))
        if sentence is None or self.args.verbose >= 2:
            return
        steps = model.num_timesteps
        try:
            saved = None if getattr(error, "poisoned", False) else saver.save_after_fault()
        except (OSError, NonFiniteError):
            saved = None
        last = saved or find_checkpoint(Path(self.save_path), self._identity)[0]
        state = f"the state before is in {last}, --resume goes on from there" if last else "there is no checkpoint yet"
        sys.exit(f"{Path(sys.argv[0]).name}: after {steps:,} steps {sentence}; {state}.")

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """
        See ``ExperimentManager.save_trained_model``; the model is there whole or not at all.

        :param model: The trained model
        """
        folder = Path(self.save_path)
        print(f"Saving to {folder}")
        save_whole(model, folder / f"{self.env_name}.zip")
        if self.save_replay_buffer and hasattr(model, "save_replay_buffer"):
            model.save_replay_buffer(folder / "replay_buffer.pkl")
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:
            with written_whole(Path(self.params_path) / "vecnormalize.pkl") as file:
                pickle.dump(normalizer, file)
