"""Which published points the runs meet, and how far each run is.

Knows what is kept of a run. Must not know how a run is trained.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sb3_snd.evidence.pack import WINDOW, n_steps_of
from sb3_snd.evidence.stages import Stage
from sb3_snd.report.__main__ import report
from sb3_snd.report.read_logs import episode_steps, read_monitor
from sb3_snd.sweep.job import is_finished

MARGIN = 1.0  # in Procgen, ours may be lower by so much, of 10
SHARE = 0.5  # in Atari, ours may be this share of the published reward


class Judgement(NamedTuple):
    """Our mean reward at a published point, and the episodes over which it was taken."""

    mean: float
    n_episodes: int
    window: int  # number of steps before the point


def judge(folder: Path, point: float) -> Judgement | None:
    """
    Compute the mean reward over the episodes that ended in the 100,000 steps before a point; if none did, in
    twice as many, and so on. The reward is the learner's: in Atari 0 or 1 at each step.

    :param folder: Folder of a run, or of what is kept of it
    :param point: Number of steps
    :return: mean reward; None if the run has not come as far, or no episode has ended
    """
    if n_steps_of(folder) < point:
        return None
    _, episodes, _ = read_monitor(folder / "monitor.csv")
    steps = episode_steps(episodes, folder / "progress.csv")
    counts = episodes["n"].to_numpy(np.int64) if "n" in episodes else np.ones(len(episodes), np.int64)
    window = WINDOW
    while not (within := (steps > point - window) & (steps <= point)).any():
        if window > point:
            return None
        window *= 2
    mean = float(np.average(episodes["r_ext"].to_numpy()[within], weights=counts[within]))
    return Judgement(mean, int(counts[within].sum()), window)


def needed(env_id: str, published: float) -> float:
    """
    Compute the mean reward from which on a published point is met.

    :param env_id: Gymnasium id
    :param published: Published mean reward
    :return: lowest mean reward that meets the point
    """
    return published - MARGIN if env_id.startswith("procgen-") else SHARE * published


def n_steps_kept(stage: Stage, out: Path) -> int:
    """
    Read how many steps of a run are kept.

    :param stage: The run
    :param out: Folder with ``runs``
    :return: number of steps
    """
    return n_steps_of(out / "runs" / stage.run)


def is_done(stage: Stage, logs: Path, out: Path) -> bool:
    """
    Check whether a stage is done, in the log folder or in what is kept.

    :param stage: The run and its steps
    :param logs: Log folder of the runs
    :param out: Folder with ``runs``
    :return: whether the run has all its steps
    """
    return is_finished(stage.folder(logs), stage.steps) or n_steps_kept(stage, out) >= stage.steps


def verdicts(stage: Stage, folder: Path) -> Iterator[tuple[float, float, str, str]]:
    """
    Compare a run with its published points.

    :param stage: The run and its points
    :param folder: Folder of the run, or of what is kept of it
    :return: million steps, published mean reward, ours with the episodes over which it was taken, and the verdict
    """
    for point, published in stage.points.items():
        ours = judge(folder, 1e6 * point)
        if ours is None:
            yield point, published, "–", "not there yet"
            continue
        over = f"{ours.mean:.2f} ({ours.n_episodes:,} episodes of {ours.window:,} steps)"
        yield point, published, over, "met" if ours.mean >= needed(stage.env, published) else "missed"


def write_report(queue: list[Stage], out: Path) -> None:
    """
    Write a report on all runs that are kept, ``report``, and a table of the published points, ``points.md``.

    :param queue: All stages
    :param out: Folder with ``runs``
    """
    if not list((out / "runs").rglob("monitor.csv")):
        return
    report([out / "runs"], out / "report")
    lines = [
        f"""\
# Published points

*Ours* is the mean reward over the episodes that ended in the {WINDOW:,} steps before the point; where none did, in twice as
many, and so on. In Procgen a point is met if ours is at least the published mean minus {MARGIN:g}, in Atari if it is at least
{SHARE:g} times the published mean. Ours is one seed, the published ones are means of nine. Runs that have not begun are
left out.

| environment | algo | seed | million steps | published | ours | |
|---|---|---:|---:|---:|---:|---|"""
    ]
    for stage in queue:
        if n_steps_kept(stage, out) > 0:
            for point, published, ours, verdict in verdicts(stage, out / "runs" / stage.run):
                cells = (stage.env, f"`{stage.algo}`", stage.seed, f"{point:g}", f"{published:g}", ours, verdict)
                lines.append(f"| {' | '.join(map(str, cells))} |")
    (out / "points.md").write_text("\n".join([*lines, "", *runs_table(out / "runs")]) + "\n")


def runs_table(runs: Path) -> list[str]:
    """
    Format a table of how far each run is, and where it was computed.

    :param runs: Folder of the runs that are kept
    :return: lines of Markdown
    """
    lines = ["# Runs", "", "| run | million steps | hours | processor | commits, from step |", "|---|---:|---:|---|---|"]
    for path in sorted(runs.glob("*/*/run.json")):
        facts = json.loads(path.read_text())
        steps = f"{facts['steps'] / 1e6:.3g}" + ("" if facts["finished"] else f", *unfinished*, of {facts['goal'] / 1e6:.3g}")
        changes = [next(entries) for _, entries in itertools.groupby(facts["sessions"], lambda entry: entry["commit"])]
        commits = ", ".join(f"{entry['commit']} from {entry['from']:,}" for entry in changes)
        processors = "; ".join(dict.fromkeys(entry["processor"] for entry in facts["sessions"] if "processor" in entry))
        cells = (f"`{path.parent.relative_to(runs)}`", steps, f"{facts['hours']:.1f}", processors, commits)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def status(queue: list[Stage], logs: Path, out: Path) -> str:
    """
    Describe how far each stage is, and which points it meets.

    :param queue: All stages
    :param logs: Log folder of the runs
    :param out: Folder with ``runs``
    :return: one line per stage
    """
    lines = []
    for number, stage in enumerate(queue, 1):
        folder = max(stage.folder(logs), out / "runs" / stage.run, key=n_steps_of)
        n_steps = n_steps_of(folder)
        state = "done" if is_done(stage, logs, out) else "waiting" if n_steps == 0 else "under way"
        parts = [f"{number}. {stage}: {n_steps:,} of {stage.steps:,} steps, {state}"]
        now = judge(folder, n_steps) if n_steps > 0 else None
        parts += [f"mean reward now {now.mean:.2f}"] if now else []
        for point, published, ours, verdict in verdicts(stage, folder):
            parts += [f"{published:g} published at {point:g}M, ours {ours}: {verdict}"] if n_steps >= 1e6 * point else []
        lines.append("; ".join(parts))
    return "\n".join(lines)
