"""Checkpoints of a run: written atomically, validated, and loaded again.

A resumed run continues bit for bit if its environments can be restored.

Knows SB3's on-policy algorithms, callbacks and log files. Must not know the command line or any loss.
"""

import contextlib
import io
import json
import pickle
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize, unwrap_vec_wrapper

from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.rewards.base import UNREADABLE
from sb3_snd.rewards.snd import SND
from sb3_snd.runs.env_state import get_env_state, plain_state, set_env_state, set_plain_state
from sb3_snd.runs.log_files import cut_logs, get_random_state, log_sizes, remove_unfinished, set_random_state, written_whole
from sb3_snd.wrappers import VecIntrinsicReward

TENSORS = ".pth"  # suffix of SB3's zip entries for networks and optimisers
META, STATE, NETS = "sb3_snd_meta.json", "sb3_snd_state.pkl", "sb3_snd_nets"  # zip entries in addition to the model's
PREFIX = "rl_model"  # same as SB3's and the Zoo's checkpoints
NORMALIZER = f"{PREFIX}_vecnormalize"  # same as the statistics that SB3's ``CheckpointCallback`` writes
KEPT = 3  # number of newest checkpoints to keep
#: attributes of an algorithm that change during a rollout; networks and optimisers only change after it
CHANGING = ("num_timesteps", "_last_obs", "_last_episode_starts", "_last_original_obs", "ep_info_buffer", "ep_success_buffer")


def save_whole(
    model: BaseAlgorithm, path: Path, entries: dict[str, bytes] | None = None, check: Callable[[BinaryIO], None] | None = None
) -> None:
    """
    Save a model as ``model.save`` does, but atomically: the file is complete or not written at all.

    :param model: Model to save
    :param path: Path of the zip file
    :param entries: Additional zip entries, name -> content
    :param check: Called with the written file; raises an error to reject it
    :raises OSError: if the disk is full or the folder does not exist; an existing file is kept
    """
    with written_whole(path) as file:
        model.save(file)  # type: ignore[arg-type]
        if entries:
            with zipfile.ZipFile(file, "a") as archive:
                for name, content in entries.items():
                    archive.writestr(name, content)
        if check is not None:
            check(file)


def find_poison(archive: zipfile.ZipFile, constants: Sequence[str]) -> tuple[str, float] | None:
    """
    Find a non-finite tensor in the networks and optimisers of a model.

    :param archive: Zip file of a model
    :param constants: Names of buffers that contain infinities on purpose, such as masks
    :return: name of the first non-finite tensor and its first non-finite value; None if all are finite
    """

    def search(value: Any, name: str) -> Iterator[tuple[str, float]]:
        if isinstance(value, th.Tensor):
            wrong = value.isnan() if name.rpartition(":")[2] in constants else ~value.isfinite()
            if wrong.any():
                yield name, float(value[wrong][0])
        elif isinstance(value, (dict, list)):
            for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
                yield from search(entry, f"{name}:{key}")

    for entry in archive.namelist():
        if entry.endswith(TENSORS) or entry == NETS:
            tensors = th.load(io.BytesIO(archive.read(entry)), map_location="cpu", weights_only=True)
            for found in search(tensors, entry.removesuffix(TENSORS)):
                return found
    return None


