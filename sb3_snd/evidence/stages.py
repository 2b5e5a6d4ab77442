"""The queue: runs of the paper's experiments, each up to a number of steps, and the command that trains one.

Knows the command line of ``train`` and the Zoo's log folders. Must not start any process.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

QUEUE = Path(str(files("sb3_snd.evidence").joinpath("evidence.yml")))  # the queue of this package
SAVE_FREQ = 100_000  # number of steps between checkpoints
PARAMS = ("callback:'sb3_snd.ExplorationLogger'",)


class Stage(NamedTuple):
    """A line of the queue: a run, up to a number of steps."""

    env: str  # Gymnasium id
    algo: str  # algo key
    seed: int
    steps: int
    params: tuple[str, ...] = PARAMS  # hyperparameters on the command line
    points: Mapping[float, float] = MappingProxyType({})  # million steps -> published mean reward

    @property
    def run(self) -> str:
        """Return the folder, below ``runs``, for what is kept of the run."""
        return f"{self.algo}/{self.name}_{self.seed}"

    @property
    def name(self) -> str:
        """Return the environment's name in the Zoo's log folders."""
        return self.env.replace("/", "-")

    def __str__(self) -> str:
        return f"{self.algo} {self.env} seed {self.seed}"

    def arguments(self, logs: Path, device: str) -> list[str]:
        """
        Assemble the command that trains the run.

        :param logs: Log folder of the runs
        :param device: PyTorch device
        :return: arguments of ``sb3-snd``
        """
        what = ["--algo", self.algo, "--env", self.env, "--seed", str(self.seed), "-n", str(self.steps)]
        how = ["--save-freq", str(SAVE_FREQ), "--resume", "-f", str(logs)]
        how += ["--device", device] if device != "auto" else []
        return ["train", *what, *how, *(["-params", *self.params] if self.params else [])]

    def output(self, logs: Path) -> Path:
        """
        Name the file for the output of the run's processes.

        :param logs: Log folder of the runs
        :return: path of the file
        """
        return logs / f"{self.run.replace('/', '.')}.train.log"

    def folder(self, logs: Path) -> Path:
        """
        Find the newest folder of the run, as ``--resume`` finds it.

        :param logs: Log folder of the runs
        :return: path of the folder; it does not exist before the run has begun
        """
        from sb3_snd.zoo.resume import find_run  # requires an extra

        found = find_run(logs / self.algo, self.name, self.seed)
        return logs / self.algo / "none" if found is None else found[0]


def read_queue(path: Path) -> list[Stage]:
    """
    Read a queue.

    :param path: YAML file, a list of mappings with the fields of :class:`Stage`
    :return: its stages, in order
    :raises ValueError: if the file is not a queue
    """
    import yaml  # requires an extra

    try:
        lines = yaml.safe_load(path.read_text())
        return [Stage(**{**line, "params": tuple(line.get("params", PARAMS))}) for line in lines]
    except (OSError, TypeError, AttributeError, yaml.YAMLError) as error:
        names = ", ".join(Stage._fields)
        reason = " ".join(str(error).split())  # the error of a YAML file takes several lines
        raise ValueError(f"{path} is no queue ({reason}): give a YAML file whose lines have {names}.") from error
