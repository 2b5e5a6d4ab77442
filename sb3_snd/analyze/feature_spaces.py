"""Feature spaces of the reference states: features, novelty, statistics, distances, maps and peaks.

Knows ``SND`` and frames. Must not know any environment, policy or picture.
"""

import math
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_snd.analyze.states import ReferenceStates
from sb3_snd.common.effective_rank import effective_rank, spectrum
from sb3_snd.common.extras import require
from sb3_snd.rewards.snd import SND

BATCH = 512
PERCENTILES = (25, 50, 75, 95)  # percentiles of the spectrum, as in the paper


class FeatureSpace(NamedTuple):
    """Features and novelty of all collected frames, computed by one model's networks."""

    name: str
    snd: SND
    frames: th.Tensor  # (n, *frame_shape), input of the networks
    features: th.Tensor  # (n, D) float32
    novelty: np.ndarray  # (n,) float32
    errors: th.Tensor  # (n, D) float32, the learner's prediction minus the features


def feature_space_of(name: str, snd: SND, frames: th.Tensor) -> FeatureSpace:
    """
    Compute the features and novelty of frames.

    :param name: Name of the model
    :param snd: ``SND`` of the model
    :param frames: ``(n, *frame_shape)``
    :return: feature space of the model
    """
    batches = require("tqdm", "plots").tqdm(frames.split(BATCH), unit="batch", desc=name)
    columns = zip(*(_evaluate(snd, batch) for batch in batches), strict=True)
    features, novelty, errors = (th.cat(column) for column in columns)
    return FeatureSpace(name, snd, frames, features, novelty.numpy(), errors)


@th.no_grad()
def _evaluate(snd: SND, frames: th.Tensor) -> tuple[th.Tensor, ...]:
    prepared = snd.prepare(frames)
    features, prediction = snd.target(prepared), snd.learner(prepared)
    return features.cpu(), snd.target.novelty(prediction, features).cpu(), (prediction - features).cpu()


def common_share(vectors: th.Tensor) -> float:
    """
    Compute the share of vectors' mean squared length that all of them have in common.

    :param vectors: ``(n, D)``
    :return: squared length of their mean, divided by the mean of their squared lengths; NaN if all are 0
    """
    return float(vectors.mean(dim=0).square().sum() / vectors.square().sum(dim=1).mean())


def table_row(space: FeatureSpace, states: ReferenceStates) -> dict[str, object]:
    """
    Compute the row of a model in the table.

    :param space: Feature space of the model
    :param states: Reference states
    :return: column -> value
    """
    features, successors = space.features[states.rows], space.features[states.next_rows]
    values = spectrum(features)
    steps, norms = (successors - features).norm(dim=1), features.norm(dim=1)
    return {
        "model": space.name,
        "target": str(getattr(space.snd.spec, "__name__", space.snd.spec)),
        "features": features.shape[1],
        **{f"spectrum_{percent}": float(np.percentile(values.numpy(), percent)) for percent in PERCENTILES},
        "effective_rank": effective_rank(values),
        "mean_step": float(steps.mean()),
        "std_step": float(steps.std(correction=0)),
        "mean_norm": float(norms.mean()),
        "std_norm": float(norms.std(correction=0)),
        "mean_novelty": float(space.novelty[states.rows].mean()),
        "common_features": common_share(features),
        "common_novelty": common_share(space.errors[states.rows]),
    }


def pair_distances(space: FeatureSpace, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute the distances between all pairs of states, and between their features.

    Images are scaled to [0, 1], and vectors are standardised over the given states. Distances between states
    are divided by the square root of their dimension.

    :param space: A feature space
    :param rows: Rows of the states, ``(n,)``
    :return: distances of states and distances of features, ``(n * (n - 1) / 2,)`` each
    """
    frames = space.snd.reader.scale(space.frames[rows]).flatten(1)
    if not space.snd.reader.is_image:
        frames = (frames - frames.mean(dim=0)) / frames.std(dim=0, correction=0).clamp(min=1e-12)
    return th.pdist(frames).numpy() / frames.shape[1] ** 0.5, th.pdist(space.features[rows]).numpy()


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """
    Compute Pearson's correlation.

    :param x: ``(n,)``
    :param y: ``(n,)``
    :return: correlation; NaN if one of them is constant
    """
    return math.nan if x.std() == 0 or y.std() == 0 else float(np.corrcoef(x, y)[0, 1])


def flat_map(features: th.Tensor, seed: int) -> tuple[np.ndarray, str]:
    """
    Map features to two dimensions, with UMAP if it is installed, else with PCA.

    :param features: ``(n, D)``
    :param seed: Seed of UMAP
    :return: coordinates ``(n, 2)`` and the name of the method
    """
    try:
        from umap import UMAP
    except ImportError:
        return principal_axes(features)
    return UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(features.numpy()), "UMAP"


def principal_axes(features: th.Tensor) -> tuple[np.ndarray, str]:
    """
    Project features onto their first two principal axes.

    :param features: ``(n, D)``
    :return: coordinates ``(n, 2)``, and a description with the share of variance that they explain
    """
    centred = features.double() - features.double().mean(dim=0)
    variances, axes = th.linalg.eigh(centred.T @ centred)  # ascending
    axes = th.nn.functional.pad(axes.flip(1), (0, 1))[:, :2]  # a single feature has a single axis
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()  # makes the direction unique
    share = float(variances.flip(0)[:2].sum() / variances.sum().clamp(min=1e-300))
    return (centred @ axes).numpy(), f"PCA, {share:.0%} of variance"


def highest_peaks(values: np.ndarray, n: int, distance: int) -> np.ndarray:
    """
    Find the highest peaks of a curve. Its ends may be peaks, too.

    :param values: Values in order of time, ``(length,)``
    :param n: Maximum number of peaks
    :param distance: Minimum distance between two peaks
    :return: indices of the peaks, ascending
    """
    signal = require("scipy.signal", "plots")
    found, _ = signal.find_peaks(np.pad(values, 1, constant_values=-np.inf), distance=distance)
    return np.sort(found[np.argsort(-values[found - 1], kind="stable")[:n]] - 1)