class StopRequest:
    """
    Context manager in which the first SIGTERM or SIGINT only asks :class:`RunCheckpoint` to end the run after
    the current step. A second signal is handled as usual.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self.received = None
        self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.__exit__()


class RunCheckpoint(BaseCallback):
    """
    Write checkpoints ``rl_model_<steps>_steps.zip`` between rollouts and keep the newest three. A checkpoint
    contains:

    - the model as SB3 saves it;
    - the state of wrappers, and of environments if :func:`~sb3_snd.runs.env_state.get_env_state` can save it;
    - counters and best scores of the other callbacks;
    - values that the logger has not written yet, and the lengths of log files;
    - the states of all random generators (Python, numpy, PyTorch on CPU and CUDA).

    Evaluation environments are not included. Statistics for ``VecNormalize.load`` are written next to each
    checkpoint, as ``rl_model_vecnormalize_<steps>_steps.pkl``. If networks or optimisers are not finite,
    nothing is written and the run ends with a ``NonFiniteError``.

    A run that is stopped during a rollout drops that rollout: its checkpoint is the state at the start of the
    rollout, and its log files are cut back to that state immediately.

    Requires an on-policy algorithm. It must be the last callback.

    :param folder: Existing folder of the run, with its log files
    :param save_freq: Minimum number of steps between two checkpoints, summed over all environments; 0 saves
        only when the run is stopped by ``stop``
    :param callbacks: All callbacks of the run; may include this one
    :param identity: Values that identify the run, such as algo key, environment and seed
    :param stop: Request to end the run
    :param resumed: Content of the checkpoint, from :func:`load_run`; later lines of the logs are cut off
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
            cut_logs(folder, resumed["logs"])
        self._beginning: dict[str, Any] = {}  # state at the start of the rollout
        self._within = False  # whether a rollout is being collected
        self._saved_at = 0
        self._constants: list[str] = []  # names of buffers that are infinite on purpose

    def _others(self) -> list[BaseCallback]:
        return [callback for callback in self.callbacks if callback is not self]

    def _init_callback(self) -> None:
        self._saved_at = self.model.num_timesteps
        buffers = (buffer for net in (self.model.policy, find_snd(self.model)) if net for buffer in net.named_buffers())
        self._constants = [name for name, buffer in buffers if buffer.isinf().any()]
        if self._resumed is None:
            return
        saved = self._resumed["callbacks"]
        names = [type(callback).__name__ for callback in self._others()]
        if [name for name, _ in saved] != names:
            raise ValueError(
                f"The run was saved with the callbacks {[n for n, _ in saved]} but has {names}: use the same callbacks."
            )
        for callback, (_, state) in zip(self._others(), saved, strict=True):
            set_plain_state(callback, state)
            if self._resumed["restart"] and hasattr(callback, "on_new_episodes"):
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
        self._beginning, self._within = self._state(), True
        if 0 < self.save_freq <= self.model.num_timesteps - self._saved_at:
            self.save()

    def _on_step(self) -> bool:
        return self.stop is None or self.stop.received is None

    def _on_rollout_end(self) -> None:
        self._within = False

    def _on_training_end(self) -> None:
        asked = self.stop is not None and self.stop.received is not None
        if self._within:  # training was ended during a rollout
            self._rewind()
        else:
            self._beginning = self._state()
        if asked or (self.save_freq > 0 and self.model.num_timesteps > self._saved_at):
            self.save()

    def _state(self) -> dict[str, Any]:
        """Copy the state that the next rollout starts from, except networks and optimisers."""
        assert self.model.env is not None
        snd, normalizer = find_snd(self.model), unwrap_vec_normalize(self.model.env)
        return {
            "model": pickle.dumps({name: vars(self.model)[name] for name in CHANGING if name in vars(self.model)}),
            "buffers": {} if snd is None else {name: buffer.clone() for name, buffer in snd.named_buffers()},
            "env": get_env_state(self.model.env),
            "normalizer": None if normalizer is None else pickle.dumps(normalizer),
            "rest": pickle.dumps(
                {
                    "callbacks": [(type(callback).__name__, plain_state(callback)) for callback in self._others()],
                    "logged": tuple(map(dict, self._logged())),
                    "random": get_random_state(),
                    "logs": log_sizes(self.folder, self.logger.dir),
                }
            ),
        }

    def save_after_fault(self) -> Path | None:
        """
        Save a checkpoint of the state before a fault.

        :return: path of the checkpoint; None if no training step has been made
        :raises OSError: if it cannot be written
        :raises NonFiniteError: if networks or optimisers are not finite
        """
        if not self._beginning:
            return None
        if self._within:
            self._rewind()
        else:  # the fault occurred in an update: keep what was updated before it
            self._beginning = self._state()
        return self.save() if self.model.num_timesteps > 0 else None

    def _rewind(self) -> None:
        """Restore the state at the start of the rollout, including log files."""
        set_plain_state(self.model, pickle.loads(self._beginning["model"]))
        snd = find_snd(self.model)
        for name, buffer in self._beginning["buffers"].items():
            assert snd is not None
            snd.get_buffer(name).copy_(buffer)
        cut_logs(self.folder, pickle.loads(self._beginning["rest"])["logs"])
        for callback in self._others():
            if hasattr(callback, "on_logs_cut"):
                callback.on_logs_cut()
        assert self.model.env is not None
        normalizer = unwrap_vec_normalize(self.model.env)
        if normalizer is not None:  # its statistics are also saved with the final model
            saved = vars(pickle.loads(self._beginning["normalizer"]))
            vars(normalizer).update({name: saved[name] for name in ("obs_rms", "ret_rms") if name in saved})

    def save(self) -> Path:
        """
        Save the state at the start of the rollout; networks and optimisers have not changed since.

        :return: path of the checkpoint
        :raises OSError: if it cannot be written
        :raises NonFiniteError: if networks or optimisers are not finite; then nothing is written or removed
        """
        steps = self.model.num_timesteps
        path = self.folder / f"{PREFIX}_{steps}_steps.zip"
        meta = {**self.identity, "steps": steps, "constants": self._constants}
        state = pickle.dumps({"env": self._beginning["env"], **pickle.loads(self._beginning["rest"])})
        entries = {META: json.dumps(meta).encode(), STATE: state}
        snd = find_snd(self.model)
        if snd is not None and not hasattr(self.model, "snd"):  # the algorithm does not save these networks itself
            nets = io.BytesIO()
            snd.save(nets)  # type: ignore[arg-type]  # PyTorch accepts file objects
            entries[NETS] = nets.getvalue()
        try:
            if self._beginning["normalizer"] is not None:  # written first, so that no checkpoint ever lacks it
                with written_whole(_normalizer_path(path)) as file:
                    file.write(self._beginning["normalizer"])
            save_whole(self.model, path, entries, self._refuse_poison)
        finally:
            self._remove_old()
        self._saved_at = steps
        return path

    def _refuse_poison(self, file: BinaryIO) -> None:
        with zipfile.ZipFile(file) as archive:
            poison = find_poison(archive, self._constants)
        if poison is not None:
            raise NonFiniteError(f"{poison[0]} in the model to be saved", poison[1], poisoned=True)

    def _remove_old(self) -> None:
        found = checkpoints(self.folder)
        statistics = set(self.folder.glob(f"{NORMALIZER}_*_steps.pkl")) - set(map(_normalizer_path, found[:KEPT]))
        for old in (*found[KEPT:], *statistics):
            with contextlib.suppress(OSError):  # open in another program on Windows: removed the next time
                old.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """
    List the checkpoints in a folder by their file names.

    :param folder: Folder of a run
    :return: paths of the checkpoints, newest first
    """
    found = {}
    for path in folder.glob(f"{PREFIX}_*_steps.zip"):
        with contextlib.suppress(ValueError):
            found[path] = int(path.name.removeprefix(f"{PREFIX}_").removesuffix("_steps.zip"))
    return sorted(found, key=lambda path: found[path], reverse=True)


