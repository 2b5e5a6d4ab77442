"""A job of a sweep: the run that it trains, the run's command line and files, and its state.

Knows the Zoo's command line and log folders. Must not know Ray or how a run is started.
"""

import csv
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

TAIL = 2**16  # number of bytes that are read to find the last line of a file

#: state of a job; it is stopping or stopped if the sweep was interrupted
State = Literal["waiting", "running", "stopping", "stopped", "failed", "done"]


class Progress(NamedTuple):
    """The last line of a run's log."""

    n_steps: int  #: number of steps made
    steps_per_s: float  #: steps per second
    mean_reward: float | None  #: mean over the last episodes; None before the first one has ended


@dataclass
class Job:
    """
    A run of a sweep: one algorithm in one environment with one seed. Each seed has its own log folder, in
    which run numbers are unique.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :param seed: Seed of the run
    :param n_steps: Number of steps of the whole run
    :param logs: Log folder of the sweep
    :param state: Present state of the run
    :param tries: Number of tries that were started
    :param reason: Reason of the last failure
    :param progress: Last line of the run's log
    """

    algo: str
    env_id: str
    seed: int
    n_steps: int
    logs: Path
    state: State = "waiting"
    tries: int = 0
    reason: str = ""
    progress: Progress | None = None

    @property
    def root(self) -> Path:
        """Return the log folder that is given to ``sb3-snd train``."""
        return self.logs / f"seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """Return the run's own folder, which ``sb3-snd train`` creates."""
        name = self.env_id.replace("/", "-")  # as in the Zoo
        numbers = [path.name.removeprefix(f"{name}_") for path in (self.root / self.algo).glob(f"{name}_*")]
        return self.root / self.algo / f"{name}_{max([1, *map(int, filter(str.isdigit, numbers))])}"

    @property
    def log(self) -> Path:
        """
        Return the file for the output of ``sb3-snd train``. It is outside the run's folder, which must not exist
        before the run.
        """
        return self.root / self.algo / f"{self.env_id.replace('/', '-')}.train.log"

    def __str__(self) -> str:
        return f"{self.algo} {self.env_id} seed {self.seed}"


def train_command(job: Job, n_threads: int, save_freq: int, train_args: list[str]) -> list[str]:
    """
    Assemble the command that trains a run. It is the same for all tries.

    :param job: Job of a sweep
    :param n_threads: Number of PyTorch's threads
    :param save_freq: Number of steps between checkpoints
    :param train_args: Additional arguments for ``sb3-snd train``
    :return: arguments of ``python``
    """
    where = ["--algo", job.algo, "--env", job.env_id, "--seed", str(job.seed), "-f", str(job.root)]
    how = ["-n", str(job.n_steps), "--num-threads", str(n_threads), "--save-freq", str(save_freq), "--resume"]
    return ["-m", "sb3_snd.zoo", *where, *how, *train_args]


def is_finished(folder: Path, n_steps: int) -> bool:
    """
    Check whether a run is finished.

    :param folder: Folder of the run, ``ENV_1``
    :param n_steps: Number of steps of the finished run
    :return: whether the final model exists and was trained for that many steps
    """
    model = folder / f"{folder.name.rpartition('_')[0]}.zip"
    try:
        with zipfile.ZipFile(model) as archive:
            return bool(json.loads(archive.read("data"))["num_timesteps"] >= n_steps)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):
        return False  # missing or damaged


def read_progress(folder: Path) -> Progress | None:
    """
    Read the progress of a run.

    :param folder: Folder of the run, with ``progress.csv``
    :return: progress; None if nothing has been logged yet
    """
    try:
        with open(folder / "progress.csv", "rb") as file:
            head = file.readline().decode()
            file.seek(max(len(head), file.seek(0, 2) - TAIL))
            lines = file.read().decode().splitlines(keepends=True)
    except OSError:
        return None
    complete = [line for line in lines if line.endswith("\n")]
    row = next(csv.DictReader([head, *complete[-1:]]), {})
    try:
        reward = row.get("rollout/ep_rew_mean")
        return Progress(int(row["time/total_timesteps"]), float(row["time/fps"]), float(reward) if reward else None)
    except (KeyError, TypeError, ValueError):  # SB3 is rewriting the file to add a column
        return None


def last_line(path: Path) -> str:
    """
    Read the last non-empty line of a file. In the output of a failed process, this is usually the error.

    :param path: Path of a text file
    :return: the line; empty if there is none
    """
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
