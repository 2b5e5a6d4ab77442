"""``ExplorationLogger``: how much of an environment was seen, and whether the target's features still distinguish states.

Knows SB3's callbacks, places and feature spaces. Must not know a specific algorithm or any training.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import unwrap_vec_wrapper

from sb3_snd.common.effective_rank import effective_rank, spectrum
from sb3_snd.envs import AtariVecEnv, ProcgenVecEnv, find_places
from sb3_snd.envs.atari import ROOM_BYTES
from sb3_snd.wrappers import VecIntrinsicReward

N_STATES = 1024  # number of states whose features are examined
PERIOD = 10_000  # transitions between two examinations, for algorithms without rollouts
COLLAPSED = 1.5  # effective rank below which features hardly distinguish states
ENGINE_INTERVAL = 8  # steps between two reads of Procgen's engine, as a read takes as long as a step


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
        self._read: Callable[[], Sequence[Hashable]] | None = None
        self._wrapper: VecIntrinsicReward | None = None
        self._frames: list[th.Tensor] = []
        self._warned = False

    def _init_callback(self) -> None:
        env = self.model.env  # training_env lacks the wrapper that PPOSND adds
        assert env is not None
        engine = env.unwrapped
        self._read = find_places(env)
        self._wrapper = unwrap_vec_wrapper(env, VecIntrinsicReward)
        if self._read is None:
            remedy = "give your environment a method get_place() that returns a hashable value"
            if isinstance(engine, AtariVecEnv):
                known = ", ".join(ROOM_BYTES)
                remedy = (
                    f"it must be seeded and reset first (or train.py --vec-env dummy), and the game must be one of {known}"
                )
            reason = f"ExplorationLogger cannot read the places of {type(engine).__name__}: {remedy}."
            if self._wrapper is None:
                raise ValueError(reason)
            warnings.warn(reason, stacklevel=2)
        self._place_interval = ENGINE_INTERVAL if isinstance(engine, ProcgenVecEnv) else 1
        period = self.model.n_steps * env.num_envs if isinstance(self.model, OnPolicyAlgorithm) else PERIOD
        self._frame_interval = max(1, min(period // N_STATES, period // env.num_envs))

    def _on_training_start(self) -> None:
        if len(self._episodes) != self.training_env.num_envs:  # they are not from a checkpoint
            self._episodes = [set() for _ in range(self.training_env.num_envs)]
        self._look()

    def on_new_episodes(self) -> None:
        """Forget the places of the current episodes, which a checkpoint could not restore."""
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
            self._frames.append(self._wrapper.snd.select(self._wrapper.last_obs).clone())  # environments may reuse the memory
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
                " so novelty hardly distinguishes states. Lower learning_rate in snd_kwargs, or choose another target.",
                stacklevel=2,
            )
