"""The paper's two tables with our results next to the published ones, and definitions of their columns.

Knows runs and published figures. Must not draw anything.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_snd.common.extras import require
from sb3_snd.report import published
from sb3_snd.report.markdown import code, escape, table_lines
from sb3_snd.report.read_logs import Column, RunSummary, Skipped

Groups = dict[str, dict[str, list[RunSummary]]]  # environment -> algo key -> runs
Row = dict[str, object]  # column -> value; None if a value does not exist

MIN_RUNS = 5  # minimum number of runs for an interval
REPETITIONS = 2000  # number of bootstrap repetitions
SHORT = 0.95  # a run with less than this share of the published steps is called short
LAST_SHARE = 0.05  # share of a run over which its last rewards are averaged

DEFINITIONS = """\
- *Mean reward*: mean over all training episodes of the learner's reward, from the first step on (not the final performance);
  mean ± population standard deviation over runs. In Atari the learner's reward is 0 or 1 at each step, in Procgen the game's.
- *Highest score*: of one episode in the game's own points, mean over runs.
- *At the end*: mean reward of the episodes in the last 5 % of a run's steps, mean over runs, and the published curve at the
  same number of steps, read off the paper's figure to about ±0.3. For a short run compare these, not the mean rewards: the
  published mean is over a run of full length.
- *Places*: distinct places seen in the whole run (rooms, states, coarse positions; see `ExplorationLogger`), mean ± population
  standard deviation over runs.
