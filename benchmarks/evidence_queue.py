"""The queue of `evidence.py`: runs of the paper's experiments, each up to a number of steps, and how `train.py` is called."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

SAVE_FREQ = 100_000
PARAMS = ("callback:'sb3_snd.ExplorationLogger'",)


class Stage(NamedTuple):
    """A line of the queue: a run, up to a number of steps."""

    env: str
    algo: str
    seed: int
    steps: int
    params: tuple[str, ...] = PARAMS
    points: Mapping[float, float] = MappingProxyType({})  # million steps -> published mean reward

    @property
    def run(self) -> str:
        """The folder of what is kept of the run."""
        return f"{self.algo}/{self.name}_{self.seed}"

    @property
    def name(self) -> str:
        """The environment as the Zoo writes it."""
        return self.env.replace("/", "-")

    def __str__(self) -> str:
        return f"{self.algo} {self.env} seed {self.seed}"

    def command(self, logs: Path, device: str) -> list[str]:
        """:return: what follows after ``python``"""
        what = ["--algo", self.algo, "--env", self.env, "--seed", str(self.seed), "-n", str(self.steps)]
        how = ["--save-freq", str(SAVE_FREQ), "--resume", "-f", str(logs)]
        how += ["--device", device] if device != "auto" else []
        return ["train.py", *what, *how, *(["-params", *self.params] if self.params else [])]

    def output(self, logs: Path) -> Path:
        """:return: what the run's processes print"""
        return logs / f"{self.run.replace('/', '.')}.train.log"

    def folder(self, logs: Path) -> Path:
        """:return: the newest folder of the run, as ``--resume`` finds it; one that is not there before its beginning"""
        import yaml

        found = logs.glob(f"{self.algo}/{self.name}_*/{self.name}/args.yml")
        for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
            if yaml.load(path.read_text(), Loader=yaml.UnsafeLoader)["seed"] == self.seed:  # as the Zoo reads its own files
                return path.parent.parent
        return logs / self.algo / "none"


def read_queue(path: Path) -> list[Stage]:
    """
    :param path: YAML file
    :return: its lines
    :raises ValueError: if it is no queue
    """
    import yaml

    try:
        lines = yaml.safe_load(path.read_text())
        return [Stage(**{**line, "params": tuple(line.get("params", PARAMS))}) for line in lines]
    except (OSError, TypeError, AttributeError, yaml.YAMLError) as error:
        names = ", ".join(Stage._fields)
        reason = " ".join(str(error).split())  # of a YAML error, which takes several lines
        raise ValueError(f"{path} is no queue ({reason}): give a YAML file whose lines have {names}.") from error
