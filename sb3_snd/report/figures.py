"""Draw learning curves: one picture per environment with all models, and the published curves behind them.

Knows runs and published figures. Must not compute any table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_snd.common.extras import require
from sb3_snd.report import published
from sb3_snd.report.markdown import plural
from sb3_snd.report.read_logs import Column, RunSummary

N_BINS = 128  # maximum number of bins of a drawn curve
NEAR = 2.0  # a published curve is drawn if it starts within this many lengths of the longest run
N_BANDS = 10  # maximum number of curves that are drawn with bands
LABELS = {Column.REWARD: "learner's reward of an episode", Column.SCORE: "score of an episode"}


def stem(env_id: str, column: Column) -> str:
    """
    Compute the name of a picture's files.

    :param env_id: Gymnasium id
    :param column: What is drawn
    :return: file name without extension
    """
    return f"{env_id.replace('/', '_')}_{column.name.lower()}"


def learning_curve(
    runs: Sequence[RunSummary], width: int, column: Column
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    Compute mean and population standard deviation over the runs that have reached each bin.

    A bin in which no episode of a run ended is interpolated between its neighbours.

    :param runs: Runs of one environment and algo key
    :param width: Width of a bin in steps, a power of two
    :param column: What is drawn
    :return: steps at the centres of the bins, starting at the first episode; mean; standard deviation; and
        number of runs, ``(n,)`` each
    """
    curves = []
    for run in runs:
        values = run.curve.widened(width).means()[:, column]
        known = np.flatnonzero(~np.isnan(values))
        curves.append(np.interp(np.arange(known[0], len(values)), known, values[known]))
        curves[-1] = np.concatenate([np.full(known[0], np.nan), curves[-1]])
    n_bins = max(map(len, curves))
    # (runs, n_bins)
    table = np.stack([np.pad(curve, (0, n_bins - len(curve)), constant_values=np.nan) for curve in curves])
    there = ~np.isnan(table)
    n_runs = there.sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.where(there, table, 0.0).sum(axis=0) / n_runs
        std = np.sqrt(np.where(there, (table - mean) ** 2, 0.0).sum(axis=0) / n_runs)
    steps = (np.arange(n_bins) + 0.5) * width
    first = np.argmax(n_runs > 0)
    return steps[first:], mean[first:], std[first:], n_runs[first:]


def common_width(runs: Sequence[RunSummary]) -> int:
    """
    Choose the bin width of the drawn curves of an environment.

    :param runs: Runs of one environment
    :return: width of a bin in steps, a power of two
    """
    width = max(run.curve.width for run in runs)
    while max(run.n_steps for run in runs) > width * N_BINS:
        width *= 2
    return width


