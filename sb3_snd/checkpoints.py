"""Checkpoints that a run goes on from, bit for bit where the environments can: written whole or not at all, and found again.

Knows SB3's on-policy algorithms, callbacks and log files; no command line, no loss.
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

from sb3_snd.env_state import get_env_state, plain_state, set_env_state, set_plain_state
from sb3_snd.faults import NonFiniteError
from sb3_snd.run_files import cut_logs, get_random_state, log_sizes, remove_unfinished, set_random_state, written_whole
from sb3_snd.snd import SND, UNREADABLE
from sb3_snd.wrappers import VecIntrinsicReward

TENSORS = ".pth"  # as SB3 calls the entries of nets and optimisers
META, STATE, NETS = "sb3_snd_meta.json", "sb3_snd_state.pkl", "sb3_snd_nets"  # what a checkpoint's zip holds besides the model
PREFIX = "rl_model"  # as SB3's and the Zoo's checkpoints
NORMALIZER = f"{PREFIX}_vecnormalize"  # as SB3's ``CheckpointCallback`` calls the statistics beside them
KEPT = 3  # the newest
#: of an algorithm, what a rollout changes; nets and optimisers stay as they are until it is complete
CHANGING = ("num_timesteps", "_last_obs", "_last_episode_starts", "_last_original_obs", "ep_info_buffer", "ep_success_buffer")


def save_whole(
    model: BaseAlgorithm, path: Path, entries: dict[str, bytes] | None = None, check: Callable[[BinaryIO], None] | None = None
) -> None:
    """
    :param model: Saved as ``model.save`` does, but whole or not at all
    :param path: The zip
    :param entries: Further files in it
    :param check: Looks at what has been written and raises if it is not to stay
    :raises OSError: if the disk is full, or the folder gone; what was there stays
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
    :param archive: A model
    :param constants: Names of buffers that hold infinities on purpose, as masks do
    :return: the first tensor of its nets and optimisers that is not finite, and what it holds; None if all are finite
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
    While it is entered, the first SIGTERM or SIGINT only asks :class:`RunCheckpoint` to end the run after the current step; a
    second one acts as without it.
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
    Writes checkpoints between two rollouts, ``rl_model_<steps>_steps.zip``: models as SB3 saves them, and beside them what
    else a run consists of: environments and wrappers as far as :func:`~sb3_snd.env_state.get_env_state` can tell their state,
    other callbacks' counters and best scores, what the logger has not written yet, the lengths of log files, and the states
    of all random generators (Python, numpy, PyTorch on CPU and CUDA). Evaluation environments are not among it. The newest
    three are kept. Statistics for ``VecNormalize.load`` lie beside each of them, ``rl_model_vecnormalize_<steps>_steps.pkl``.
    Where nets or optimisers are not finite, nothing is written and the run ends with a ``NonFiniteError``.

    A run that is asked to stop within a rollout drops that rollout: its checkpoint is the rollout's beginning, and log files
    are cut back to it at once.

    For on-policy algorithms. It has to be the last of the callbacks.

    :param folder: Existing folder of the run, with its log files
    :param save_freq: Steps, of all environments together, between two checkpoints at least; 0: only when asked to stop
    :param callbacks: All callbacks of the run, with this one or without
    :param identity: What tells the run from others, such as algo key, environment and seed
    :param stop: Asks to stop
    :param resumed: What a checkpoint held, from :func:`load_run`; what was logged since is cut off
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
        self._beginning: dict[str, Any] = {}  # of the rollout
        self._within = False  # a rollout
        self._saved_at = 0
        self._constants: list[str] = []  # buffers that are infinite on purpose

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
                f"The run was saved with the callbacks {[n for n, _ in saved]} and has {names}: give it the same."
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
        if self._within:  # somebody ended training there
            self._rewind()
        else:
            self._beginning = self._state()
        if asked or (self.save_freq > 0 and self.model.num_timesteps > self._saved_at):
            self.save()

    def _state(self) -> dict[str, Any]:
        """:return: what the next rollout begins with, but for nets and optimisers; copied"""
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
        :return: a checkpoint of the state before what went wrong; None where training has not begun
        :raises OSError: if it cannot be written
        """
        if not self._beginning:
            return None
        if self._within:
            self._rewind()
        else:  # in an update: as far as it was sound
            self._beginning = self._state()
        return self.save() if self.model.num_timesteps > 0 else None

    def _rewind(self) -> None:
        """Back to the rollout's beginning, log files included."""
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
        if normalizer is not None:  # which is saved with the final model
            saved = vars(pickle.loads(self._beginning["normalizer"]))
            vars(normalizer).update({name: saved[name] for name in ("obs_rms", "ret_rms") if name in saved})

    def save(self) -> Path:
        """
        Write the state at the rollout's beginning, where nets and optimisers still are.

        :return: the checkpoint
        :raises OSError: if it cannot be written
        :raises NonFiniteError: if nets or optimisers are not finite; nothing is written or removed then
        """
        steps = self.model.num_timesteps
        path = self.folder / f"{PREFIX}_{steps}_steps.zip"
        meta = {**self.identity, "steps": steps, "constants": self._constants}
        state = pickle.dumps({"env": self._beginning["env"], **pickle.loads(self._beginning["rest"])})
        entries = {META: json.dumps(meta).encode(), STATE: state}
        snd = find_snd(self.model)
        if snd is not None and not hasattr(self.model, "snd"):  # beside an algorithm that does not save it
            nets = io.BytesIO()
            snd.save(nets)  # type: ignore[arg-type]  # PyTorch takes files
            entries[NETS] = nets.getvalue()
        try:
            if self._beginning["normalizer"] is not None:  # first, so that no checkpoint is ever without
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
            with contextlib.suppress(OSError):  # on Windows, of a file that somebody has open; the next time, then
                old.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """
    :param folder: Of a run
    :return: files that are called as checkpoints are, the newest first
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
    :param path: A model
    :return: the statistics of ``VecNormalize`` that lie beside it, as they do beside a checkpoint; None if there are none
    """
    if not path.name.startswith(f"{PREFIX}_"):
        return None
    beside = _normalizer_path(path)
    return beside if beside.is_file() else None


