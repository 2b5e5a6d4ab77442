"""Rollout buffer with a stream axis. Each frame is stored once, in the environment's dtype, on the device.

Knows rewards, values and discount factors, but not where the intrinsic reward comes from.
"""

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.type_aliases import RolloutBufferSamples, TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_snd.common.preprocessing import map_obs
from sb3_snd.ppo_snd.frame_stacks import FrameStore
from sb3_snd.rewards.rollout import Rollout


class StreamRolloutBuffer(RolloutBuffer):
    """
    SB3's ``RolloutBuffer`` for ``S`` streams: rewards, values, returns and advantages are ``(n_steps, n_envs,
    S)``.

    Minibatches hold advantages ``(B,)``, weighted over the streams, and flattened values and returns ``(B *
    S,)``, so that ``PPO.train`` works without changes. With one stream all numbers equal those of SB3's
    buffer bit for bit.

    :param buffer_size: Number of steps in a rollout
    :param observation_space: Observation space
    :param action_space: Action space
    :param device: PyTorch device of observations and minibatches
    :param gae_lambda: Lambda of GAE, the same for both streams
    :param gamma: Discount factor of the extrinsic stream
    :param n_envs: Number of environments
    :param gamma_int: Discount factor of the intrinsic stream; None means that there is no such stream
    :param ext_coef: Weight of the extrinsic advantage
    :param int_coef: Weight of the intrinsic advantage
    :param intrinsic_episodic: Whether the intrinsic stream ends with the episode
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        gamma_int: float | None = None,
        ext_coef: float = 1.0,
        int_coef: float = 1.0,
        intrinsic_episodic: bool = True,
    ) -> None:
        n_streams = 1 if gamma_int is None else 2
        self.n_streams = n_streams
        self.gammas = np.array([gamma, gamma_int][:n_streams], dtype=np.float64)
        self.coefs = np.array([ext_coef, int_coef] if n_streams == 2 else [1.0], dtype=np.float32)
        self.episodic = np.array([True, intrinsic_episodic][:n_streams], dtype=np.float32)
        self.n_stack = 1
        #: a FrameStore, or a dict of these; SB3's constructor calls reset(), which allocates it
        self.store: Any = None
        #: whether the stacks of this rollout are stored as they are, not frame by frame
        self._stores_stacks = False
        #: row ``t * n_envs + n`` -> last observation of the episode that ended with step ``t`` of environment
        #: ``n``
        self.terminal_observations: dict[int, np.ndarray | dict[str, np.ndarray]] = {}
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def reset(self) -> None:
        """Empty the buffer, and allocate its arrays with one column per stream."""
        shape = (self.buffer_size, self.n_envs)
        if self.store is None or self._stores_stacks:  # otherwise each rollout overwrites every row
            self._allocate()
        self.actions = np.zeros((*shape, self.action_dim), dtype=self.action_space.dtype)
        self.log_probs = np.zeros(shape, dtype=np.float32)
        self.episode_starts = np.zeros(shape, dtype=np.float32)
        self.rewards, self.values, self.returns, self.advantages = (
            np.zeros((*shape, self.n_streams), dtype=np.float32) for _ in range(4)
        )
        self.terminal_observations = {}
        self.pos, self.full = 0, False

    def set_stack(self, n_stack: int) -> None:
        """
        Store each frame of stacked observations only once. Observations that are already stored are lost.

        :param n_stack: Number of frames in an observation, see
            :func:`~sb3_snd.ppo_snd.frame_stacks.find_stack`; 1 for dicts
        """
        assert n_stack == 1 or not isinstance(self.observation_space, spaces.Dict)
        if n_stack != self.n_stack:
            self.n_stack = n_stack
            self._allocate()

    def _allocate(self) -> None:
        """Free the memory of stored observations, and allocate that of a rollout's."""
        self.store, self._stores_stacks = None, False
        self.store = self._make_store(self.observation_space, self.n_stack)

    def _make_store(self, space: spaces.Space, n_stack: int) -> Any:
        """Create the store of a rollout's observations, or a dict of these."""
        if isinstance(space, spaces.Dict):
            return {key: self._make_store(subspace, n_stack) for key, subspace in space.items()}
        dtype = th.as_tensor(np.zeros(0, dtype=space.dtype)).dtype
        shape: Any = get_obs_shape(space)
        return FrameStore(self.buffer_size, self.n_envs, shape, dtype, self.device, n_stack)

    @property
    def observations(self) -> th.Tensor | TensorDict:  # type: ignore[override]
        """Newest frame of each observation, ``(n_steps, n_envs, *frame_shape)``, or a dict of these."""
        return map_obs(lambda store: store.newest, self.store)

    def add(  # type: ignore[override]
        self,
        obs: th.Tensor | TensorDict,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
        continues_previous: bool = False,
    ) -> None:
        """
        Store one step of all environments.

        :param obs: s_t, ``(n_envs, *obs_shape)``, or a dict of these
        :param action: ``(n_envs, *action_shape)``
        :param reward: ``(n_envs, S)``
        :param episode_start: Whether s_t begins an episode, ``(n_envs,)``
        :param value: ``(n_envs, S)``
        :param log_prob: ``(n_envs,)``
        :param continues_previous: Whether the older frames of s_t are those of the steps before, see
            :class:`~sb3_snd.ppo_snd.frame_stacks.DeviceObs`; otherwise stacks are stored as they are
        """
        assert value.shape == (self.n_envs, self.n_streams), value.shape
        assert reward.shape == (self.n_envs, self.n_streams), reward.shape
        if self.n_stack > 1 and not (continues_previous or self.pos == 0 or self._stores_stacks):
            self._switch_to_stacks()
        map_obs(lambda store, new: store.store(self.pos, new), self.store, obs)
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.cpu().numpy()
        self.log_probs[self.pos] = log_prob.cpu().numpy().reshape(self.n_envs)
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def _switch_to_stacks(self) -> None:
        """Store stacks as they are from now on, because other code has stepped or reset the environments."""
        single_frames = self.store
        single_frames.finish(self.episode_starts)
        self.store, self._stores_stacks = self._make_store(self.observation_space, 1), True
        for step in range(self.pos):
            rows = th.arange(step * self.n_envs, (step + 1) * self.n_envs)
            self.store.store(step, single_frames.read(rows))

    def discount(self, terminal_values: np.ndarray) -> np.ndarray:
        """
        Compute what a time limit adds to the last reward. Each stream that ends with the episode bootstraps
        with its own gamma. One that continues through resets adds 0, since it already has the next state's
        value.

        :param terminal_values: V of the terminal observation, ``(S,)``
        :return: addition to the reward of each stream, ``(S,)`` float32
        """
        return (self.gammas * self.episodic).astype(np.float32) * terminal_values

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """
        Compute GAE (arXiv 1506.02438, eq. 16) of all streams in one recursion, with ``gamma`` broadcast over
        their axis. This follows the text of SB3's ``RolloutBuffer`` (MIT).

        :param last_values: V(s_T), ``(n_envs, S)``
        :param dones: Whether the last step ended an episode, ``(n_envs,)``
        """
        assert last_values.shape == (self.n_envs, self.n_streams), last_values.shape
        map_obs(lambda store: store.finish(self.episode_starts), self.store)
        gammas = self.gammas.astype(np.float32)  # (S,)
        decay = (self.gammas * self.gae_lambda).astype(np.float32)  # (S,)
        next_values = last_values.cpu().numpy()
        next_done = dones.astype(np.float32)
        advantage = np.zeros((self.n_envs, self.n_streams), dtype=np.float32)
        for step in reversed(range(self.buffer_size)):
            next_non_terminal = 1.0 - next_done[:, None] * self.episodic  # (n_envs, S)
            delta = self.rewards[step] + gammas * next_values * next_non_terminal - self.values[step]
            advantage = delta + decay * next_non_terminal * advantage
            self.advantages[step] = advantage
            next_values, next_done = self.values[step], self.episode_starts[step]
        self.returns = self.advantages + self.values

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """
        Iterate over minibatches in random order.

        :param batch_size: Transitions per minibatch; all by default
        :return: minibatches with the same rows as those of SB3's buffer for the same NumPy seed
        """
        assert self.full, "The rollout buffer is not full yet."
        size = self.buffer_size * self.n_envs
        indices = np.random.permutation(size)
        for start in range(0, size, batch_size or size):
            yield self._get_samples(indices[start : start + (batch_size or size)])

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> RolloutBufferSamples:
        """
        Assemble a minibatch.

        :param batch_inds: ``(B,)``, environment by environment, as SB3 counts them
        :param env: Unused, as in SB3's rollout buffers
        :return: a minibatch on the device
        """
        at = (batch_inds % self.buffer_size, batch_inds // self.buffer_size)  # step, environment
        rows = th.as_tensor(self.rows(batch_inds), device=self.device)
        return RolloutBufferSamples(
            map_obs(lambda store: store.read(rows), self.store),
            *map(
                self.to_torch,
                (
                    self.actions[at].astype(np.float32, copy=False),
                    self.values[at].flatten(),
                    self.log_probs[at],
                    self.advantages[at] @ self.coefs,
                    self.returns[at].flatten(),
                ),
            ),
        )

    def rows(self, batch_inds: np.ndarray) -> np.ndarray:
        """
        Convert SB3's indices to rows of the stored observations.

        :param batch_inds: ``(B,)``, environment by environment, as SB3 counts them
        :return: rows, ``(B,)``, step by step, as frames are stored
        """
        return batch_inds % self.buffer_size * self.n_envs + batch_inds // self.buffer_size

    def memory(self) -> Iterator[th.Tensor]:
        """
        Iterate over the tensors that hold the observations. Their addresses stay the same in all rollouts.

        :return: the tensors
        """
        for store in self.store.values() if isinstance(self.store, dict) else [self.store]:
            yield from store.memory()

    def rollout(self, last_observation: Any, actions: np.ndarray) -> Rollout:
        """
        Return the newest frames of this rollout in time order.

        :param last_observation: s_T, ``(n_envs, *obs_shape)``, or a dict of these
        :param actions: Actions as the environments got them, ``(n_steps, n_envs, *action_shape)``
        :return: the rollout
        """
        return Rollout(self.observations, last_observation, self.terminal_observations, actions)
