"""``ExplorationLogger``: how much of an environment was seen, and whether the target's features still
distinguish states.

Knows SB3's callbacks, places and feature spaces. Must not know a specific algorithm or any training.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import unwrap_vec_wrapper

from sb3_snd.common.effective_rank import effective_rank, spectrum
from sb3_snd.envs import AtariVecEnv, find_places
from sb3_snd.envs.atari_rooms import ROOM_BYTES
from sb3_snd.wrappers import VecIntrinsicReward

N_STATES = 1024  # number of states whose features are examined
PERIOD = 10_000  # transitions between two examinations, for algorithms without rollouts
COLLAPSED = 1.5  # effective rank below which features hardly distinguish states


class ExplorationLogger(BaseCallback):
    """
    Log how much is explored, under ``exploration/``:

    - ``places``: number of distinct places seen since training began, in all environments together;
    - ``places_per_episode``: number of distinct places in an episode, mean since the last log;
    - ``places_per_episode_max``: the largest number so far;
    - ``effective_rank``: effective rank of the target's features
      (:func:`sb3_snd.common.effective_rank.effective_rank`) on about a thousand states of the rollout;
    - ``feature_std``: standard deviation of these features, averaged over features.

    A place is a room, a state of a grid or a coarse position, see :func:`sb3_snd.envs.find_places`. The last
    observation of an episode is not counted, because environments are already in the next episode when they
    are read. Procgen's engine is only read every eighth step.

    One warning is issued if the effective rank falls below 1.5: the features have collapsed, and novelty no
    longer distinguishes states.

    Works with any algorithm, with or without :class:`~sb3_snd.callbacks.SNDCallback`. In the RL Zoo, use
    ``callback: sb3_snd.ExplorationLogger``.

    :raises ValueError: when training begins, if places cannot be read and there is no ``SND``
    """

    def __init__(self) -> None:
        super().__init__()
        #: distinct places seen so far
        self.places: set[Hashable] = set()
        self._episodes: list[set[Hashable]] = []  # places of the current episode of each environment
        self._most = 0
        self._read_places: Callable[[], Sequence[Hashable]] | None = None
        self._wrapper: VecIntrinsicReward | None = None
        self._frames: list[th.Tensor] = []
        self._warned = False

    def _init_callback(self) -> None:
        env = self.model.env  # training_env lacks the wrapper that PPOSND adds
        assert env is not None
        engine = env.unwrapped
        self._read_places = find_places(env)
        self._wrapper = unwrap_vec_wrapper(env, VecIntrinsicReward)
        if self._read_places is None:
            remedy = "give your environment a method get_place() that returns a hashable value"
            if isinstance(engine, AtariVecEnv):
                known = ", ".join(ROOM_BYTES)
                remedy = (
                    f"it must be seeded and reset first (or train with --vec-env dummy), and the game must be one of {known}"
                )
            reason = f"ExplorationLogger cannot read the places of {type(engine).__name__}: {remedy}."
            if self._wrapper is None:
                raise ValueError(reason)
            warnings.warn(reason, stacklevel=2)
        self._place_interval = getattr(engine, "place_interval", 1)
        period = self.model.n_steps * env.num_envs if isinstance(self.model, OnPolicyAlgorithm) else PERIOD
        self._frame_interval = max(1, min(period // N_STATES, period // env.num_envs))

    def _on_training_start(self) -> None:
        if len(self._episodes) != self.training_env.num_envs:  # they are not from a checkpoint
            self._episodes = [set() for _ in range(self.training_env.num_envs)]
        self._add_places()

    def get_run_state(self) -> dict[str, Any]:
        """
        Return what a checkpoint between two rollouts must hold.

        :return: attribute name -> value
        """
        return {name: getattr(self, name) for name in ("n_calls", "places", "_episodes", "_most", "_frames", "_warned")}

    def set_run_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state that :meth:`get_run_state` returned.

        :param state: Attribute name -> value; its tensors may be on any device
        """
        vars(self).update(state)
        if self._wrapper is not None:
            self._frames = [frames.to(self._wrapper.snd.device) for frames in self._frames]

    def on_new_episodes(self) -> None:
        """Forget the places of the current episodes, which a checkpoint could not restore."""
        self._episodes = []

    def _add_places(self) -> None:
        if self._read_places is None:
            return
        for seen, place in zip(self._episodes, self._read_places(), strict=True):
            if place is not None:
                seen.add(place)
                self.places.add(place)

    def _end_episodes(self, dones: np.ndarray) -> None:
        """
        Log the number of places of the episodes that have ended.

        :param dones: Whether each environment's episode has ended, ``(n_envs,)``
        """
        if self._read_places is None:
            return
        for idx in np.flatnonzero(dones):
            n_places = len(self._episodes[idx])
            self._episodes[idx] = set()
            if n_places > 0:
                self._most = max(self._most, n_places)
                self.logger.record_mean("exploration/places_per_episode", n_places)

    def _on_step(self) -> bool:
        self._end_episodes(self.locals["dones"])
        if self.n_calls % self._place_interval == 0:
            self._add_places()
        if self._wrapper is not None and self.n_calls % self._frame_interval == 0:
            # Environments may reuse the memory
            self._frames.append(self._wrapper.snd.select(self._wrapper.last_obs).clone())
        return True

    def _on_rollout_end(self) -> None:
        if self._read_places is not None:
            self.logger.record("exploration/places", len(self.places))
            self.logger.record("exploration/places_per_episode_max", self._most)
        if sum(map(len, self._frames)) < N_STATES:
            return
        assert self._wrapper is not None
        features = self._wrapper.snd.features(th.cat(self._frames))  # (n, D)
        self._frames = []
        if features is None:
            return
        rank = effective_rank(spectrum(features))
        self.logger.record("exploration/effective_rank", rank)
        self.logger.record("exploration/feature_std", features.std(dim=0).mean().item())
        if rank < COLLAPSED and not self._warned:
            self._warned = True
            warnings.warn(
                f"The target's features have collapsed after {self.num_timesteps} steps: their effective rank is {rank:.2f},"
                " so novelty hardly distinguishes states. Lower learning_rate in snd_kwargs, or choose another target.",
                stacklevel=2,
            )
