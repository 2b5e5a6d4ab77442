"""``RunCheckpoint``: writes checkpoints of a run between two rollouts.

A resumed run continues bit for bit if its environments can be restored.

Knows SB3's on-policy algorithms and callbacks. Must not know the command line or any loss.
"""

import copy
import io
import json
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import unwrap_vec_normalize, unwrap_vec_wrapper

from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.runs import checkpoint_files as files
from sb3_snd.runs.checkpoint_files import META, NETS, STATE, find_non_finite, save_atomically
from sb3_snd.runs.env_state import get_env_state
from sb3_snd.runs.log_files import atomic_write, log_sizes, remove_unfinished, truncate_logs
from sb3_snd.runs.run_state import get_random_state, get_run_state, set_random_state, set_run_state
from sb3_snd.runs.stop_request import StopRequest
from sb3_snd.wrappers import VecIntrinsicReward

#: attributes of an algorithm that change during a rollout
CHANGING = (
    *("num_timesteps", "_last_obs", "_last_episode_starts", "_last_original_obs"),
    *("ep_info_buffer", "ep_success_buffer"),
)


class RolloutStart(NamedTuple):
    """Copy of a run's state at the start of a rollout, without nets and optimisers, which change later."""

    attributes: dict[str, Any]  # attributes of the algorithm in ``CHANGING``
    snd_buffers: dict[str, th.Tensor]  # name -> persistent buffer of the reward; the others are part of ``env``
    normalizer: bytes | None  # pickled ``VecNormalize``
    state: bytes  # entry ``STATE`` of the checkpoint
    log_sizes: dict[str, int]


