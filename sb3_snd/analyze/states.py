"""Collect reference states: frames that one model's policy encounters, as read by the networks of each model.

Knows environments, SB3's wrappers and how networks read frames. Must not know any feature or picture.
"""

import pickle
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecFrameStack,
    VecNormalize,
    is_vecenv_wrapped,
    unwrap_vec_normalize,
)

from sb3_snd.analyze.models import Model
from sb3_snd.common.extras import require
from sb3_snd.rewards.make import check_space
from sb3_snd.rewards.snd import SND

#: converts observations of the environment to input of the networks, on the CPU
View = Callable[[Any], th.Tensor]

MIN_SHARE = 0.1  # minimum share of transitions within an episode


class ReferenceStates(NamedTuple):
    """
    ``T + 1`` observations of ``N`` environments. Row ``t * N + n`` is step ``t`` of environment ``n``, and
    its successor is ``N`` rows later.
    """

    frames: dict[Hashable, th.Tensor]  # view -> ((T + 1) * N, *frame_shape)
    steps: np.ndarray  # (T + 1, N) int64, steps since the start of the episode
    places: list[Hashable] | None  # (T + 1) * N places
    n_states: int  # maximum number of reference states

    @property
    def rows(self) -> np.ndarray:
        """Return the rows of the reference states, whose successors are in the same episode, ``(n_states,)``."""
        return np.flatnonzero(self.steps[1:] > 0)[: self.n_states]

    @property
    def next_rows(self) -> np.ndarray:
        """Return the rows of the reference states' successors, ``(n_states,)``."""
        return self.rows + self.steps.shape[1]

    @property
    def episode(self) -> np.ndarray:
        """Return the rows of the longest episode, as far as collected, in time order, ``(length,)``."""
        n_envs = self.steps.shape[1]
        last = int(self.steps.argmax())
        return np.arange(last - int(self.steps.max()) * n_envs, last + 1, n_envs)


def collect(
    policy: BaseAlgorithm,
    env: VecEnv,
    views: Mapping[Any, View],
    n_states: int,
    places: Callable[[], Sequence[Hashable]] | None = None,
) -> ReferenceStates:
    """
    Collect reference states with actions sampled from a policy, as in training.

    :param policy: Model that acts
    :param env: Environment of the model
    :param views: key -> what is kept of each observation
    :param n_states: Number of states to collect; only states whose episode continues are counted
    :param places: Returns the current place of each environment
    :return: the states
    :raises ValueError: if almost every step ends an episode
    """
    obs: Any = env.reset()
    memory: Any = None
    starts = np.ones(env.num_envs, dtype=bool)
    frames: dict[Hashable, list[th.Tensor]] = {key: [] for key in views}
    steps: list[np.ndarray] = [np.zeros(env.num_envs, dtype=np.int64)]
    seen: list[Hashable] = []
    n_kept = 0
    with require("tqdm", "plots").tqdm(total=n_states, unit="state", desc="collecting") as progress:
        while True:
            for key, view in views.items():
                frames[key].append(view(obs).clone())  # environments may reuse the memory of observations
            seen.extend(places() if places is not None else ())
            if n_kept >= n_states:
                break
            if (len(steps) - 1) * env.num_envs * MIN_SHARE > n_states:
                raise ValueError(f"Only {n_kept} of {n_states} states have a successor: episodes are too short to analyse.")
            actions, memory = policy.predict(obs, state=memory, episode_start=starts, deterministic=False)
            obs, _, starts, _ = env.step(actions)
            steps.append(np.where(starts, 0, steps[-1] + 1))
            n_kept += int((~starts).sum())
            progress.update(int((~starts).sum()))
    joined = {key: th.cat(parts) for key, parts in frames.items()}
    return ReferenceStates(joined, np.stack(steps), seen if places is not None else None, n_states)


def make_views(
    models: Sequence[Model],
    collector: Model,
    env: VecEnv,
) -> tuple[dict[Hashable, View], list[Hashable]]:
    """
    Define how the networks of each model read the collector's environment. Observations are normalised by the
    statistics of the model's own run, as in training.

    :param models: Models with an ``SND``
    :param collector: Model for which ``env`` was made
    :param env: Environment
    :return: views by key, shared by models that read the same input, and the key of each model's view
    :raises ValueError: if a model cannot read the frames
    """
    views: dict[Hashable, View] = {}
    keys: list[Hashable] = []
    env_normalizer = _of_observations(unwrap_vec_normalize(env))
    for model in models:
        snd = model.snd
        assert snd is not None
        try:
            check_space(snd, env.observation_space)
        except ValueError as error:
            message = f"{model.path} does not read the frames of {collector.path}, analyse them separately: {error}"
            raise ValueError(message) from error
        model_normalizer = env_normalizer if model is collector else _load_normalizer(model)
        if model_normalizer is not env_normalizer and is_vecenv_wrapped(env, VecFrameStack):
            raise ValueError(
                f"{model.path} and {collector.path} use stacked observations with different normalisation:"
                " analyse them separately."
            )
        keys.append((model.path if model_normalizer is not None else None, snd.reader.keys))
        views[keys[-1]] = _make_view(snd, env_normalizer, model_normalizer)
    return views, keys


def _load_normalizer(model: Model) -> VecNormalize | None:
    """Load the statistics that normalised observations in the model's run; None if there are none."""
    path = None if model.config is None else model.config / "vecnormalize.pkl"
    if path is None or not path.is_file():
        return None
    with open(path, "rb") as file:  # VecNormalize.load requires an environment with the same wrappers
        return _of_observations(pickle.load(file))


def _of_observations(normalizer: VecNormalize | None) -> VecNormalize | None:
    """Return the normalizer if it normalises observations, else None."""
    return normalizer if normalizer is not None and normalizer.norm_obs else None


def _make_view(snd: SND, env_normalizer: VecNormalize | None, model_normalizer: VecNormalize | None) -> View:
    """
    Define how networks read observations.

    :param snd: ``SND`` with the networks
    :param env_normalizer: Normalizer of the environment
    :param model_normalizer: Normalizer of the environment in which the networks were trained
    :return: view of the networks
    """

    def view(obs: Any) -> th.Tensor:
        if model_normalizer is not env_normalizer:
            obs = obs if env_normalizer is None else env_normalizer.get_original_obs()
            obs = obs if model_normalizer is None else model_normalizer.normalize_obs(obs)
        return snd.reader.newest(obs, th.device("cpu"))

    return view
