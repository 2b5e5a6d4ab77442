"""``StreamPPO``: SB3's rollout loop for several streams of rewards, values and advantages.

Knows environments and the two-stream buffer, but neither SND nor an update.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.common.preprocessing import FrameReader
from sb3_snd.common.type_aliases import STREAM_NAMES
from sb3_snd.ppo_snd.acting import Actor
from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer
from sb3_snd.ppo_snd.frame_stacks import FrameUploader, ObsUploader, StackUploader, find_stack
from sb3_snd.rewards.rollout import Rollout
from sb3_snd.wrappers import VecIntrinsicReward


class StreamPPO(PPO):
    """
    PPO that collects rollouts of several streams.

    The loop follows the text of ``OnPolicyAlgorithm.collect_rollouts`` of SB3 (MIT). It is written anew
    because SB3's version bootstraps time limits with one scalar ``gamma``, loses terminal observations, and
    would copy each observation to the device three times.
    """

    rollout_buffer: StreamRolloutBuffer
    _actor: Actor
    _uploader: ObsUploader

    def _store_frames_once(self, reads_frames: bool) -> None:
        """
        Store single frames instead of stacks if the environment stacks like SB3's ``VecFrameStack`` and
        novelty needs only the newest frame.

        :param reads_frames: Whether novelty reads the stored frames
        """
        if self.env is None or not isinstance(self.rollout_buffer, StreamRolloutBuffer):
            return
        n_stack = find_stack(self.env)
        if n_stack > 1 and reads_frames:
            channels = FrameReader(self.observation_space).shape[0]
            n_stack = n_stack if self.observation_space.shape[0] // n_stack >= channels else 1  # type: ignore[index]
        self.rollout_buffer.set_stack(n_stack)
        space = self.observation_space
        self._uploader = ObsUploader(self.device)
        if isinstance(space, spaces.Box) and len(space.shape) == 3:
            assert space.dtype is not None
            stacks = self.n_envs, space.shape, space.dtype, self.device, n_stack
            if self.device.type == "cuda":
                self._uploader = FrameUploader(*stacks)
            elif n_stack > 1:
                self._uploader = StackUploader(*stacks)

    @property
    def _trains_images_on_cpu(self) -> bool:
        """Whether updates free and allocate so much memory that it matters how the allocator treats it."""
        space = self.observation_space
        parts = space.values() if isinstance(space, spaces.Dict) else [space]
        return self.device.type == "cpu" and any(len(part.shape or ()) == 3 for part in parts)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """
        Collect a rollout with the current policy, and let the environment reward its steps meanwhile.

        :param env: The training environment
        :param callback: Callback that is called at each step, and at the rollout's beginning and end
        :param rollout_buffer: The buffer to fill
        :param n_rollout_steps: Number of steps of each environment
        :return: False if the callback ended the training
        """
        self._follow_schedules()
        wrapper = env if isinstance(env, VecIntrinsicReward) else None
        try:
            if wrapper is not None:
                wrapper.training = True
            with self._timed("rollout"):
                return self._collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        finally:
            if wrapper is not None:
                wrapper.training = False

    def _follow_schedules(self) -> None:
        """Update what follows a schedule. This is called at the beginning of each rollout and update."""

    def _collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert self._last_obs is not None, "No previous observation was provided"
        assert isinstance(rollout_buffer, StreamRolloutBuffer)
        n_steps = 0
        rollout_buffer.reset()
        self._actor.begin_rollout()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        obs_tensor, continues_previous = self._uploader.restart(self._last_obs)

        while n_steps < n_rollout_steps:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            chosen, values, log_probs = self._actor.act(obs_tensor)
            actions = chosen.cpu().numpy()
            if isinstance(env, VecIntrinsicReward):
                env.set_device_obs(obs_tensor)
            clipped_actions = self._clip_actions(actions)  # callbacks may read this local variable, as in PPO
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            rewards = np.array(rewards, dtype=np.float32).reshape(env.num_envs, rollout_buffer.n_streams)
            self.num_timesteps += env.num_envs

            callback.update_locals(locals())
            if not callback.on_step():
                if isinstance(env, VecIntrinsicReward):  # SB3 keeps s_t, from which a reward has seen the step already
                    self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
                return False

            self._update_info_buffer(infos, dones)
            for idx in np.flatnonzero(dones).tolist():
                terminal_obs = infos[idx].get("terminal_observation")
                if terminal_obs is not None and infos[idx].get("TimeLimit.truncated", False):
                    rewards[idx] += rollout_buffer.discount(self._terminal_values(terminal_obs))
            if isinstance(env, VecIntrinsicReward):
                for idx, successor in env.terminal_observations.items():
                    rollout_buffer.terminal_observations[n_steps * env.num_envs + idx] = successor
            starts: Any = self._last_episode_starts
            rollout_buffer.add(obs_tensor, actions, rewards, starts, values, log_probs, continues_previous)
            n_steps += 1
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
            obs_tensor, continues_previous = self._uploader.upload(new_obs, dones)

        with th.no_grad():
            values = self.policy.predict_values(obs_tensor)
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        if isinstance(env, VecIntrinsicReward):
            for name, value in env.pop_statistics().items():
                self.logger.record(f"rollout/{name}", value)
        return True

    def _clip_actions(self, actions: np.ndarray) -> np.ndarray:
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _terminal_values(self, terminal_obs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        Compute the values of a terminal observation.

        :param terminal_obs: ``obs_shape``, or a dict of these
        :return: value of each stream, ``(S,)``
        """
        with th.no_grad():
            return self.policy.predict_values(self.policy.obs_to_tensor(terminal_obs)[0])[0].cpu().numpy()

    def _log_explained_variance(self) -> None:
        for stream, name in enumerate(STREAM_NAMES):
            values, returns = self.rollout_buffer.values[..., stream], self.rollout_buffer.returns[..., stream]
            variance = explained_variance(values.flatten(), returns.flatten())
            self.logger.record(f"train/explained_variance_{name}", variance)

    def _rollout(self) -> Rollout:
        """Return the rollout in the buffer, with the actions as the environments got them."""
        buffer = self.rollout_buffer
        actions = buffer.actions.reshape(*buffer.actions.shape[:2], *(self.action_space.shape or ()))
        return buffer.rollout(self._last_obs, self._clip_actions(actions))

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Log the duration of a block in seconds as ``time/<phase>_s``."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            th.cuda.synchronize(self.device)
        self.logger.record(f"time/{phase}_s", time.perf_counter() - start)