@contextlib.contextmanager
def normalizer_folder(path: Path, folder: str | None) -> Iterator[str | None]:
    """
    The Zoo looks for ``vecnormalize.pkl`` in one folder, whichever model of the run it loads.

    :param path: The model that is loaded
    :param folder: Where the Zoo looks
    :return: while it is entered, a folder with the statistics that lie beside the model; ``folder`` if there are none
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
    :param path: A file
    :param identity: What the run has to be
    :return: None for a whole checkpoint of this run with nets that are finite, else what is wrong with it
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if META not in archive.namelist() or STATE not in archive.namelist():
                return "it is no checkpoint of a run"
            broken = archive.testzip()
            if broken is not None:
                return f"{broken} in it is damaged"
            meta = json.loads(archive.read(META))
            poison = find_poison(archive, meta.get("constants", []))
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return "it is truncated or no zip file"
    except UNREADABLE:
        return "it holds something else where tensors should be"
    if poison is not None:
        return f"{poison[0]} in it is {poison[1]}"
    others = [name for name, value in identity.items() if meta.get(name) != value]
    return f"its {others[0]} is {meta.get(others[0])!r}, not {identity[others[0]]!r}" if others else None


def find_checkpoint(folder: Path, identity: dict[str, Any]) -> tuple[Path | None, list[str]]:
    """
    :param folder: Of a run
    :param identity: What the run has to be
    :return: its newest whole checkpoint, None if there is none, and a sentence on each that was refused
    """
    refused: list[str] = []
    for path in checkpoints(folder):
        reason = flaw(path, identity)
        if reason is None:
            return path, refused
        refused.append(f"{path}: {reason}, going on to the one before.")
    return None, refused


def load_run(
    path: Path, algorithm: type[BaseAlgorithm], env: VecEnv, seed: int, **kwargs: Any
) -> tuple[BaseAlgorithm, dict[str, Any], str]:
    """
    Put a run back to where a checkpoint was written.

    :param path: From :func:`find_checkpoint`
    :param algorithm: The class that was trained
    :param env: A new environment like that of the run
    :param seed: Of the run
    :param kwargs: Further arguments of ``algorithm.load``
    :return: the model, whose ``learn`` wants ``reset_num_timesteps=False``; what ``RunCheckpoint`` wants as ``resumed``; and
        empty or why episodes begin anew
    :raises ValueError: if the environment is wrapped in other ways
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
        model._last_obs = None  # learn() resets
        model.env.seed(seed + model.num_timesteps)  # not the beginning once more
    return model, {**state, "restart": bool(reason)}, reason


def find_snd(model: BaseAlgorithm) -> SND | None:
    """
    :param model: Any algorithm
    :return: the nets that rate what its environment shows, its own or those of a callback
    """
    wrapper = None if model.env is None else unwrap_vec_wrapper(model.env, VecIntrinsicReward)
    return None if wrapper is None else wrapper.snd
