"""Write files of a run atomically, and truncate its logs to an earlier length.

Knows the names of log files. Must not know any algorithm.
"""

import contextlib
import functools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LOGS = ("monitor.csv", "progress.csv")
UNFINISHED = re.compile(r"\..+\.(zip|csv|pkl)\.[a-z0-9_]{8}")  # temporary files of ``atomic_write``


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """
    Write a file atomically: to a temporary file in the same folder, which is flushed to the disk and renamed.
    The temporary file of a killed process is removed by :func:`remove_unfinished`.

    :param path: Path of the file
    :return: context manager that yields the file to write to
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
    # Windows cannot open folders, and some file systems cannot flush them to the disk
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """
    Remove the temporary files that :func:`atomic_write` leaves if its process is killed. No other process
    may write to the folder meanwhile; a run has only one process.

    :param folder: Folder of a run; its direct subfolders are searched, too
    """
    for path in (*folder.glob(".*"), *folder.glob("*/.*")):
        if UNFINISHED.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError):  # open in another program on Windows
                path.unlink()


def log_sizes(folder: Path, tensorboard: str | None) -> dict[str, int]:
    """
    Measure the log files of a run. CSV files are counted in lines, as columns may be added to them later.

    :param folder: Folder of the run
    :param tensorboard: Folder of the TensorBoard log, if there is one
    :return: number of lines of each CSV file and number of bytes of each TensorBoard file, by path relative
        to ``folder`` (absolute if there is no relative path)
    """
    sizes = {}
    for path in map(folder.joinpath, LOGS):
        if path.exists():
            with open(path, "rb") as file:
                sizes[path.name] = sum(block.count(b"\n") for block in iter(functools.partial(file.read, 1 << 20), b""))
    for path in _events(Path(tensorboard)) if tensorboard else ():
        sizes[_from_folder(path, folder)] = path.stat().st_size
    return sizes


def truncate_logs(folder: Path, sizes: dict[str, int]) -> None:
    """
    Truncate log files to the sizes they had at a checkpoint, in place. TensorBoard files created after it are
    removed. A program that has one of the CSV files open must seek to its end before it writes the next line.

    :param folder: Folder of the run
    :param sizes: Sizes from :func:`log_sizes`
    """
    for name in LOGS:
        if name in sizes and (folder / name).exists():
            lines = (folder / name).read_bytes().splitlines(keepends=True)[: sizes[name]]
            os.truncate(folder / name, sum(map(len, lines)))
    known = {folder / name: size for name, size in sizes.items() if name not in LOGS}
    for place in {path.parent for path in known}:
        for path in _events(place):
            with contextlib.suppress(PermissionError):  # open in TensorBoard on Windows
                if path in known:
                    os.truncate(path, min(known[path], path.stat().st_size))
                else:
                    path.unlink()


def delete_event_files(folder: Path) -> None:
    """
    Remove the TensorBoard files of a run that restarts; its CSV files will be overwritten.

    :param folder: Folder of the run
    """
    for place in {path.parent for path in folder.glob("*/events.out.tfevents.*")}:
        # The folder contains other files, or a file is open in TensorBoard on Windows
        with contextlib.suppress(OSError):
            for path in _events(place):
                path.unlink()
            place.rmdir()


def _from_folder(path: Path, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on a different Windows drive
        return str(path.absolute())


def _events(folder: Path) -> Iterator[Path]:
    return folder.glob("events.out.tfevents.*")
