"""What `evidence.py` keeps of a run: its CSV files, where it was computed, what the published points make of it, its model."""

import functools
import io
import json
import os
import pickle
import platform
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file
from stable_baselines3.common.utils import get_device

from sb3_snd.common.precision import resolve_precision
from sb3_snd.report.read_logs import episode_steps, read_columns, read_monitor
from sb3_snd.runs.checkpoint_files import STATE, list_checkpoints

LIMIT = 1_000_000  # bytes of a file above which it is thinned
LINE = 64  # bytes of a line of a thinned monitor file, at most
WINDOW = 100_000  # steps before a published point whose episodes count
MARGIN = 1.0  # in Procgen, of 10
SHARE = 0.5  # in Atari


def n_steps_of(folder: Path) -> int:
    """
    :param folder: Of a run, or of what was kept of one
    :return: steps that its log has come to
    """
    steps = read_log(folder, "time/total_timesteps")
    return int(steps[-1, 0]) if len(steps) else 0


def read_log(folder: Path, *names: str) -> np.ndarray:
    """
    :param folder: Of a run, or of what was kept of one
    :param names: Columns
    :return: the whole lines of its log that have all of them, ``(n, len(names))``
    """
    path = folder / "progress.csv"
    return read_columns(io.BytesIO(whole_lines(path) if path.exists() else b""), *names)


def pack(folder: Path, target: Path, facts: dict[str, Any], points: Iterable[float]) -> None:
    """
    :param folder: Of a run
    :param target: Gets ``monitor.csv``, ``progress.csv``, ``places.txt`` where places were seen, and ``run.json``. It is left
        as it is if it already holds more steps of the run
    :param facts: What else ``run.json`` says
    :param points: Steps at which the run is judged, also after it was thinned
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
    A file above a megabyte becomes one whose lines stand for several episodes, see
    :func:`sb3_snd.report.read_logs.read_monitor`.
    No line reaches over the beginning or the end of what a point is judged by, and the best episode has its own.

    :param folder: Of a run
    :param target: The file to write
    :param points: Steps
    :return: episodes in a line, at most
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
    :param source: A CSV file
    :param target: Gets it, or above a megabyte every n-th of its lines, the last among them
    """
    head, *lines = whole_lines(source).splitlines(keepends=True) or [b""]
    every = -(-sum(map(len, lines)) // LIMIT) or 1
    target.write_bytes(b"".join([head, *lines[::-1][::every][::-1]]))


def whole_lines(path: Path) -> bytes:
    """
    :param path: A file that may be written to
    :return: its content without a last line that is not there whole
    """
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def read_places(folder: Path) -> list[str]:
    """
    :param folder: Of a run
    :return: the distinct places that its newest checkpoint knows, of ``ExplorationLogger``
    """
    for path in list_checkpoints(folder)[:1]:
        with zipfile.ZipFile(path) as archive:
            callbacks = dict(pickle.loads(archive.read(STATE))["callbacks"])  # our own file
        return list(map(str, sorted(callbacks.get("ExplorationLogger", {}).get("places", ()))))
    return []


def hours(folder: Path) -> float:
    """
    :param folder: Of a run
    :return: wall clock of its processes, up to the last rollout of each
    """
    iterations, elapsed = read_log(folder, "time/iterations", "time/time_elapsed").T
    last = np.append(iterations[1:] <= iterations[:-1], True)[: len(elapsed)]
    return float(elapsed[last].sum() / 3600)


@functools.cache
def machine(device: str) -> dict[str, str]:
    """
    :param device: PyTorch device
    :return: commit, processor and versions that a run is computed with
    """
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    used = get_device(device)
    processor = f"{names[0].partition(':')[2].strip() if names else platform.machine()}, {os.cpu_count()} cores"
    if used.type == "cuda":
        processor = f"{th.cuda.get_device_name()}, {processor}"
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    versions = f"Python {platform.python_version()}, torch {th.__version__}, stable_baselines3 {stable_baselines3.__version__}"
    precision = resolve_precision("auto", used)
    return {
        "commit": commit,
        "processor": processor,
        "precision": precision,
        "versions": f"{versions}, numpy {np.__version__}",
    }


def keep_model(source: Path, models: Path) -> Path:
    """
    A model to play and to analyse: weights of its layers in 16 bits, optimisers as new. Training on from it begins with them.

    :param source: A model or checkpoint in a run's folder
    :param models: Log folder to lay it out in
    :return: the zip
    """
    data, nets, variables = load_from_zip_file(source, device="cpu")
    assert data is not None
    params: dict[str, Any] = dict(nets)
    halves: dict[int, th.Tensor] = {}  # nets that stand under several names are saved once

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
