"""A run of a sweep: its command line, where it lies, and how far it has come.

Knows the Zoo's command line and log folders. Must not know Ray, nor how a run is started.
"""

import csv
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

TAIL = 2**16  # bytes, of which the last line is read


class Run(NamedTuple):
    """One algorithm in one environment with one seed. Each seed has a log folder, so that no two runs number theirs."""

    algo: str
    env_id: str
    seed: int
    n_steps: int
    logs: Path

    @property
    def root(self) -> Path:
        """The log folder that ``train.py`` gets."""
        return self.logs / f"seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """Its own folder, which ``train.py`` makes."""
        name = self.env_id.replace("/", "-")  # as the Zoo writes it
        numbers = [path.name.removeprefix(f"{name}_") for path in (self.root / self.algo).glob(f"{name}_*")]
        return self.root / self.algo / f"{name}_{max([1, *map(int, filter(str.isdigit, numbers))])}"

    @property
    def log(self) -> Path:
        """What ``train.py`` prints. It lies beside the folder, which must not be there before the run."""
        return self.root / self.algo / f"{self.env_id.replace('/', '-')}.train.log"

    def __str__(self) -> str:
        return f"{self.algo} {self.env_id} seed {self.seed}"


class Progress(NamedTuple):
    """The last line of a log."""

    n_steps: int
    steps_per_s: float
    mean_reward: float | None  # of the last episodes; None before one has ended


def train_command(run: Run, n_threads: int, save_freq: int, further: list[str]) -> list[str]:
    """
    :param run: The run
    :param n_threads: Threads of PyTorch
    :param save_freq: Steps between checkpoints
    :param further: Arguments that are passed on
    :return: what follows after ``python``; the same for the first try and for all others
    """
    where = ["--algo", run.algo, "--env", run.env_id, "--seed", str(run.seed), "-f", str(run.root)]
    how = ["-n", str(run.n_steps), "--num-threads", str(n_threads), "--save-freq", str(save_freq), "--resume"]
    return ["-m", "sb3_snd.zoo", *where, *how, *further]


def finished(folder: Path, n_steps: int) -> bool:
    """
    :param folder: A run's folder, ``ENV_1``
    :param n_steps: Steps that it should have
    :return: whether the final model is there and has them
    """
    model = folder / f"{folder.name.rpartition('_')[0]}.zip"
    try:
        with zipfile.ZipFile(model) as archive:
            return bool(json.loads(archive.read("data"))["num_timesteps"] >= n_steps)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):
        return False  # there is none, or it is broken


def read_progress(folder: Path) -> Progress | None:
    """
    :param folder: A run's folder with ``progress.csv``
    :return: how far it is; None before the first line
    """
    try:
        with open(folder / "progress.csv", "rb") as file:
            head = file.readline().decode()
            file.seek(max(len(head), file.seek(0, 2) - TAIL))
            lines = file.read().decode().splitlines(keepends=True)
    except OSError:
        return None
    whole = [line for line in lines if line.endswith("\n")][-1:]
    row = next(csv.DictReader([head, *whole]), {})
    try:
        reward = row.get("rollout/ep_rew_mean")
        return Progress(int(row["time/total_timesteps"]), float(row["time/fps"]), float(reward) if reward else None)
    except (KeyError, TypeError, ValueError):  # SB3 writes the file anew when a column is added
        return None


def last_line(path: Path) -> str:
    """
    :param path: A text file
    :return: its last line that is not empty, where mostly the error is
    """
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
