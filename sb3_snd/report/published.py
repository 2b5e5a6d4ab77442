"""The paper's published scores, and its learning curves, which were read from the pixels of a figure.

Pecháč, Chovanec, Farkaš: Self-supervised network distillation, arXiv 2302.11563. The curves are accurate to
about ±0.3. Points are missing where lines cover each other. Knows these files and the model of each algo key.
Must not know any run.
"""

import csv
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np


class PublishedModel(NamedTuple):
    """A model of the paper."""

    key: str  # in the files of this package
    name: str


#: algo key -> model that it reproduces, in the order of the tables
MODELS = {
    "ppo": PublishedModel("baseline", "Baseline"),
    "ppo_baseline": PublishedModel("baseline", "Baseline"),
    "ppo_rnd": PublishedModel("rnd", "RND"),
    "ppo_snd_v": PublishedModel("snd_v", "SND-V"),
    "ppo_snd_v_original": PublishedModel("snd_v", "SND-V (original)"),
    "ppo_snd_std": PublishedModel("snd_std", "SND-STD"),
    "ppo_snd_vic": PublishedModel("snd_vic", "SND-VIC"),
    "ppo_snd": PublishedModel("snd_vic", "SND-VIC"),
}
#: part of an id -> number of steps of a run
FULL_STEPS = {"NoFrameskip-v4": 128_000_000, "procgen-": 64_000_000}


class Score(NamedTuple):
    """A cell of the paper's tables."""

    mean_reward: float  # mean over runs of the mean over all training episodes
    std_reward: float  # population standard deviation over runs
    highest_score: float | None  # mean over runs of the highest raw score; only for Atari


def names(algos: Iterable[str]) -> dict[str, str]:
    """
    Choose display names for algo keys.

    :param algos: Algo keys
    :return: algo key -> name, followed by the key if several keys have the same name
    """
    plain = {algo: MODELS[algo].name if algo in MODELS else algo for algo in algos}
    counts = Counter(plain.values())
    return {algo: f"{name}, {algo}" if counts[name] > 1 else name for algo, name in plain.items()}


def model_key(algo: str) -> str:
    """
    Look up the model that an algo key reproduces.

    :param algo: Algo key
    :return: key of the model in the files of this package; empty if the paper has no such model
    """
    return MODELS[algo].key if algo in MODELS else ""


def environment_name(env_id: str) -> str:
    """
    Convert an id to the paper's name of the environment.

    :param env_id: Gymnasium id
    :return: name in the paper
    """
    return env_id.removeprefix("procgen-").removesuffix("-v0").removesuffix("NoFrameskip-v4")


def full_steps(env_id: str) -> int | None:
    """
    Look up the length of a published run.

    :param env_id: Gymnasium id
    :return: number of steps; None if the environment is not in the paper
    """
    if environment_name(env_id) not in {environment for environment, _ in _scores()}:
        return None
    return next(steps for part, steps in FULL_STEPS.items() if part in env_id)


def score(algo: str, env_id: str) -> Score | None:
    """
    Look up a published score.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :return: score in the paper's tables; None if there is none
    """
    return _scores().get((environment_name(env_id), model_key(algo)))


def curve(algo: str, env_id: str) -> tuple[np.ndarray, np.ndarray] | None:
    """
    Look up a published learning curve.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :return: steps and mean rewards, ``(n,)`` each; None if there is no curve
    """
    points = _curves().get((environment_name(env_id), model_key(algo)))
    if points is None:
        return None
    steps, rewards = zip(*points, strict=True)
    return np.array(steps), np.array(rewards)


def curve_at(algo: str, env_id: str, step: float) -> float | None:
    """
    Interpolate a published learning curve.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :param step: Number of steps
    :return: mean reward at this step; None if there is no curve or the step is outside it
    """
    points = curve(algo, env_id)
    if points is None or not points[0][0] <= step <= points[0][-1]:
        return None
    return float(np.interp(step, *points))


def _rows(name: str) -> list[dict[str, str]]:
    text = files("sb3_snd.report").joinpath("published", name).read_text()
    return list(csv.DictReader(text.splitlines()))


@cache
def _scores() -> dict[tuple[str, str], Score]:
    return {
        (row["environment"], row["model"]): Score(
            float(row["mean_reward"]),
            float(row["std_reward"]),
            float(row["highest_score"]) if row["highest_score"] else None,
        )
        for row in _rows("scores.csv")
    }


@cache
def _curves() -> dict[tuple[str, str], list[tuple[float, float]]]:
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in _rows("curves.csv"):
        point = float(row["million_steps"]) * 1e6, float(row["mean_reward"])
        curves.setdefault((row["environment"], row["model"]), []).append(point)
    return curves
