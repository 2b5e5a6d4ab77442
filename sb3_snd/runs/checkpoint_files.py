"""Files of checkpoints: written atomically, validated, found again and removed.

Knows SB3's zip files and the names of a run's files. Must not know when a checkpoint is written.
"""

import contextlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_snd.rewards.settings import UNREADABLE
from sb3_snd.runs.log_files import atomic_write

TENSORS = ".pth"  # suffix of SB3's zip entries for networks and optimisers
#: zip entries in addition to the model's
META, STATE, NETS = "sb3_snd_meta.json", "sb3_snd_state.pkl", "sb3_snd_nets"
PREFIX = "rl_model"  # same as SB3's and the Zoo's checkpoints
NORMALIZER = f"{PREFIX}_vecnormalize"  # same as the statistics that SB3's ``CheckpointCallback`` writes
KEPT = 3  # number of newest checkpoints to keep


def save_atomically(
    model: BaseAlgorithm,
    path: Path,
    entries: dict[str, bytes] | None = None,
    check: Callable[[BinaryIO], None] | None = None,
) -> None:
    """
    Save a model as ``model.save`` does, but atomically: the file is complete or not written at all.

    :param model: Model to save
    :param path: Path of the zip file
    :param entries: Additional zip entries, name -> content
    :param check: Called with the written file; raises an error to reject it
    :raises OSError: if the disk is full or the folder does not exist; an existing file is kept
    """
    with atomic_write(path) as file:
        model.save(file)  # type: ignore[arg-type]
        if entries:
            with zipfile.ZipFile(file, "a") as archive:
                for name, content in entries.items():
                    archive.writestr(name, content)
        if check is not None:
            check(file)


def find_non_finite(archive: zipfile.ZipFile, constants: Sequence[str]) -> tuple[str, float] | None:
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


def checkpoint_path(folder: Path, n_steps: int) -> Path:
    """
    Return the path of a checkpoint.

    :param folder: Folder of the run
    :param n_steps: Number of steps after which the checkpoint is written
    :return: path of the zip file
    """
    return folder / f"{PREFIX}_{n_steps}_steps.zip"


def list_checkpoints(folder: Path) -> list[Path]:
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


def remove_old_checkpoints(folder: Path) -> None:
    """
    Remove all checkpoints except the newest three, and statistics that belong to none of these.

    :param folder: Folder of a run
    """
    found = list_checkpoints(folder)
    statistics = set(folder.glob(f"{NORMALIZER}_*_steps.pkl")) - set(map(normalizer_path, found[:KEPT]))
    for old in (*found[KEPT:], *statistics):
        with contextlib.suppress(OSError):  # open in another program on Windows: removed the next time
            old.unlink()


def why_unusable(path: Path, identity: dict[str, Any]) -> str | None:
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
            non_finite = find_non_finite(archive, meta.get("constants", []))
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return "it is truncated or not a zip file"
    except UNREADABLE:
        return "it contains other objects in place of tensors"
    if non_finite is not None:
        return f"{non_finite[0]} in it is {non_finite[1]}"
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
    for path in list_checkpoints(folder):
        reason = why_unusable(path, identity)
        if reason is None:
            return path, refused
        refused.append(f"{path}: {reason}; trying the checkpoint before it.")
    return None, refused


def normalizer_path(path: Path) -> Path:
    """
    Return the path of the statistics of ``VecNormalize`` that are saved next to a checkpoint.

    :param path: Path of the checkpoint
    :return: path of the statistics
    """
    return path.with_name(f"{NORMALIZER}{path.stem.removeprefix(PREFIX)}.pkl")


def find_normalizer(path: Path) -> Path | None:
    """
    Find the statistics of ``VecNormalize`` that were saved next to a checkpoint.

    :param path: Path of a model
    :return: path of the statistics; None if there are none
    """
    if not path.name.startswith(f"{PREFIX}_"):
        return None
    beside = normalizer_path(path)
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
