"""Runs in the Zoo's log folders (algo key / environment / run), each reduced to a few hundred numbers as soon as it is read.

Knows the columns of ``monitor.csv`` and ``progress.csv``; no picture, no table, no published figure.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from sb3_snd.extras import require
from sb3_snd.hardware import available_cpus

REWARD, SCORE = 0, 1  # columns of a curve: the rewards that the learner saw, the environment's own
COLUMNS = ("r", "l", "t", "r_ext", "n", "steps")  # of a monitor file
MAX_BINS = 512  # of a stored curve, at least half as many where the run is long enough


class Curve(NamedTuple):
    """Episodes by the step that they ended at, in bins whose width is a power of two, so that curves fit each other."""

    width: int  # steps in a bin
    sums: np.ndarray  # (n_bins, 2) float64, of the episodes' rewards and scores
    counts: np.ndarray  # (n_bins,) int64, episodes

    def widened(self, width: int) -> "Curve":
        """
        :param width: A power of two, not below the own one
        :return: the same episodes in bins of this width
        """
        factor = width // self.width
        missing = -len(self.counts) % factor
        sums = np.pad(self.sums, ((0, missing), (0, 0))).reshape(-1, factor, 2).sum(axis=1)
        counts = np.pad(self.counts, (0, missing)).reshape(-1, factor).sum(axis=1)
        return Curve(width, sums, counts)

    def means(self) -> np.ndarray:
        """
        :return: ``(n_bins, 2)``, NaN where no episode ended
        """
        with np.errstate(invalid="ignore"):
            return self.sums / self.counts[:, None]


class Run(NamedTuple):
    """What a report needs to know of one run."""

    algo: str
    env_id: str
    folder: Path
    n_steps: int  # at the end of its last finished episode
    n_episodes: int
    mean_reward: float  # over all training episodes
    mean_score: float
    highest_score: float
    curve: Curve
    remark: str  # on lines that were left out, or empty
    places: np.ndarray  # (n, 2) float64: steps, and the distinct places seen by then, of ``ExplorationLogger``; or (0, 2)


class Skipped(NamedTuple):
    """A folder that holds no run, and why."""

    folder: Path
    reason: str


def find_folders(logs: Iterable[Path]) -> list[Path]:
    """
    :param logs: Folders to search, however deep
    :return: folders with monitor files, sorted
    """
    return sorted({path.parent for root in logs for path in root.rglob("*monitor.csv")})


def read_runs(folders: list[Path], n_jobs: int | None = None) -> Iterator[Run | Skipped]:
    """
    :param folders: From :func:`find_folders`
    :param n_jobs: Processes, as many as :func:`~sb3_snd.hardware.available_cpus` counts by default
    :return: one after the other, in this order
    :raises ImportError: if pandas is missing, naming the extra
    """
    require("pandas", "plots")
    n_jobs = min(n_jobs or available_cpus(), len(folders))
    if n_jobs < 2:
        yield from map(read_run, folders)
        return
    with ProcessPoolExecutor(n_jobs) as pool:
        yield from pool.map(read_run, folders, chunksize=1)


def read_run(folder: Path) -> Run | Skipped:
    """
    :param folder: With ``monitor.csv``, or with several ``*.monitor.csv``, one of each environment
    :return: the run, or why there is none
    """
    import pandas

    tables, remarks, env_id = [], [], ""
    for path in sorted(folder.glob("*monitor.csv")):
        try:
            header, table, remark = read_monitor(path)
        except (OSError, ValueError, pandas.errors.ParserError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            return Skipped(folder, f"{path.name}: {reason[0]}")
        env_id = env_id or str(header.get("env_id", ""))
        table["t"] += float(header.get("t_start", 0.0))
        tables.append(table)
        remarks += [remark] if remark else []
    episodes = tables[0] if len(tables) == 1 else pandas.concat(tables).sort_values("t")
    if episodes.empty:
        return Skipped(folder, "no episode has ended yet")
    scores = episodes["r"].to_numpy()
    rewards = episodes["r_ext"].to_numpy() if "r_ext" in episodes else scores
    values = np.stack([rewards, scores], axis=1)  # (n_rows, 2)
    counts = episodes["n"].to_numpy(np.int64) if "n" in episodes else np.ones(len(episodes), np.int64)
    steps = episode_steps(episodes, folder / "progress.csv")
    return Run(
        algo=folder.parent.name,
        env_id=env_id or folder.name.rpartition("_")[0],
        folder=folder,
        n_steps=int(steps[-1]),
        n_episodes=int(counts.sum()),
        mean_reward=float(np.average(rewards, weights=counts)),
        mean_score=float(np.average(scores, weights=counts)),
        highest_score=float(scores.max()),
        curve=bin_episodes(steps, values, counts),
        remark="; ".join(remarks),
        places=read_places(folder / "progress.csv"),
    )


def episode_steps(episodes, progress: Path) -> np.ndarray:  # type: ignore[no-untyped-def]  # pandas is an extra
    """
    Where episodes were dropped, as those under way are when emulators begin anew, their lengths do not add up to the steps
    of the run. The log tells how many had ended after each rollout, so within a rollout their lengths are stretched to its
    steps. Episodes before the first such line are stretched up to it, and those after the last one end with it.

    :param episodes: From :func:`read_monitor`
    :param progress: A log of SB3's, as CSV
    :return: steps of the run at the end of each episode, ``(n,)`` int64: the column ``steps`` where there is one, those of the
        log with ``time/episodes``, or the summed lengths
    """
    if "steps" in episodes:
        return episodes["steps"].to_numpy(np.int64)
    summed = episodes["l"].to_numpy(np.int64).cumsum()
    ended, steps = np.pad(read_columns(progress, "time/episodes", "time/total_timesteps"), ((1, 0), (0, 0))).T
    rollouts = np.searchsorted(ended, np.arange(1, len(summed) + 1))  # which each of them ended in; 0 is before the first one
    if len(ended) == 1 or ended[-1] > len(summed):  # no such line, or the files do not belong together
        return summed
    logged = rollouts < len(ended)
    after = rollouts[logged]
    at = np.concatenate([[0], summed])[ended.astype(np.int64)]  # summed lengths after each rollout
    share = (summed[logged] - at[after - 1]) / (at[after] - at[after - 1])
    result = np.full(len(summed), steps[-1])
    result[logged] = steps[after - 1] + share * (steps[after] - steps[after - 1])
    return np.round(result).astype(np.int64)


def read_columns(path: Path | IO[bytes], *names: str) -> np.ndarray:
    """
    :param path: A log of SB3's, as CSV
    :param names: Columns
    :return: the lines that have all of them, ``(n, len(names))`` float64, ``n`` = 0 where there is no such file or column
    """
    import pandas

    try:
        table = pandas.read_csv(path, usecols=lambda name: name in names, dtype=np.float64)
    except (OSError, ValueError, pandas.errors.ParserError):  # there is none, or it is broken: the monitor file is what counts
        return np.zeros((0, len(names)))
    if set(table.columns) != set(names):
        return np.zeros((0, len(names)))
    return table[list(names)].dropna().to_numpy()


def read_places(path: Path) -> np.ndarray:
    """
    :param path: A log of SB3's, as CSV
    :return: steps and distinct places, ``(n, 2)``, at most ``MAX_BINS`` of them with the last among them; ``(0, 2)`` where
        nothing was counted
    """
    values = read_columns(path, "time/total_timesteps", "exploration/places")
    return values[:: -(len(values) // MAX_BINS + 1)][::-1]


def read_monitor(path: Path):  # type: ignore[no-untyped-def]  # pandas is an extra
    """
    One file of those that SB3's ``load_results`` reads, which takes a line for whole that was cut off within its last number.

    :param path: A monitor file of SB3 or of ``StreamMonitor``, or one that was thinned: there a line stands for ``n`` episodes
        with their mean rewards and summed lengths, the last of which ended at ``steps``
    :return: its header, a table of the finished episodes, and a remark on lines that were left out
    :raises ValueError: if it is no monitor file
    """
    import pandas

    with open(path, "rb") as file:
        first = file.readline()
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(max(0, size - 1))
        whole = file.read(1) == b"\n"
    if not first.startswith(b"#"):
        raise ValueError("the first line is not the header of a monitor file")
    try:
        header = json.loads(first[1:])
    except ValueError as error:
        raise ValueError("the header cannot be read") from error
    table = pandas.read_csv(path, skiprows=1, usecols=lambda name: name in COLUMNS, dtype=np.float64)
    missing = {"r", "l", "t"} - set(table.columns)
    if missing:
        raise ValueError(f"column {sorted(missing)[0]!r} is missing")
    n_rows = len(table)
    if not whole:  # a number may have lost its last digits without looking so
        table = table.iloc[:-1]
    table = table[np.isfinite(table.to_numpy()).all(axis=1)]
    left_out = n_rows - len(table)
    return header, table, f"{path.name}: {left_out} incomplete line{'s' * (left_out > 1)} left out" if left_out else ""


def bin_episodes(steps: np.ndarray, values: np.ndarray, counts: np.ndarray | None = None) -> Curve:
    """
    :param steps: At the end of each episode, ``(n,)``, ascending
    :param values: ``(n, 2)``
    :param counts: How many episodes each of them stands for, ``(n,)``; None: one
    :return: their curve
    """
    width = 1
    while steps[-1] > width * MAX_BINS:
        width *= 2
    index = (steps - 1) // width
    n_bins = int(index[-1]) + 1
    counts = np.ones(len(steps), np.int64) if counts is None else counts
    sums = np.stack([np.bincount(index, weights=column * counts, minlength=n_bins) for column in values.T], axis=1)
    return Curve(width, sums, np.bincount(index, weights=counts, minlength=n_bins).astype(np.int64))