- *IQM*: interquartile mean over runs of the mean reward, with a 95 % interval from a stratified bootstrap (rliable).
- Steps are those of the run where its log tells them (`time/episodes`), else those of finished episodes.
- The published scores of SND-V were measured otherwise, as a moving average of one environment, and in one game with other
  settings."""


def group(runs: Sequence[RunSummary]) -> Groups:
    """
    Group runs by environment and algo key.

    :param runs: Runs in any order
    :return: environment -> algo key -> runs, sorted
    """
    groups: Groups = {}
    order = {algo: place for place, algo in enumerate(published.MODELS)}
    for run in sorted(runs, key=lambda run: (run.env_id, order.get(run.algo, len(order)), run.algo)):
        groups.setdefault(run.env_id, {}).setdefault(run.algo, []).append(run)
    return groups


def last_reward(run: RunSummary) -> float:
    """
    Compute the mean reward at the end of a run.

    :param run: A run
    :return: mean reward of the episodes that ended in its last 5 % of steps, or in more bins if there are
        none
    """
    curve = run.curve
    first = int((1 - LAST_SHARE) * run.n_steps) // curve.width
    while first > 0 and curve.counts[first:].sum() == 0:
        first -= 1
    return float(curve.sums[first:, Column.REWARD].sum() / curve.counts[first:].sum())


def interval(means: Sequence[float]) -> tuple[float, float, float] | None:
    """
    Estimate the interquartile mean with a bootstrap.

    :param means: Mean reward of each run
    :return: interquartile mean, and lower and upper end of its 95 % interval; None for fewer than five runs
    :raises ImportError: if rliable is missing; the message names the extra
    """
    if len(means) < MIN_RUNS:
        return None
    require("rliable", "plots")
    from rliable import library, metrics

    def iqm(scores: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(scores)])

    before = np.random.get_state()
    np.random.seed(0)  # rliable draws from numpy's global generator, whatever its argument random_state is
    try:
        points, ends = library.get_interval_estimates({"runs": np.array(means)[:, None]}, iqm, reps=REPETITIONS)
    finally:
        np.random.set_state(before)
    return float(points["runs"][0]), float(ends["runs"][0, 0]), float(ends["runs"][1, 0])


def rows(groups: Groups) -> list[Row]:
    """
    Compute the rows of the tables.

    :param groups: Runs from :func:`group`
    :return: one row per environment and algo key, column -> value; None if a value does not exist
    """
    table: list[Row] = []
    for env_id, algos in groups.items():
        for algo, runs in algos.items():
            means = [run.mean_reward for run in runs]
            steps = [run.n_steps for run in runs]
            places = [run.places[-1, 1] for run in runs if len(run.places)]
            full, paper, estimate = published.full_steps(env_id), published.score(algo, env_id), interval(means)
            table.append(
                {
                    "environment": env_id,
                    "algo": algo,
                    "runs": len(runs),
                    "steps_min": min(steps),
                    "steps_max": max(steps),
                    "episodes": sum(run.n_episodes for run in runs),
                    "short": full is not None and min(steps) < SHORT * full,
                    "mean_reward": float(np.mean(means)),
                    "std_reward": float(np.std(means)),
                    "published_mean_reward": paper.mean_reward if paper else None,
                    "published_std_reward": paper.std_reward if paper else None,
                    "end_reward": float(np.mean([last_reward(run) for run in runs])),
                    "published_end_reward": published.curve_at(algo, env_id, float(np.mean(steps))),
                    "iqm_reward": estimate[0] if estimate else None,
                    "iqm_low": estimate[1] if estimate else None,
                    "iqm_high": estimate[2] if estimate else None,
                    "highest_score": float(np.mean([run.highest_score for run in runs])),
                    "published_highest_score": paper.highest_score if paper else None,
                    "places": float(np.mean(places)) if places else None,
                    "std_places": float(np.std(places)) if places else None,
                }
            )
    return table


def markdown(table: list[Row], skipped: Sequence[Skipped], remarks: Sequence[RunSummary]) -> str:
    """
    Format the tables and the definitions of their columns.

    :param table: Rows from :func:`rows`
    :param skipped: Folders without a readable run
    :param remarks: Runs with omitted lines
    :return: Markdown text
    """

    lines = ["## Mean reward", "", *_mean_rewards(table), "", "## Highest score", "", *_highest_scores(table)]
    if any(row["places"] is not None for row in table):
        lines += ["", "## Places seen", "", *_places(table)]
    lines += ["", "## What is in the tables", "", DEFINITIONS]
    if skipped or remarks:
        lines += ["", "## Left out", ""]
        lines += [f"- {code(entry.folder)}: {escape(entry.reason)}" for entry in skipped]
        lines += [f"- {code(run.folder)}: {run.remark}" for run in remarks]
    return "\n".join(lines)


def _mean_rewards(table: Sequence[Row]) -> list[str]:
    heads = [
        "environment",
        "algo",
        "runs",
        "million steps",
        "mean reward",
        "published",
        "at the end",
        "published there",
        "IQM",
    ]
    cells = [
        [
            *_run_cells(row),
            _million_steps(row),
            _pair(row["mean_reward"], row["std_reward"]),
            _pair(row["published_mean_reward"], row["published_std_reward"]),
            _number(row["end_reward"]),
            _number(row["published_end_reward"]),
            _interval(row),
        ]
        for row in table
    ]
    return table_lines(heads, cells)


def _highest_scores(table: Sequence[Row]) -> list[str]:
    names = ("highest_score", "published_highest_score")
    cells = [[*_run_cells(row), *(_number(row[name], 0) for name in names)] for row in table]
    return table_lines(["environment", "algo", "runs", "highest score", "published"], cells)


def _places(table: Sequence[Row]) -> list[str]:
    counted = [row for row in table if row["places"] is not None]
    cells = [[*_run_cells(row), _pair(row["places"], row["std_places"], 1)] for row in counted]
    return table_lines(["environment", "algo", "runs", "places"], cells)


def _run_cells(row: Row) -> list[object]:
    return [escape(row["environment"]), code(row["algo"]), row["runs"]]


def _million_steps(row: Row) -> str:
    lowest, highest = (f"{float(str(row[name])) / 1e6:.3g}" for name in ("steps_min", "steps_max"))
    steps = highest if lowest == highest else f"{lowest} to {highest}"
    return f"{steps}, *short*" if row["short"] else steps


def _interval(row: Row) -> str:
    if row["iqm_reward"] is None:
        return "–"
    return f"{_number(row['iqm_reward'])} ({_number(row['iqm_low'])} to {_number(row['iqm_high'])})"


def _pair(mean: object, std: object, digits: int = 2) -> str:
    return "–" if mean is None else f"{_number(mean, digits)} ± {_number(std, digits)}"


def _number(value: object, digits: int = 2) -> str:
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text  # prints -0.00 as 0.00


def write_csv(path: Path, table: Sequence[Row]) -> None:
    """
    Write a table as a CSV file.

    :param path: Path of the file
    :param table: Rows with the same columns; None becomes an empty cell
    """
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
