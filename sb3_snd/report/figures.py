"""Learning curves: one axis an environment, all models in it, the published curves behind them.

Knows runs and published figures; computes no table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_snd.extras import require
from sb3_snd.report import published
from sb3_snd.report.runs import REWARD, SCORE, Run

N_BINS = 128  # of a drawn curve, at most
NEAR = 2.0  # lengths of the longest run, within which a published curve has to begin to be drawn
LABELS = {REWARD: "learner's reward of an episode", SCORE: "score of an episode"}


def stem(env_id: str, column: int) -> str:
    """
    :param env_id: Gymnasium id
    :param column: ``REWARD`` or ``SCORE``
    :return: name of the picture's files, without what tells their kind
    """
    return f"{env_id.replace('/', '_')}_{('reward', 'score')[column]}"


def learning_curve(runs: Sequence[Run], width: int, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    Mean and population standard deviation over the runs that have come as far. Bins in which no episode of a run ended lie
    on the line between those before and after.

    :param runs: Of one environment and algo key
    :param width: Steps in a bin, a power of two
    :param column: ``REWARD`` or ``SCORE``
    :return: steps at the bins' centres, from the first episode on, mean, standard deviation and number of runs, ``(n,)`` each
    """
    curves = []
    for run in runs:
        values = run.curve.widened(width).means()[:, column]
        known = np.flatnonzero(~np.isnan(values))
        curves.append(np.interp(np.arange(known[0], len(values)), known, values[known]))
        curves[-1] = np.concatenate([np.full(known[0], np.nan), curves[-1]])
    n_bins = max(map(len, curves))
    table = np.stack([np.pad(curve, (0, n_bins - len(curve)), constant_values=np.nan) for curve in curves])  # (runs, n_bins)
    there = ~np.isnan(table)
    n_runs = there.sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.where(there, table, 0.0).sum(axis=0) / n_runs
        std = np.sqrt(np.where(there, (table - mean) ** 2, 0.0).sum(axis=0) / n_runs)
    steps = (np.arange(n_bins) + 0.5) * width
    first = np.argmax(n_runs > 0)
    return steps[first:], mean[first:], std[first:], n_runs[first:]


def common_width(runs: Sequence[Run]) -> int:
    """
    :param runs: Of one environment
    :return: steps in a bin of their drawn curves, a power of two
    """
    width = max(run.curve.width for run in runs)
    while max(run.n_steps for run in runs) > width * N_BINS:
        width *= 2
    return width


def places_curve(runs: Sequence[Run], n_points: int = N_BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param runs: With places
    :param n_points: Of the curve
    :return: steps up to the end of the shortest run, mean of the distinct places and population standard deviation over the
        runs, ``(n_points,)`` each
    """
    first, last = max(run.places[0, 0] for run in runs), min(run.places[-1, 0] for run in runs)
    steps = np.linspace(first, last, n_points)
    counts = np.stack([np.interp(steps, *run.places.T) for run in runs])  # (runs, n_points)
    return steps, counts.mean(axis=0), counts.std(axis=0)


def draw_places(env_id: str, algos: dict[str, list[Run]], folder: Path) -> str | None:
    """
    :param env_id: Gymnasium id
    :param algos: Algo key -> runs
    :param folder: Where the picture is written, as PNG and SVG
    :return: its name without what tells its kind; None where no run counted places
    :raises ImportError: if matplotlib is missing, naming the extra
    """
    counted = {algo: [run for run in runs if len(run.places)] for algo, runs in algos.items()}
    if not any(counted.values()):
        return None
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis: Any = figure.subplots()
    called = published.names(algos)
    for index, (algo, runs) in enumerate(counted.items()):
        if runs:
            steps, mean, std = places_curve(runs)
            axis.plot(steps / 1e6, mean, color=f"C{index}", label=_label(called[algo], runs))
            axis.fill_between(steps / 1e6, mean - std, mean + std, color=f"C{index}", alpha=0.2, linewidth=0)
    name = f"{env_id.replace('/', '_')}_places"
    _finish(figure, axis, folder / name, title=env_id, ylabel="distinct places seen")
    return name


def _label(name: str, runs: Sequence[Run]) -> str:
    return f"{name} ({len(runs)} run{'s' * (len(runs) > 1)})"


def _finish(figure: Any, axis: Any, path: Path, **settings: Any) -> None:
    axis.set(xlabel="environment steps, millions", **settings)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    for ending in ("png", "svg"):
        figure.savefig(path.with_name(f"{path.name}.{ending}"), dpi=120)


def _draw_published(axis: Any, env_id: str, algos: Sequence[str], last: float) -> float:
    """:return: steps where the axis ends: with the longest run, or with the first point of a published curve that is near"""
    models = [published.MODELS.get(algo) for algo in algos]
    firsts = [index for index, model in enumerate(models) if model not in models[:index]]  # keys of one model share a curve
    curves = {index: curve for index in firsts if (curve := published.curve(algos[index], env_id)) is not None}
    near = {index: curve for index, curve in curves.items() if curve[0][0] <= NEAR * last}
    end = max([last, *(steps[0] * 1.02 for steps, _ in near.values() if steps[0] > last)])  # the point's right half, too
    for index, (steps, rewards) in near.items():
        shown = slice(np.searchsorted(steps, end) + 1)  # up to the first point beyond the end
        name = f"{published.NAMES[algos[index]]}, published"
        style: dict[str, Any] = dict(linestyle="--", linewidth=0.8, marker=".", markersize=4, alpha=0.7)
        axis.plot(steps[shown] / 1e6, rewards[shown], color=f"C{index}", label=name, **style)
    return end


def draw(env_id: str, algos: dict[str, list[Run]], column: int, folder: Path) -> list[dict[str, object]]:
    """
    :param env_id: Gymnasium id
    :param algos: Algo key -> runs
    :param column: ``REWARD``, with the published curves, or ``SCORE``
    :param folder: Where the picture is written, as PNG and SVG, see :func:`stem`
    :return: the points that were drawn
    :raises ImportError: if matplotlib is missing, naming the extra
    """
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis: Any = figure.subplots()
    points: list[dict[str, object]] = []
    width = common_width([run for runs in algos.values() for run in runs])
    last = 0.0
    called = published.names(algos)
    for index, (algo, runs) in enumerate(algos.items()):
        steps, mean, std, n_runs = learning_curve(runs, width, column)
        last = max(last, steps[-1] + width / 2)
        colour = f"C{index}"
        axis.plot(steps / 1e6, mean, color=colour, marker="." if len(steps) < 3 else None, label=_label(called[algo], runs))
        axis.fill_between(steps / 1e6, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        for values in zip(steps, mean, std, n_runs, strict=True):
            names = ("steps", "mean", "std", "runs")
            points.append({"environment": env_id, "algo": algo, **dict(zip(names, map(float, values), strict=True))})
    axis.set_xlim(right=(_draw_published(axis, env_id, list(algos), last) if column == REWARD else last) / 1e6)
    _finish(figure, axis, folder / stem(env_id, column), title=env_id, ylabel=LABELS[column])
    return points
