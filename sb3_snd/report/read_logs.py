"""Read runs from the Zoo's log folders (algo key / environment / run) and reduce each to a few numbers.

Knows the columns of ``monitor.csv`` and ``progress.csv``. Must not know pictures, tables or published
figures.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from enum import IntEnum
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from sb3_snd.common.extras import require
from sb3_snd.common.processors import available_cpus
from sb3_snd.report.markdown import plural

COLUMNS = ("r", "l", "t", "r_ext", "n", "steps")  # columns of a monitor file
MAX_BINS = 512  # maximum number of bins of a stored curve; sufficiently long runs have at least half as many


class Column(IntEnum):
    """Columns of a curve."""

    REWARD = 0  # the learner's rewards
    SCORE = 1  # the environment's own


class Curve(NamedTuple):
    """Episodes, binned by the step at which they ended. Bin widths are powers of two, so that bins align."""

    width: int  # steps per bin
    sums: np.ndarray  # (n_bins, 2) float64, sums of the episodes' rewards and scores
    counts: np.ndarray  # (n_bins,) int64, number of episodes

    def widened(self, width: int) -> "Curve":
        """
        Merge bins.

        :param width: New width of a bin, a power of two and at least the current one
        :return: curve of the same episodes
        """
        factor = width // self.width
        missing = -len(self.counts) % factor
        sums = np.pad(self.sums, ((0, missing), (0, 0))).reshape(-1, factor, 2).sum(axis=1)
        counts = np.pad(self.counts, (0, missing)).reshape(-1, factor).sum(axis=1)
        return Curve(width, sums, counts)

    def means(self) -> np.ndarray:
        """
        Compute the mean reward and score of each bin.

        :return: ``(n_bins, 2)``; NaN if no episode ended in the bin
        """
        with np.errstate(invalid="ignore"):
            return self.sums / self.counts[:, None]


class RunSummary(NamedTuple):
    """The data of one run that a report needs."""

    algo: str
    env_id: str
    folder: Path
    n_steps: int  # steps at the end of the last finished episode
    n_episodes: int
    mean_reward: float  # over all training episodes
    mean_score: float
    highest_score: float
    curve: Curve
    remark: str  # remark on omitted lines, or empty
    #: (n, 2) float64: steps and distinct places so far, from ``ExplorationLogger``; may be (0, 2)
    places: np.ndarray


class Skipped(NamedTuple):
    """A folder without a readable run, and the reason."""

    folder: Path
    reason: str


def find_folders(logs: Iterable[Path]) -> list[Path]:
    """
    Find the folders of runs.

    :param logs: Folders to search recursively
    :return: folders with monitor files, sorted
    """
    return sorted({path.parent for root in logs for path in root.rglob("*monitor.csv")})


def read_runs(folders: list[Path], n_jobs: int | None = None) -> Iterator[RunSummary | Skipped]:
    """
    Read runs in parallel.

    :param folders: Folders from :func:`find_folders`
    :param n_jobs: Number of processes; :func:`~sb3_snd.common.precision.available_cpus` by default
    :return: the runs, or why a folder cannot be read, one after the other in the order of ``folders``
    :raises ImportError: if pandas is missing; the message names the extra
    """
    require("pandas", "plots")
    n_jobs = min(n_jobs or available_cpus(), len(folders))
    if n_jobs < 2:
        yield from map(read_run, folders)
        return
    with ProcessPoolExecutor(n_jobs) as pool:
        yield from pool.map(read_run, folders, chunksize=1)


def read_run(folder: Path) -> RunSummary | Skipped:
    """
    Read the run in a folder.

    :param folder: Folder with ``monitor.csv``, or with one ``*.monitor.csv`` per environment
    :return: the run, or the reason why it cannot be read
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
    return RunSummary(
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
    Compute the run's step at the end of each episode.

    If episodes are missing, such as those in progress when emulators were restarted, the lengths of the
    others do not add up to the steps of the run. The log has the number of finished episodes after each
    rollout, so the lengths within a rollout are stretched to its steps. Episodes before the first such line
    are stretched up to it. Episodes after the last one are placed at its step.

    :param episodes: Table from :func:`read_monitor`
    :param progress: SB3's log in CSV format
    :return: steps, ``(n,)`` int64: from the column ``steps`` if it exists, else from the log if it has
        ``time/episodes``, else the summed lengths
    """
    if "steps" in episodes:
        return episodes["steps"].to_numpy(np.int64)
    summed = episodes["l"].to_numpy(np.int64).cumsum()
    ended, steps = np.pad(read_columns(progress, "time/episodes", "time/total_timesteps"), ((1, 0), (0, 0))).T
    # Rollout in which each ended; 0 is before the first
    rollouts = np.searchsorted(ended, np.arange(1, len(summed) + 1))
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
    Read columns of a log.

    :param path: SB3's log in CSV format
    :param names: Names of columns
    :return: lines in which none of them is empty, ``(n, len(names))`` float64; ``n`` is 0 if the file or a
        column is missing
    """
    import pandas

    try:
        table = pandas.read_csv(path, usecols=lambda name: name in names, dtype=np.float64)
    except (OSError, ValueError, pandas.errors.ParserError):  # missing or damaged; only the monitor file is required
        return np.zeros((0, len(names)))
    if set(table.columns) != set(names):
        return np.zeros((0, len(names)))
    return table[list(names)].dropna().to_numpy()


def read_places(path: Path) -> np.ndarray:
    """
    Read the numbers of distinct places.

    :param path: SB3's log in CSV format
    :return: steps and distinct places, ``(n, 2)``, thinned to at most ``MAX_BINS`` lines including the last;
        ``(0, 2)`` if no places were counted
    """
    values = read_columns(path, "time/total_timesteps", "exploration/places")
    every = len(values) // MAX_BINS + 1
    return values[::-every][::-1]  # thinned from the end, so that the last line stays


def read_monitor(path: Path):  # type: ignore[no-untyped-def]  # pandas is an extra
    """
    Read one monitor file. Unlike SB3's ``load_results``, drop a last line that may be cut off within a
    number.

    :param path: Monitor file of SB3 or of ``StreamMonitor``, or a thinned one. In the latter, a line stands
        for ``n`` episodes with their mean rewards and summed lengths, the last of which ended at ``steps``
    :return: the header, a table of the finished episodes, and a remark on omitted lines
    :raises ValueError: if it is not a monitor file
    """
    import pandas

    with open(path, "rb") as file:
        first = file.readline()
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(max(0, size - 1))
        is_complete = file.read(1) == b"\n"
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
    if not is_complete:  # the last number may lack digits
        table = table.iloc[:-1]
    table = table[np.isfinite(table.to_numpy()).all(axis=1)]
    left_out = n_rows - len(table)
    return header, table, f"{path.name}: {left_out} {plural(left_out, 'incomplete line')} left out" if left_out else ""


def bin_episodes(steps: np.ndarray, values: np.ndarray, counts: np.ndarray | None = None) -> Curve:
    """
    Bin episodes by the step at which they ended.

    :param steps: Steps at the end of each episode, ``(n,)``, ascending
    :param values: Rewards and scores, ``(n, 2)``
    :param counts: Number of episodes that each entry stands for, ``(n,)``; None for one each
    :return: curve of the episodes
    """
    width = 1
    while steps[-1] > width * MAX_BINS:
        width *= 2
    index = (steps - 1) // width
    n_bins = int(index[-1]) + 1
    counts = np.ones(len(steps), np.int64) if counts is None else counts
    sums = np.stack([np.bincount(index, weights=column * counts, minlength=n_bins) for column in values.T], axis=1)
    return Curve(width, sums, np.bincount(index, weights=counts, minlength=n_bins).astype(np.int64))
