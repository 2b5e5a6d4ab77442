"""What is kept of a run: its CSV files, where it was computed, and its model.

Knows log files, checkpoints and saved models. Must not know any published result.
"""

import contextlib
import functools
import io
import json
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from stable_baselines3.common.utils import get_device

import sb3_snd
from sb3_snd.common.precision import resolve_precision
from sb3_snd.common.processors import processor_name
from sb3_snd.common.versions import find_versions
from sb3_snd.report.read_logs import episode_steps, read_columns, read_monitor
from sb3_snd.runs.checkpoint_files import STATE, list_checkpoints

LIMIT = 1_000_000  # maximum size of a file in bytes; larger ones are thinned
LINE = 64  # maximum size in bytes of a line of a thinned monitor file
WINDOW = 100_000  # number of steps before a published point whose episodes count


def n_steps_of(folder: Path) -> int:
    """
    Read how far a run is.

    :param folder: Folder of a run, or of what is kept of it
    :return: number of steps in its log
    """
    steps = read_log(folder, "time/total_timesteps")
    return int(steps[-1, 0]) if len(steps) else 0


def read_log(folder: Path, *names: str) -> np.ndarray:
    """
    Read columns of a run's log.

    :param folder: Folder of a run, or of what is kept of it
    :param names: Names of the columns
    :return: ``(n, len(names))`` float64, from the complete lines that have all columns
    """
    path = folder / "progress.csv"
    return read_columns(io.BytesIO(whole_lines(path) if path.exists() else b""), *names)


def pack(folder: Path, target: Path, facts: dict[str, Any], points: Iterable[float]) -> None:
    """
    Keep a run's log files: ``monitor.csv``, ``progress.csv``, ``places.txt`` if places were counted, and
    ``run.json``. Nothing is written if more steps of the run are kept already.

    :param folder: Folder of the run
    :param target: Folder for the files
    :param facts: Additional entries of ``run.json``
    :param points: Steps at which the run is judged; thinning does not change the judgement
    """
    n_steps = n_steps_of(folder)
    if n_steps < n_steps_of(target):
        return
    target.mkdir(parents=True, exist_ok=True)
    per_line = thin_monitor(folder, target / "monitor.csv", points)
    thin_lines(folder / "progress.csv", target / "progress.csv")
    places = read_places(folder)
    if places:
        (target / "places.txt").write_text("\n".join(places) + "\n")
    facts = {**facts, "steps": n_steps, "hours": round(hours(folder), 2), "episodes_per_line": per_line}
    (target / "run.json").write_text(json.dumps(facts, indent=1) + "\n")