def places_curve(
    runs: Sequence[RunSummary],
    n_points: int = N_BINS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Compute mean and population standard deviation of the number of distinct places.

    :param runs: Runs that counted places
    :param n_points: Number of points of the curve
    :return: steps until the end of the shortest run; mean; and standard deviation over the runs,
        ``(n_points,)`` each
    """
    first, last = max(run.places[0, 0] for run in runs), min(run.places[-1, 0] for run in runs)
    steps = np.linspace(first, last, n_points)
    counts = np.stack([np.interp(steps, *run.places.T) for run in runs])  # (runs, n_points)
    return steps, counts.mean(axis=0), counts.std(axis=0)


def draw_places(env_id: str, algos: dict[str, list[RunSummary]], folder: Path) -> str | None:
    """
    Draw the number of distinct places in one environment.

    :param env_id: Gymnasium id
    :param algos: Algo key -> runs
    :param folder: Folder for the picture, as PNG and SVG
    :return: file name without extension; None if no run counted places
    :raises ImportError: if matplotlib is missing; the message names the extra
    """
    counted = {algo: [run for run in runs if len(run.places)] for algo, runs in algos.items()}
    if not any(counted.values()):
        return None
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis: Any = figure.subplots()
    labels = published.names(algos)
    for index, (algo, runs) in enumerate(counted.items()):
        if runs:
            steps, mean, std = places_curve(runs)
            axis.plot(steps / 1e6, mean, color=_colour(index, len(counted)), label=_label(labels[algo], runs))
            _draw_band(axis, steps, mean, std, index, len(counted))
    name = f"{env_id.replace('/', '_')}_places"
    _finish(figure, axis, folder / name, title=env_id, ylabel="distinct places seen")
    return name


def _label(name: str, runs: Sequence[RunSummary]) -> str:
    return f"{name} ({len(runs)} {plural(len(runs), 'run')})"


def _colour(index: int, n_curves: int) -> Any:
    from matplotlib import colormaps

    return f"C{index}" if n_curves <= N_BANDS else colormaps["tab20"](index % 20)


def _draw_band(axis: Any, steps: np.ndarray, mean: np.ndarray, std: np.ndarray, index: int, n_curves: int) -> None:
    """Draw a band of one standard deviation, unless the bands of so many curves would hide them."""
    if n_curves <= N_BANDS:
        axis.fill_between(steps / 1e6, mean - std, mean + std, color=_colour(index, n_curves), alpha=0.2, linewidth=0)


def _finish(figure: Any, axis: Any, path: Path, **settings: Any) -> None:
    axis.set(xlabel="environment steps, millions", **settings)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    for ending in ("png", "svg"):
        figure.savefig(path.with_name(f"{path.name}.{ending}"), dpi=120)


def _draw_published(axis: Any, env_id: str, algos: Sequence[str], last: float) -> float:
    """
    Draw published curves; return where the axis ends: at the longest run, or a nearby curve's first point if
    it is later.
    """
    keys = list(map(published.model_key, algos))
    # A model's curve is drawn once
    firsts = [index for index, key in enumerate(keys) if key not in keys[:index]]
    curves = {index: curve for index in firsts if (curve := published.curve(algos[index], env_id)) is not None}
    near = {index: curve for index, curve in curves.items() if curve[0][0] <= NEAR * last}
    # With room for the whole marker
    end = max([last, *(steps[0] * 1.02 for steps, _ in near.values() if steps[0] > last)])
    for index, (steps, rewards) in near.items():
        shown = slice(np.searchsorted(steps, end) + 1)  # includes the first point beyond the end
        name = f"{published.MODELS[algos[index]].name}, published"
        style: dict[str, Any] = dict(linestyle="--", linewidth=0.8, marker=".", markersize=4, alpha=0.7)
        axis.plot(steps[shown] / 1e6, rewards[shown], color=_colour(index, len(algos)), label=name, **style)
    return end


def draw(
    env_id: str,
    algos: dict[str, list[RunSummary]],
    column: Column,
    folder: Path,
) -> list[dict[str, object]]:
    """
    Draw the learning curves in one environment.

    :param env_id: Gymnasium id
    :param algos: Algo key -> runs
    :param column: What is drawn; rewards include the published curves
    :param folder: Folder for the picture, as PNG and SVG, see :func:`stem`
    :return: the drawn points
    :raises ImportError: if matplotlib is missing; the message names the extra
    """
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis: Any = figure.subplots()
    points: list[dict[str, object]] = []
    width = common_width([run for runs in algos.values() for run in runs])
    last = 0.0
    labels = published.names(algos)
    for index, (algo, runs) in enumerate(algos.items()):
        steps, mean, std, n_runs = learning_curve(runs, width, column)
        last = max(last, steps[-1] + width / 2)
        line: dict[str, Any] = dict(color=_colour(index, len(algos)), marker="." if len(steps) < 3 else None)
        # Broken where a run ends, as the mean of the others may be far from that of all
        x, y, spread = np.insert([steps, mean, std], np.flatnonzero(np.diff(n_runs) < 0) + 1, np.nan, axis=1)
        axis.plot(x / 1e6, y, label=_label(labels[algo], runs), **line)
        _draw_band(axis, x, y, spread, index, len(algos))
        for values in zip(steps, mean, std, n_runs, strict=True):
            names = ("steps", "mean", "std", "runs")
            points.append({"environment": env_id, "algo": algo, **dict(zip(names, map(float, values), strict=True))})
    axis.set_xlim(right=(_draw_published(axis, env_id, list(algos), last) if column is Column.REWARD else last) / 1e6)
    _finish(figure, axis, folder / stem(env_id, column), title=env_id, ylabel=LABELS[column])
    return points
