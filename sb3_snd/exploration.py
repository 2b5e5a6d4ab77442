"""``ExplorationLogger``: how much of an environment was seen, and whether the target's features still tell states apart.

Knows SB3's callbacks, places and feature spaces; no algorithm of its own, no training.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import unwrap_vec_wrapper

from sb3_snd.envs import AtariVecEnv, ProcgenVecEnv, find_places
from sb3_snd.envs.atari import ROOM_BYTES
from sb3_snd.feature_spaces import effective_rank, spectrum
from sb3_snd.wrappers import VecIntrinsicReward

N_STATES = 1024  # whose features are looked at
PERIOD = 10_000  # transitions between two looks, for algorithms without a rollout
COLLAPSED = 1.5  # effective rank below which states hardly differ
ENGINE_INTERVAL = 8  # steps between two looks into Procgen's engine, where one costs as much as a step


class ExplorationLogger(BaseCallback):
    """
    Logs to ``exploration/``:

    - ``places``: distinct places seen since training began, in all environments together; ``places_per_episode``: those of an
      episode, mean over the episodes that ended since the last log; ``places_per_episode_max``, the largest so far. What a
      place is, see :func:`sb3_snd.envs.find_places`: a room, a state of a grid, a coarse position. The last observation of
      an episode does not count, as environments have begun the next one when they can be asked. Procgen's engine is asked
      every eighth step;
    - ``effective_rank`` of the target's features (:func:`sb3_snd.feature_spaces.effective_rank`) over about a thousand states
      of the rollout, and ``feature_std``, the mean over features of their standard deviation. A rank below 1.5 warns, once:
      the features have collapsed, and novelty no longer tells states apart.

    For any algorithm, with or without :class:`~sb3_snd.callbacks.SNDCallback`, and in the RL Zoo: ``callback:
    sb3_snd.ExplorationLogger``.

    :raises ValueError: when training begins, if the environment shows no place and there is no ``SND``
    """

    def __init__(self) -> None:
        super().__init__()
        #: distinct places seen so far
        self.places: set[Hashable] = set()
        self._episodes: list[set[Hashable]] = []  # of each environment's episode
        self._most = 0
        self._read: Callable[[], Sequence[Hashable]] | None = None
        self._wrapper: VecIntrinsicReward | None = None
        self._frames: list[th.Tensor] = []
        self._warned = False

    def _init_callback(self) -> None:
        env = self.model.env  # training_env lacks PPOSND's own wrapper
        assert env is not None
        engine = env.unwrapped
        self._read = find_places(env)
        self._wrapper = unwrap_vec_wrapper(env, VecIntrinsicReward)
        if self._read is None:
            remedy = "give your environment a method get_place() that returns something hashable"
            if isinstance(engine, AtariVecEnv):
                known = ", ".join(ROOM_BYTES)
                remedy = f"it must be seeded and reset first (or train.py --vec-env dummy), and the game one of {known}"
            reason = f"ExplorationLogger cannot tell places of {type(engine).__name__} apart: {remedy}."
            if self._wrapper is None:
                raise ValueError(reason)
            warnings.warn(reason, stacklevel=2)
        self._place_interval = ENGINE_INTERVAL if isinstance(engine, ProcgenVecEnv) else 1
        period = self.model.n_steps * env.num_envs if isinstance(self.model, OnPolicyAlgorithm) else PERIOD
        self._frame_interval = max(1, min(period // N_STATES, period // env.num_envs))

    def _on_training_start(self) -> None:
        if len(self._episodes) != self.training_env.num_envs:  # otherwise a checkpoint has put them back
            self._episodes = [set() for _ in range(self.training_env.num_envs)]
        self._look()

    def on_new_episodes(self) -> None:
        """A checkpoint could not bring back the episodes under way."""
        self._episodes = []

    def _look(self) -> None:
        if self._read is not None:
            for seen, place in zip(self._episodes, self._read(), strict=True):
                if place is not None:
                    seen.add(place)
                    self.places.add(place)

    def _on_step(self) -> bool:
        for idx in np.flatnonzero(self.locals["dones"]).tolist() if self._read is not None else ():
            seen, self._episodes[idx] = len(self._episodes[idx]), set()
            if seen > 0:
                self._most = max(self._most, seen)
                self.logger.record_mean("exploration/places_per_episode", seen)
        if self.n_calls % self._place_interval == 0:
            self._look()
        if self._wrapper is not None and self.n_calls % self._frame_interval == 0:
            self._frames.append(self._wrapper.snd.select(self._wrapper.last_obs).clone())  # environments may write there
        return True

    def _on_rollout_end(self) -> None:
        if self._read is not None:
            self.logger.record("exploration/places", len(self.places))
            self.logger.record("exploration/places_per_episode_max", self._most)
        if sum(map(len, self._frames)) < N_STATES:
            return
        assert self._wrapper is not None
        features = self._wrapper.snd.features(th.cat(self._frames))  # (n, D)
        self._frames = []
        rank = effective_rank(spectrum(features))
        self.logger.record("exploration/effective_rank", rank)
        self.logger.record("exploration/feature_std", features.std(dim=0).mean().item())
        if rank < COLLAPSED and not self._warned:
            self._warned = True
            warnings.warn(
                f"The target's features have collapsed after {self.num_timesteps} steps: their effective rank is {rank:.2f},"
                " so novelty hardly tells states apart. Lower snd_kwargs' learning_rate, or choose another target.",
                stacklevel=2,
            )