def thin_monitor(folder: Path, target: Path, points: Iterable[float]) -> int:
    """
    Copy a monitor file, and if it is too large merge episodes into lines that stand for several of them, see
    :func:`sb3_snd.report.read_logs.read_monitor`. No line crosses an end of a window in which a point is
    judged, and the best episode has its own line.

    :param folder: Folder of a run
    :param target: Path of the new file
    :param points: Steps at which the run is judged
    :return: maximum number of episodes of a line
    """
    source = folder / "monitor.csv"
    if source.stat().st_size <= LIMIT:
        target.write_bytes(whole_lines(source))
        return 1
    _, episodes, _ = read_monitor(source)
    episodes["steps"] = episode_steps(episodes, folder / "progress.csv")
    per_line = -(-len(episodes) * LINE // LIMIT)
    begins = np.arange(len(episodes)) % per_line == 0
    edges = [point - WINDOW * width for point in points for width in (0, *(2**k for k in range(10)))]
    best = int(episodes["r"].to_numpy().argmax())
    for place in (*np.searchsorted(episodes["steps"], edges, side="right"), best, best + 1):
        begins[place : place + 1] = True
    groups = episodes.groupby(begins.cumsum())
    table = groups.agg({"r": "mean", "l": "sum", "t": "last", "r_ext": "mean", "steps": "last"})
    table.insert(4, "n", groups.size())
    table["l"] = table["l"].astype(np.int64)
    with open(source) as file, open(target, "w") as thinned:
        thinned.write(file.readline())
        table.round({"r": 6, "r_ext": 6, "t": 0}).to_csv(thinned, index=False)
    return per_line


def thin_lines(source: Path, target: Path) -> None:
    """
    Copy a CSV file, and if it is too large only every n-th line, including the last one.

    :param source: Path of the file
    :param target: Path of the new file
    """
    head, *lines = whole_lines(source).splitlines(keepends=True) or [b""]
    every = -(-sum(map(len, lines)) // LIMIT) or 1
    target.write_bytes(b"".join([head, *lines[::-1][::every][::-1]]))


def whole_lines(path: Path) -> bytes:
    """
    Read a file to which another process may be writing.

    :param path: Path of the file
    :return: its content without an incomplete last line
    """
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def read_places(folder: Path) -> list[str]:
    """
    Read the distinct places that a run has seen, from its newest checkpoint.

    :param folder: Folder of the run
    :return: places of ``ExplorationLogger``, sorted; empty if there are none
    """
    for path in list_checkpoints(folder)[:1]:
        with zipfile.ZipFile(path) as archive:
            callbacks = dict(pickle.loads(archive.read(STATE))["callbacks"])  # a file of our own
        return list(map(str, sorted(callbacks.get("ExplorationLogger", {}).get("places", ()))))
    return []


def hours(folder: Path) -> float:
    """
    Add up the time that a run has taken.

    :param folder: Folder of the run
    :return: wall-clock time of its processes in hours, up to the last rollout of each
    """
    iterations, elapsed = read_log(folder, "time/iterations", "time/time_elapsed").T
    last = np.append(iterations[1:] <= iterations[:-1], True)[: len(elapsed)]
    return float(elapsed[last].sum() / 3600)


@functools.cache
def machine(device: str) -> dict[str, str]:
    """
    Describe what a run is computed with.

    :param device: PyTorch device
    :return: commit, or version if this package is not in a repository; processor; precision; and versions
    """
    used = get_device(device)
    processor = processor_name()
    if used.type == "cuda":
        processor = f"{th.cuda.get_device_name()}, {processor}"
    versions = find_versions("torch", "stable_baselines3", "numpy")
    return {
        "commit": find_commit(Path(__file__)),
        "processor": processor,
        "precision": resolve_precision("auto", used),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def find_commit(source: Path) -> str:
    """
    Find the commit of a source file of this package.

    :param source: Path of the file
    :return: abbreviated hash, with ``-dirty`` if there are changes outside ``results/``, where runs are packed; the
        version if no repository has the file, as in a wheel that is installed below another repository
    """
    git = ["git", "-C", str(source.parent)]
    pipes: Any = dict(capture_output=True, text=True, check=True)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # there is no git, or no repository with the file
        subprocess.run([*git, "ls-files", "--error-unmatch", source.name], **pipes)
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], **pipes).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results"]
        return commit + ("-dirty" if subprocess.run(status, **pipes).stdout else "")
    return f"version {sb3_snd.__version__}"


def keep_model(source: Path, models: Path) -> Path:
    """
    Keep a model for playing and analysis: weights of its layers are stored in 16 bits, and optimisers without
    their state.

    :param source: Model or checkpoint in a run's folder
    :param models: Log folder for the new file
    :return: path of the new file
    """
    data, nets, variables = load_from_zip_file(source, device="cpu")
    assert data is not None
    params: dict[str, Any] = dict(nets)
    halves: dict[int, th.Tensor] = {}  # nets with several names are saved once

    def half(tensor: th.Tensor) -> th.Tensor:
        return halves.setdefault(tensor.data_ptr(), tensor.half())

    for name, state in params.items():
        if name.endswith("optimizer"):
            state["state"] = {}
        else:
            params[name] = {key: half(value) if key.endswith(".weight") else value for key, value in state.items()}
    data.update(_last_obs=None, _last_original_obs=None, tensorboard_log=None)
    run = source.absolute().parent
    env_id = run.name.rpartition("_")[0]
    target = models / run.parent.name / run.name
    shutil.copytree(run / env_id, target / env_id, dirs_exist_ok=True)
    save_to_zip_file(target / f"{env_id}.zip", data=data, params=params, pytorch_variables=variables)
    return target / f"{env_id}.zip"
