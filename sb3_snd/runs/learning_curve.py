"""Plot runs from the files in their log folders.

Knows the columns of ``monitor.csv`` and ``progress.csv``. Must not know who writes them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_snd.common.extras import require


def plot_learning_curve(folder: Path) -> Path:
    """
    Draw score and intrinsic return of the finished episodes, and the mean novelty of each rollout.

    :param folder: Folder of a run, with ``monitor.csv`` and ``progress.csv``
    :return: path of the picture, ``learning_curve.png``
    :raises ImportError: if matplotlib or pandas is missing; the message names the extra
    """
    require("matplotlib", "plots")
    pandas = require("pandas", "plots")
    from matplotlib.figure import Figure
    from stable_baselines3.common.monitor import load_results
    from stable_baselines3.common.results_plotter import window_func

    episodes = load_results(str(folder))
    logged = (folder / "progress.csv").stat().st_size > 0  # it is empty if the run ended before its first log
    progress = pandas.read_csv(folder / "progress.csv") if logged else pandas.DataFrame()
    figure = Figure(figsize=(7, 8), layout="constrained")
    axes = figure.subplots(3)
    for axis, key, label in ((axes[0], "r", "score of an episode"), (axes[1], "r_int", "intrinsic return of an episode")):
        axis.set(xlabel="environment steps of finished episodes", ylabel=label)
        if episodes.empty:  # then the column may be missing, too
            axis.set_title("no episode has ended yet", fontsize="small")
            continue
        steps, values = episodes["l"].cumsum().to_numpy(), episodes[key].to_numpy()
        axis.plot(steps, values, ".", alpha=0.4, label="episodes")
        window = min(100, (len(values) + 1) // 2)
        axis.plot(*window_func(steps, values, window, np.mean), label=f"mean of {window}")
        axis.legend()
    if "rollout/novelty_mean" in progress:
        axes[2].plot(progress["time/total_timesteps"], progress["rollout/novelty_mean"], ".-")
    axes[2].set(ylabel="mean novelty of a rollout", xlabel="environment steps")
    figure.suptitle(folder.name)
    path = folder / "learning_curve.png"
    figure.savefig(path, dpi=120)
    return path


def binned_scores(folder: Path, n_steps: int, n_bins: int) -> np.ndarray:
    """
    Compute the mean scores in equal parts of a run.

    :param folder: Folder of a run, with ``monitor.csv``
    :param n_steps: Length of the run in steps
    :param n_bins: Number of equal parts to divide the run into
    :return: mean score of the episodes that ended in each part, ``(n_bins,)``; NaN if there were none
    :raises ImportError: if pandas is missing; the message names the extra
    """
    require("pandas", "plots")
    from stable_baselines3.common.monitor import load_results

    episodes = load_results(str(folder))
    if episodes.empty:
        return np.full(n_bins, np.nan)
    part = np.minimum(episodes["l"].cumsum().to_numpy() * n_bins // n_steps, n_bins - 1)
    counts = np.bincount(part, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return np.bincount(part, weights=episodes["r"].to_numpy(), minlength=n_bins) / counts


def plot_comparison(panels: Mapping[str, Mapping[str, Sequence[np.ndarray]]], n_steps: Mapping[str, int], path: Path) -> None:
    """
    Draw one panel per environment with one line per algorithm: the mean over its runs, with a band of one
    standard deviation. Parts in which no episode ended are interpolated.

    :param panels: environment -> algorithm -> scores of each run, ``(n_bins,)`` each, see
        :func:`binned_scores`
    :param n_steps: environment -> length of its runs in steps
    :param path: Path of the picture
    :raises ImportError: if matplotlib is missing; the message names the extra
    """
    require("matplotlib", "plots")
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    axes: Any = figure.subplots(1, len(panels), squeeze=False)
    for axis, (env_id, algorithms) in zip(axes[0], panels.items(), strict=True):
        for name, runs in algorithms.items():
            steps = (np.arange(len(runs[0])) + 0.5) * n_steps[env_id] / len(runs[0])
            scores = np.stack([_without_gaps(run) for run in runs])  # (n_runs, n_bins)
            mean, std = scores.mean(axis=0), scores.std(axis=0)
            (line,) = axis.plot(steps, mean, label=f"{name} ({len(runs)} runs)")
            axis.fill_between(steps, mean - std, mean + std, alpha=0.2, color=line.get_color())
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set(title=env_id, xlabel="environment steps", ylabel="score of an episode")
        axis.legend()
    figure.savefig(path, dpi=120)


def _without_gaps(scores: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(~np.isnan(scores))
    return np.interp(np.arange(len(scores)), known, scores[known]) if len(known) > 0 else scores
