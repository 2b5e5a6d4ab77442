"""Files of a run: written whole or not at all, cut back to what they were; and the states of random generators.

Knows the names of log files; no algorithm.
"""

import contextlib
import functools
import os
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch as th

LOGS = ("monitor.csv", "progress.csv")
UNFINISHED = re.compile(r"\..+\.(zip|csv|pkl)\.[a-z0-9_]{8}")  # what ``tempfile`` calls a file beside one of a run


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """
    A file that is there whole or not at all: written beside, forced to the disk, and renamed. What a process that was killed
    left beside is removed by :func:`remove_unfinished`.

    :param path: The file
    :return: where to write
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # Windows opens no folder, and some file systems do not force one to the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """
    Remove what :func:`written_whole` was writing when its process was killed. No other process may be writing to the folder
    meanwhile: one run has one process.

    :param folder: Of a run; the folders in it are searched, too
    """
    for path in (*folder.glob(".*"), *folder.glob("*/.*")):
        if UNFINISHED.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError):  # on Windows, of a file that somebody has open
                path.unlink()


def log_sizes(folder: Path, tensorboard: str | None) -> dict[str, int]:
    """
    :param folder: Of a run
    :param tensorboard: Where the logger writes, if anywhere
    :return: by path from ``folder`` (by whole path where there is none), lines of its CSV files, which may get further
        columns, and bytes of TensorBoard's files, which only grow
    """
    sizes = {}
    for path in map(folder.joinpath, LOGS):
        if path.exists():
            with open(path, "rb") as file:
                sizes[path.name] = sum(block.count(b"\n") for block in iter(functools.partial(file.read, 1 << 20), b""))
    for path in _events(Path(tensorboard)) if tensorboard else ():
        sizes[_from_folder(path, folder)] = path.stat().st_size
    return sizes


def cut_logs(folder: Path, sizes: dict[str, int]) -> None:
    """
    Cut off, in place, what was written after a checkpoint; TensorBoard's files that were begun since are removed. Whoever has
    one of the CSV files open has to seek to its end before the next line.

    :param folder: Of the run
    :param sizes: From :func:`log_sizes`
    """
    for name in LOGS:
        if name in sizes and (folder / name).exists():
            lines = (folder / name).read_bytes().splitlines(keepends=True)[: sizes[name]]
            os.truncate(folder / name, sum(map(len, lines)))
    known = {folder / name: size for name, size in sizes.items() if name not in LOGS}
    for place in {path.parent for path in known}:
        for path in _events(place):
            with contextlib.suppress(PermissionError):  # on Windows, while TensorBoard reads it
                if path in known:
                    os.truncate(path, min(known[path], path.stat().st_size))
                else:
                    path.unlink()


def forget_events(folder: Path) -> None:
    """
    Remove what a run that begins anew wrote for TensorBoard; CSV files are overwritten.

    :param folder: Of the run
    """
    for place in {path.parent for path in folder.glob("*/events.out.tfevents.*")}:
        with contextlib.suppress(OSError):  # it holds something else, or, on Windows, TensorBoard reads a file of it
            for path in _events(place):
                path.unlink()
            place.rmdir()


def _from_folder(path: Path, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return str(path.absolute())


def _events(folder: Path) -> Iterator[Path]:
    return folder.glob("events.out.tfevents.*")


def get_random_state() -> dict[str, Any]:
    """
    :return: the states of the generators of Python, numpy and PyTorch
    """
    cuda = [each.cpu() for each in th.cuda.get_rng_state_all()] if th.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": th.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """
    :param state: From :func:`get_random_state`
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    if len(state["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(state["cuda"])