def _normalizer_path(path: Path) -> Path:
    return path.with_name(f"{NORMALIZER}{path.stem.removeprefix(PREFIX)}.pkl")


def find_normalizer(path: Path) -> Path | None:
    """
    Find the statistics of ``VecNormalize`` that were saved next to a checkpoint.

    :param path: Path of a model
    :return: path of the statistics; None if there are none
    """
    if not path.name.startswith(f"{PREFIX}_"):
        return None
    beside = _normalizer_path(path)
    return beside if beside.is_file() else None


@contextlib.contextmanager
def normalizer_folder(path: Path, folder: str | None) -> Iterator[str | None]:
    """
    Provide the statistics of ``VecNormalize`` that belong to a model.

    The Zoo reads ``vecnormalize.pkl`` from one folder, no matter which model of the run it loads.

    :param path: Path of the model to load
    :param folder: Folder in which the Zoo looks
    :return: context manager that yields a temporary folder with the statistics saved next to the model, or
        ``folder`` if there are none
    """
    beside = find_normalizer(path)
    if beside is None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as other:
        shutil.copy(beside, Path(other) / "vecnormalize.pkl")
        yield other


def flaw(path: Path, identity: dict[str, Any]) -> str | None:
    """
    Say why a file cannot be used to resume a run.

    :param path: Path of a file
    :param identity: Values that identify the run
    :return: reason for the refusal; None for an intact checkpoint of this run whose networks are finite
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if META not in archive.namelist() or STATE not in archive.namelist():
                return "it is not a checkpoint of a run"
            broken = archive.testzip()
            if broken is not None:
                return f"its entry {broken} is damaged"
            meta = json.loads(archive.read(META))
            poison = find_poison(archive, meta.get("constants", []))
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return "it is truncated or not a zip file"
    except UNREADABLE:
        return "it contains other objects in place of tensors"
    if poison is not None:
        return f"{poison[0]} in it is {poison[1]}"
    others = [name for name, value in identity.items() if meta.get(name) != value]
    return f"its {others[0]} is {meta.get(others[0])!r}, not {identity[others[0]]!r}" if others else None


def find_checkpoint(folder: Path, identity: dict[str, Any]) -> tuple[Path | None, list[str]]:
    """
    Find the newest usable checkpoint of a run.

    :param folder: Folder of the run
    :param identity: Values that identify the run
    :return: path of the newest usable checkpoint, or None if there is none; one sentence for each newer file
        that was refused
    """
    refused: list[str] = []
    for path in checkpoints(folder):
        reason = flaw(path, identity)
        if reason is None:
            return path, refused
        refused.append(f"{path}: {reason}; trying the checkpoint before it.")
    return None, refused


def load_run(
    path: Path, algorithm: type[BaseAlgorithm], env: VecEnv, seed: int, **kwargs: Any
) -> tuple[BaseAlgorithm, dict[str, Any], str]:
    """
    Restore a run to the state in a checkpoint.

    :param path: Path of the checkpoint, from :func:`find_checkpoint`
    :param algorithm: Class of the saved model
    :param env: New environment, constructed like that of the run
    :param seed: Seed of the run
    :param kwargs: Additional arguments of ``algorithm.load``
    :return: the model, to be trained with ``reset_num_timesteps=False``; the value for ``resumed`` of
        ``RunCheckpoint``; and the reason why all episodes restart, or an empty string if they continue
    :raises ValueError: if the environment has different wrappers
    """
    with zipfile.ZipFile(path) as archive:
        state = pickle.loads(archive.read(STATE))
        nets = archive.read(NETS) if NETS in archive.namelist() else None
    model = algorithm.load(path, env=env, force_reset=False, **kwargs)
    assert model.env is not None
    snd = find_snd(model)
    if nets is not None and snd is not None:
        snd.load(io.BytesIO(nets))  # type: ignore[arg-type]
    reason = set_env_state(model.env, state["env"])
    if reason:
        model._last_obs = None  # makes learn() reset the environments
        model.env.seed(seed + model.num_timesteps)  # otherwise the run's first episodes would be repeated
    return model, {**state, "restart": bool(reason)}, reason


def find_snd(model: BaseAlgorithm) -> SND | None:
    """
    Find the ``SND`` that computes the novelty of a model's environment.

    :param model: Any algorithm
    :return: the ``SND`` of the model or of its ``VecIntrinsicReward``; None if there is none
    """
    wrapper = None if model.env is None else unwrap_vec_wrapper(model.env, VecIntrinsicReward)
    return None if wrapper is None else wrapper.snd
