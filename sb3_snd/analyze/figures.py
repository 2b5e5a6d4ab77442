"""Draw feature spaces: spectra, distances, novelty along an episode, and maps.

Knows matplotlib and feature spaces. Must not compute any table.
"""

import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_snd.analyze.feature_spaces import FeatureSpace, correlation, flat_map, highest_peaks, pair_distances
from sb3_snd.analyze.states import ReferenceStates
from sb3_snd.common.effective_rank import spectrum
from sb3_snd.common.extras import require

#: file name of a picture without extension -> caption
CAPTIONS = {
    "spectrum": "Spectrum of each target's features.",
    "distances": "Distances of pairs of states against distances of their features, with Pearson's correlation.",
    "novelty": "Novelty along the longest episode, with its highest peaks.",
    "map": "Two-dimensional map of each target's features; axes have no unit that compares between models.",
}
PRECISION = 1e-14  # precision of squared singular values of float32 features, relative to the largest
SMALLEST = 1e-30  # smallest value on a logarithmic axis
N_PAIRED = 1000  # number of states whose pairs are compared
N_BINS = 80  # number of bins along each side of the heat map
N_PEAKS = 5
N_PLACES = 20  # maximum number of places that colours can distinguish
SIZE = 3.6  # side of a panel in inches


def draw(feature_spaces: Sequence[FeatureSpace], states: ReferenceStates, seed: int, out: Path) -> None:
    """
    Draw all pictures.

    :param feature_spaces: Feature spaces of all models
    :param states: Reference states
    :param seed: Seed of the choice of pairs and of the maps
    :param out: Folder for the pictures, as PNG and SVG, see ``CAPTIONS``
    :raises ImportError: if matplotlib is missing; the message names the extra
    """
    require("matplotlib", "plots")
    draw_spectra(feature_spaces, states, out)
    draw_distances(feature_spaces, states, seed, out)
    draw_novelty(feature_spaces, states, out)
    draw_maps(feature_spaces, states, seed, out)


def markdown() -> str:
    """
    Format the section of the report with all pictures.

    :return: Markdown text
    """
    return "\n\n".join(f"## {stem.capitalize()}\n\n{text}\n\n![{stem}]({stem}.png)" for stem, text in CAPTIONS.items())


def draw_spectra(feature_spaces: Sequence[FeatureSpace], states: ReferenceStates, out: Path) -> None:
    """
    Draw the spectrum of each feature space.

    :param feature_spaces: Feature spaces of all models
    :param states: Reference states
    :param out: Folder for the picture, as PNG and SVG
    """
    figure = _figure(7, 4.5)
    axis = figure.subplots()
    top = SMALLEST
    for space in feature_spaces:
        values = spectrum(space.features[states.rows]).numpy().clip(min=SMALLEST)
        top = max(top, values[0])
        axis.plot(np.arange(1, len(values) + 1), values, marker="." if len(values) < 10 else None, label=space.name)
    axis.set(xlabel="index of the singular value", ylabel="squared singular value of the features", yscale="log")
    axis.set_ylim(bottom=max(axis.get_ylim()[0], PRECISION * top))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    _save(figure, out, "spectrum")


def draw_distances(
    feature_spaces: Sequence[FeatureSpace],
    states: ReferenceStates,
    seed: int,
    out: Path,
) -> None:
    """
    Draw distances between features against distances between states.

    :param feature_spaces: Feature spaces of all models
    :param states: Reference states
    :param seed: Seed of the choice of states
    :param out: Folder for the picture, as PNG and SVG
    """
    from matplotlib.colors import LogNorm

    rows = np.random.default_rng(seed).permutation(states.rows)[:N_PAIRED]
    figure, axes = _panels(len(feature_spaces))
    counts, meshes = [], []
    for axis, space in zip(axes, feature_spaces, strict=True):
        x, y = pair_distances(space, rows)
        count, edges_x, edges_y = np.histogram2d(x, y, bins=N_BINS)
        counts.append(count.max())
        meshes.append(axis.pcolormesh(edges_x, edges_y, np.where(count > 0, count, np.nan).T, rasterized=True))
        unit = "pixels in [0, 1]" if space.snd.reader.is_image else "standard deviations"
        axis.set(xlabel=f"RMS difference of states, {unit}", ylabel="distance of features")
        axis.set_title(f"{space.name}\nr = {correlation(x, y):.2f}", fontsize="medium")
    for mesh in meshes:
        mesh.set_norm(LogNorm(1, max(*counts, 2)))
    figure.colorbar(meshes[0], ax=axes, label=f"pairs among {len(rows)} states")
    _save(figure, out, "distances")


