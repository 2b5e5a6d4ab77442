"""Feature spaces of the reference states: features and novelty, their figures, distances, maps and peaks.

Knows an ``SND`` and frames; no environment, no policy, no picture.
"""

import math
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_snd.analyze.states import States
from sb3_snd.extras import require
from sb3_snd.feature_spaces import effective_rank, spectrum
from sb3_snd.snd import SND

BATCH = 512
PERCENTILES = (25, 50, 75, 95)  # of the spectrum, as in the paper


class Space(NamedTuple):
    """What one model's nets make of all frames that were collected."""

    name: str
    snd: SND
    frames: th.Tensor  # (n, *frame_shape) as nets read them
    features: th.Tensor  # (n, D) float32
    novelty: np.ndarray  # (n,) float32


def measure(name: str, snd: SND, frames: th.Tensor) -> Space:
    """
    :param name: Of the model
    :param snd: Its nets
    :param frames: ``(n, *frame_shape)``
    :return: its feature space
    """
    batches = require("tqdm", "plots").tqdm(frames.split(BATCH), unit="batch", desc=name)
    features, novelty = zip(*((snd.features(batch).cpu(), snd.novelty(batch).cpu()) for batch in batches), strict=True)
    return Space(name, snd, frames, th.cat(features), th.cat(novelty).numpy())


def row(space: Space, states: States) -> dict[str, object]:
    """
    :param space: A feature space
    :param states: The reference states
    :return: the model's row of the table, in numbers
    """
    features, successors = space.features[states.rows], space.features[states.next_rows]
    values = spectrum(features)
    steps, norms = (successors - features).norm(dim=1), features.norm(dim=1)
    return {
        "model": space.name,
        "target": str(getattr(space.snd.target_name, "__name__", space.snd.target_name)),
        "features": features.shape[1],
        **{f"spectrum_{percent}": float(np.percentile(values.numpy(), percent)) for percent in PERCENTILES},
        "effective_rank": effective_rank(values),
        "mean_step": float(steps.mean()),
        "std_step": float(steps.std(correction=0)),
        "mean_norm": float(norms.mean()),
        "std_norm": float(norms.std(correction=0)),
        "mean_novelty": float(space.novelty[states.rows].mean()),
    }


def pair_distances(space: Space, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Images count in [0, 1], vectors in standard deviations of these states; both divided by the root of their dimension.

    :param space: A feature space
    :param rows: Of the states, ``(n,)``
    :return: distances of all pairs of states, and of their features, ``(n * (n - 1) / 2,)`` each
    """
    frames = space.snd.reader.scale(space.frames[rows]).flatten(1)
    if not space.snd.reader.is_image:
        frames = (frames - frames.mean(dim=0)) / frames.std(dim=0, correction=0).clamp(min=1e-12)
    return th.pdist(frames).numpy() / frames.shape[1] ** 0.5, th.pdist(space.features[rows]).numpy()


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """
    :param x: ``(n,)``
    :param y: ``(n,)``
    :return: Pearson's, NaN where one is constant
    """
    return math.nan if x.std() == 0 or y.std() == 0 else float(np.corrcoef(x, y)[0, 1])


def flat_map(features: th.Tensor, seed: int) -> tuple[np.ndarray, str]:
    """
    :param features: ``(n, D)``
    :param seed: Of UMAP
    :return: coordinates ``(n, 2)``, by UMAP where it is installed, else along the first two principal axes; and which
    """
    try:
        from umap import UMAP
    except ImportError:
        return principal_axes(features)
    return UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(features.numpy()), "UMAP"


def principal_axes(features: th.Tensor) -> tuple[np.ndarray, str]:
    """
    :param features: ``(n, D)``
    :return: coordinates ``(n, 2)`` along the first two principal axes, and how much of the variance they show
    """
    centred = features.double() - features.double().mean(dim=0)
    variances, axes = th.linalg.eigh(centred.T @ centred)  # ascending
    axes = th.nn.functional.pad(axes.flip(1), (0, 1))[:, :2]  # a single feature has a single axis
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()  # either direction is an axis: take one
    share = float(variances.flip(0)[:2].sum() / variances.sum().clamp(min=1e-300))
    return (centred @ axes).numpy(), f"PCA, {share:.0%} of variance"


def highest_peaks(values: np.ndarray, n: int, distance: int) -> np.ndarray:
    """
    :param values: In order of time, ``(length,)``
    :param n: Peaks at most
    :param distance: Least distance between two peaks
    :return: where the highest peaks are, the ends among them, in order of time
    """
    signal = require("scipy.signal", "plots")
    found, _ = signal.find_peaks(np.pad(values, 1, constant_values=-np.inf), distance=distance)
    return np.sort(found[np.argsort(-values[found - 1], kind="stable")[:n]] - 1)