class RunCheckpoint(BaseCallback):
    """
    Write checkpoints ``rl_model_<steps>_steps.zip`` between rollouts and keep the newest three. A checkpoint
    contains:

    - the model as SB3 saves it;
    - the state of wrappers, and of environments if :func:`~sb3_snd.runs.env_state.get_env_state` can save it;
    - the state of the other callbacks;
    - values that the logger has not written yet, and the lengths of log files;
    - the states of all random generators (Python, numpy, PyTorch on CPU and CUDA).

    Evaluation environments are not included. Statistics for ``VecNormalize.load`` are written next to each
    checkpoint, as ``rl_model_vecnormalize_<steps>_steps.pkl``. If networks or optimisers are not finite,
    nothing is written and the run ends with a ``NonFiniteError``.

    A run that is stopped during a rollout drops that rollout: its checkpoint is the state at the start of the
    rollout, and its log files are cut back to that state immediately.

    Requires an on-policy algorithm. It must be the last callback, so that it saves what the others have done.

    :param folder: Existing folder of the run, with its log files
    :param save_freq: Minimum number of steps between two checkpoints, summed over all environments; 0 saves
        only when the run is stopped by ``stop``
    :param callbacks: All callbacks of the run; may include this one
    :param identity: Values that identify the run, such as algo key, environment and seed
    :param stop: Request to end the run
    :param resumed: Content of the checkpoint, from :func:`~sb3_snd.runs.resume.load_run`; later lines of the
        logs are cut off
    :raises ValueError: when training begins, if this is not the last callback, or if the run was saved with
        other callbacks
    """

    def __init__(
        self,
        folder: Path,
        save_freq: int,
        callbacks: Sequence[BaseCallback],
        identity: dict[str, Any],
        stop: StopRequest | None = None,
        resumed: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.save_freq = save_freq
        self.callbacks = callbacks
        self.identity = identity
        self.stop = stop
        self._resumed = resumed
        remove_unfinished(folder)
        if resumed is not None:
            truncate_logs(folder, resumed["log_sizes"])
        self._start: RolloutStart | None = None
        self._in_rollout = False
        self._saved_at = 0
        self._constants: list[str] = []  # names of buffers that are infinite on purpose

    def _others(self) -> list[BaseCallback]:
        return [callback for callback in self.callbacks if callback is not self]

    def _init_callback(self) -> None:
        for callback in self._others():
            if getattr(callback, "model", None) is not self.model:  # it has not been initialised yet
                name = type(callback).__name__
                raise ValueError(f"RunCheckpoint must be the last callback, but {name} comes after it: append it last.")
        self._saved_at = self.model.num_timesteps
        nets = [net for net in (self.model.policy, find_snd(self.model)) if net is not None]
        buffers = [named for net in nets for named in net.named_buffers()]
        self._constants = [name for name, buffer in buffers if buffer.isinf().any()]
        if self._resumed is not None:
            self._restore_callbacks(self._resumed["callbacks"], self._resumed["restart"])

    def _restore_callbacks(self, saved: list[tuple[str, dict[str, Any]]], restart: bool) -> None:
        """
        Restore the other callbacks.

        :param saved: Name of the class and state of each callback
        :param restart: Whether all episodes restart, because the environments could not be restored
        :raises ValueError: if the run was saved with other callbacks
        """
        before = [name for name, _ in saved]
        now = [type(callback).__name__ for callback in self._others()]
        if before != now:
            raise ValueError(f"The run was saved with the callbacks {before} but has {now}: use the same callbacks.")
        for callback, (_, state) in zip(self._others(), saved, strict=True):
            set_run_state(callback, state)
            if restart and hasattr(callback, "on_new_episodes"):
                callback.on_new_episodes()

    def _on_training_start(self) -> None:
        if self._resumed is None:
            return
        for values, saved in zip(self._logged(), self._resumed["logged"], strict=True):
            values.update(saved)
        set_random_state(self._resumed["random"])
        self._resumed = None

    def _logged(self) -> tuple[dict, dict, dict]:
        return self.logger.name_to_value, self.logger.name_to_count, self.logger.name_to_excluded

    def _on_rollout_start(self) -> None:
        self._start, self._in_rollout = self._copy_state(), True
        if 0 < self.save_freq <= self.model.num_timesteps - self._saved_at:
            self.save()

    def _on_step(self) -> bool:
        return self.stop is None or self.stop.received is None

    def _on_rollout_end(self) -> None:
        self._in_rollout = False

    def _on_training_end(self) -> None:
        asked = self.stop is not None and self.stop.received is not None
        if self._in_rollout:  # training was ended during a rollout
            self._rewind()
        else:
            self._start = self._copy_state()
        if asked or (self.save_freq > 0 and self.model.num_timesteps > self._saved_at):
            self.save()

    def _copy_state(self) -> RolloutStart:
        assert self.model.env is not None
        snd, normalizer = find_snd(self.model), unwrap_vec_normalize(self.model.env)
        changing = {name: vars(self.model)[name] for name in CHANGING if name in vars(self.model)}
        sizes = log_sizes(self.folder, self.logger.dir)
        state = {
            "env": get_env_state(self.model.env),
            "callbacks": [(type(callback).__name__, get_run_state(callback)) for callback in self._others()],
            "logged": tuple(map(dict, self._logged())),
            "random": get_random_state(),
            "log_sizes": sizes,
        }
        return RolloutStart(
            attributes=copy.deepcopy(changing),
            snd_buffers={} if snd is None else _clone_statistics(snd),
            normalizer=None if normalizer is None else pickle.dumps(normalizer),
            state=pickle.dumps(state),
            log_sizes=sizes,
        )

    def save_after_fault(self) -> Path | None:
        """
        Save a checkpoint of the state before a fault.

        :return: path of the checkpoint; None if no training step has been made
        :raises OSError: if it cannot be written
        :raises NonFiniteError: if networks or optimisers are not finite
        """
        if self._start is None:
            return None
        if self._in_rollout:
            self._rewind()
        else:  # the fault occurred in an update: keep what was updated before it
            self._start = self._copy_state()
        return self.save() if self.model.num_timesteps > 0 else None

    def _rewind(self) -> None:
        """Restore the state at the start of the rollout, including log files."""
        assert self._start is not None
        vars(self.model).update(self._start.attributes)
        snd = find_snd(self.model)
        for name, buffer in self._start.snd_buffers.items():
            assert snd is not None
            snd.get_buffer(name).copy_(buffer)
        truncate_logs(self.folder, self._start.log_sizes)
        for callback in self._others():
            if hasattr(callback, "on_logs_truncated"):
                callback.on_logs_truncated()
        assert self.model.env is not None
        normalizer = unwrap_vec_normalize(self.model.env)
        if normalizer is not None:  # its statistics are also saved with the final model
            assert self._start.normalizer is not None
            saved = vars(pickle.loads(self._start.normalizer))
            vars(normalizer).update({name: saved[name] for name in ("obs_rms", "ret_rms") if name in saved})

    def save(self) -> Path:
        """
        Save the state at the start of the rollout; networks and optimisers have not changed since.

        :return: path of the checkpoint
        :raises OSError: if it cannot be written
        :raises NonFiniteError: if networks or optimisers are not finite; then nothing is written or removed
        """
        assert self._start is not None
        steps = self.model.num_timesteps
        path = files.checkpoint_path(self.folder, steps)
        meta = {**self.identity, "steps": steps, "constants": self._constants}
        entries = {META: json.dumps(meta).encode(), STATE: self._start.state}
        snd = find_snd(self.model)
        # The algorithm does not save these networks itself
        if snd is not None and not hasattr(self.model, "snd"):
            nets = io.BytesIO()
            snd.save(nets)  # type: ignore[arg-type]  # PyTorch accepts file objects
            entries[NETS] = nets.getvalue()
        try:
            if self._start.normalizer is not None:  # written first, so that no checkpoint ever lacks it
                with atomic_write(files.normalizer_path(path)) as file:
                    file.write(self._start.normalizer)
            save_atomically(self.model, path, entries, self._refuse_non_finite)
        finally:
            files.remove_old_checkpoints(self.folder)
        self._saved_at = steps
        return path

    def _refuse_non_finite(self, file: BinaryIO) -> None:
        with zipfile.ZipFile(file) as archive:
            found = find_non_finite(archive, self._constants)
        if found is not None:
            raise NonFiniteError(f"{found[0]} in the model to be saved", found[1], poisoned=True)


def find_snd(model: BaseAlgorithm) -> IntrinsicReward | None:
    """
    Find the intrinsic reward of a model's environment.

    :param model: Any algorithm
    :return: the reward of its ``VecIntrinsicReward``; None if there is none
    """
    wrapper = None if model.env is None else unwrap_vec_wrapper(model.env, VecIntrinsicReward)
    return None if wrapper is None else wrapper.snd


def _clone_statistics(reward: IntrinsicReward) -> dict[str, th.Tensor]:
    saved = reward.state_dict()
    return {name: buffer.clone() for name, buffer in reward.named_buffers() if name in saved}