def draw_novelty(feature_spaces: Sequence[FeatureSpace], states: ReferenceStates, out: Path) -> None:
    """
    Draw the novelty along the longest episode and, for images, the frames at its highest peaks.

    :param feature_spaces: Feature spaces of all models
    :param states: Reference states
    :param out: Folder for the picture, as PNG and SVG
    """
    rows = states.episode
    images = feature_spaces[0].snd.reader.is_image
    heights = [1.0, 1.4] if images else [1.4]  # heights of frames and curve, in inches
    figure = _figure(9, (sum(heights) + 0.8) * len(feature_spaces))
    grid = figure.add_gridspec(len(heights) * len(feature_spaces), N_PEAKS, height_ratios=heights * len(feature_spaces))
    for index, space in enumerate(feature_spaces):
        bottom = len(heights) * (index + 1) - 1
        values = space.novelty[rows]
        peaks = highest_peaks(values, N_PEAKS, distance=max(1, len(rows) // 15))
        axis = figure.add_subplot(grid[bottom, :])
        axis.plot(values, linewidth=0.8)
        axis.plot(peaks, values[peaks], "v", color="C3")
        axis.set_title(space.name, loc="left", fontsize="medium")
        axis.set(xlabel="step of the episode", ylabel="novelty", xlim=(-0.01 * len(rows), 1.01 * len(rows)))
        axis.margins(y=0.15)
        axis.grid(alpha=0.3)
        for column, step in enumerate(peaks if images else ()):
            picture = figure.add_subplot(grid[bottom - 1, column])
            frame = space.snd.reader.scale(space.frames[rows[[step]]])[0].permute(1, 2, 0)  # (H, W, C)
            picture.imshow(frame if frame.shape[2] == 3 else frame[..., 0], cmap="gray", vmin=0, vmax=1)
            picture.set_axis_off()
            picture.set_title(f"step {step}", fontsize="small")
    _save(figure, out, "novelty")


def draw_maps(feature_spaces: Sequence[FeatureSpace], states: ReferenceStates, seed: int, out: Path) -> None:
    """
    Draw a two-dimensional map of each feature space. Colours show places if there are few enough, else steps
    of the episode.

    :param feature_spaces: Feature spaces of all models
    :param states: Reference states
    :param seed: Seed of the map
    :param out: Folder for the picture, as PNG and SVG
    """
    places = few_places(states)
    figure, axes = _panels(len(feature_spaces))
    for axis, space in zip(axes, feature_spaces, strict=True):
        points, method = flat_map(space.features[states.rows], seed)
        axis.set(xlabel="component 1", ylabel="component 2")
        axis.set_title(f"{space.name}\n{method}", fontsize="medium")
        if places is None:
            dots = axis.scatter(*points.T, c=states.steps.flat[states.rows], s=4, linewidths=0, rasterized=True)
            continue
        where = [states.places[row] for row in states.rows]  # type: ignore[index]
        colours = np.array([places.index(place) for place in where])
        for index, place in enumerate(places):
            chosen = points[colours == index]
            axis.scatter(*chosen.T, color=_colour(index), s=4, linewidths=0, rasterized=True, label=str(place))
    if places is None:
        figure.colorbar(dots, ax=axes, label="step of the episode")
    else:
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, title="place", loc="outside right upper", fontsize="small", markerscale=3)
    _save(figure, out, "map")


def few_places(states: ReferenceStates) -> list[Hashable] | None:
    """
    List the places of the reference states if colours can distinguish them.

    :param states: Reference states
    :return: distinct places, sorted; None if places are unknown, or if there is one or over ``N_PLACES``
    """
    if states.places is None:
        return None
    seen = {states.places[row] for row in states.rows}
    return sorted(seen, key=lambda place: (len(str(place)), str(place))) if 1 < len(seen) <= N_PLACES else None


def _colour(index: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"].colors[index]  # type: ignore[attr-defined]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panels(n: int) -> tuple[Any, Any]:
    """Return a figure with ``n`` axes, and the axes."""
    n_columns = n if n <= 3 else math.ceil(n**0.5)
    n_rows = -(-n // n_columns)
    figure = _figure(SIZE * n_columns + 1.2, SIZE * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    for axis in axes[n:]:
        axis.remove()
    return figure, axes[:n]


def _save(figure: Any, out: Path, stem: str) -> None:
    figure.savefig(out / f"{stem}.png", dpi=120)
    figure.savefig(out / f"{stem}.svg", dpi=120)
