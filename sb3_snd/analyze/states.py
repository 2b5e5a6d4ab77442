"""Reference states: frames that one model's policy comes across, as the nets of each model read them.

Knows environments, SB3's wrappers and how nets read frames; no feature, no picture.
"""

import pickle
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, is_vecenv_wrapped, unwrap_vec_normalize

from sb3_snd.analyze.models import Model
from sb3_snd.extras import require
from sb3_snd.snd import SND

View = Callable[[Any], th.Tensor]  # observations of the environment -> frames as nets read them, on the CPU

MIN_SHARE = 0.1  # of the transitions that have to stay within an episode


class States(NamedTuple):
    """``T + 1`` observations of ``N`` environments, one row each, row ``t * N + n``: a successor lies ``N`` rows later."""

    frames: dict[Hashable, th.Tensor]  # view -> ((T + 1) * N, *frame_shape)
    steps: np.ndarray  # (T + 1, N) int64, since the episode began
    places: list[Hashable] | None  # (T + 1) * N of them
    n_states: int  # at most

    @property
    def rows(self) -> np.ndarray:
        """Rows of the reference states, ``(n_states,)`` int64, whose successors are of the same episode."""
        return np.flatnonzero(self.steps[1:] > 0)[: self.n_states]

    @property
    def next_rows(self) -> np.ndarray:
        """Rows of their successors, ``(n_states,)``."""
        return self.rows + self.steps.shape[1]

    @property
    def episode(self) -> np.ndarray:
        """Rows of the longest episode of all, or of what there is of it, in order of time, ``(length,)``."""
        n_envs = self.steps.shape[1]
        last = int(self.steps.argmax())
        return np.arange(last - int(self.steps.max()) * n_envs, last + 1, n_envs)


def collect(
    policy: BaseAlgorithm,
    env: VecEnv,
    views: Mapping[Any, View],
    n_states: int,
    places: Callable[[], Sequence[Hashable]] | None = None,
) -> States:
    """
    Actions are drawn from the policy, as in training.

    :param policy: What acts
    :param env: Where it acts
    :param views: What is kept of each observation, by key
    :param n_states: States to collect, of which the episode goes on
    :param places: Tells where each environment is at the moment
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
                frames[key].append(view(obs).clone())  # environments may write into their old observations
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
    return States(joined, np.stack(steps), seen if places is not None else None, n_states)


def make_views(models: Sequence[Model], collector: Model, env: VecEnv) -> tuple[dict[Hashable, View], list[Hashable]]:
    """
    What the nets of each model read of the collector's environment: normalised by the statistics of their own run, as in
    training.

    :param models: With an SND each
    :param collector: The model that ``env`` was made for
    :param env: The environment
    :return: views by a key, so that what several models read is kept once, and the key of each model's view
    :raises ValueError: if a model cannot read the frames
    """
    views: dict[Hashable, View] = {}
    keys: list[Hashable] = []
    own = _of_observations(unwrap_vec_normalize(env))
    for model in models:
        snd = model.snd
        assert snd is not None
        try:
            snd.check_space(env.observation_space)
        except ValueError as error:
            message = f"{model.path} does not read the frames of {collector.path}, analyse them one by one: {error}"
            raise ValueError(message) from error
        theirs = own if model is collector else _load_normalizer(model)
        if theirs is not own and is_vecenv_wrapped(env, VecFrameStack):
            raise ValueError(
                f"{model.path} and {collector.path} stack observations that each normalises its own way:"
                " analyse them one by one."
            )
        keys.append((model.path if theirs is not None else None, snd.reader.keys))
        views[keys[-1]] = _make_view(snd, own, theirs)
    return views, keys


def _load_normalizer(model: Model) -> VecNormalize | None:
    """:return: what normalised the observations of the model's run, around no environment"""
    path = None if model.config is None else model.config / "vecnormalize.pkl"
    if path is None or not path.is_file():
        return None
    with open(path, "rb") as file:  # VecNormalize.load wants an environment of the same layers
        return _of_observations(pickle.load(file))


def _of_observations(normalizer: VecNormalize | None) -> VecNormalize | None:
    """:return: None for one of rewards only"""
    return normalizer if normalizer is not None and normalizer.norm_obs else None


def _make_view(snd: SND, own: VecNormalize | None, theirs: VecNormalize | None) -> View:
    """
    :param snd: The nets
    :param own: What normalises the environment
    :param theirs: What normalised the environment that the nets were trained in
    :return: the view of the nets
    """

    def view(obs: Any) -> th.Tensor:
        if theirs is not own:
            obs = obs if own is None else own.get_original_obs()
            obs = obs if theirs is None else theirs.normalize_obs(obs)
        return snd.reader.newest(obs, th.device("cpu"))

    return view
