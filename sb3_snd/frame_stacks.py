"""Observations of a rollout with each frame stored once: stacks are rebuilt from the newest frames.

Knows how SB3's vector environments stack frames; no network, no reward.
"""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecTransposeImage

#: wrappers that leave the values of observations as they are; others say so by ``keeps_frames = True``
TRANSPARENT = (VecMonitor, VecTransposeImage, VecCheckNan)


def find_stack(env: VecEnv) -> int:
    """
    :param env: The environment, as an algorithm sees it
    :return: number of frames in an observation, if these are the newest frames of the last steps along the first axis,
        oldest first, and zeros before an episode's first; 1 where nobody says so. Environments that stack themselves say it
        by ``zero_padded_stack``, the number of frames
    """
    space, n_stack = env.observation_space, 1
    while isinstance(env, VecEnvWrapper):
        if type(env) is VecFrameStack:
            stack = env.stacked_obs
            stacked: Any = env.observation_space
            images = isinstance(stacked, spaces.Box) and len(stacked.shape) == 3
            if images and stack.channels_first == is_image_space_channels_first(stacked):
                n_stack = stack.n_stack
            break
        if not (type(env) in TRANSPARENT or getattr(type(env), "keeps_frames", False)):
            break
        env = env.venv
    else:
        n_stack = getattr(env, "zero_padded_stack", 1)
    if not (isinstance(space, spaces.Box) and len(space.shape) == 3 and is_image_space_channels_first(space)):
        return 1
    return n_stack if space.shape[0] % n_stack == 0 else 1


class FrameStore:
    """
    Observations of ``T`` steps of ``N`` environments, on the device. Of a stack only the newest frame is stored.

    :param n_steps: Steps in a rollout, T
    :param n_envs: Environments, N
    :param shape: Of one observation
    :param dtype: Of the observations
    :param device: PyTorch device
    :param n_stack: Frames in an observation, along its first axis, as :func:`find_stack` says
    """

    def __init__(
        self, n_steps: int, n_envs: int, shape: tuple[int, ...], dtype: th.dtype, device: th.device | str, n_stack: int = 1
    ) -> None:
        self.n_steps, self.n_envs, self.shape, self.n_stack = n_steps, n_envs, shape, n_stack
        self.frame_shape = shape if n_stack == 1 else (shape[0] // n_stack, *shape[1:])
        #: first row of step 0: before it lie the older frames of its stack, behind the last step's one frame of zeros
        self.first = (n_stack - 1) * n_envs
        self._frames = th.zeros(self.first + n_steps * n_envs + 1, *self.frame_shape, dtype=dtype, device=device)
        #: rows of the frames in each observation
        self._rows = th.zeros(n_steps, n_envs, n_stack, dtype=th.int64, device=device)
        self._older = th.zeros(n_envs, n_stack - 1, *self.frame_shape, dtype=dtype, device=device)  # of the next one

    @property
    def newest(self) -> th.Tensor:
        """The newest frame of each observation, ``(T, N, *frame_shape)``; all of it where nothing is stacked."""
        return self._frames[self.first : -1].view(self.n_steps, self.n_envs, *self.frame_shape)

    def memory(self) -> tuple[th.Tensor, ...]:
        """:return: all that :meth:`read` reads"""
        return self._frames, self._rows

    def store(self, step: int, obs: th.Tensor, begins: np.ndarray, is_stack: bool | None = None) -> bool:
        """
        :param step: From 0 on
        :param obs: ``(N, *shape)``
        :param begins: Whether an episode begins with the observation, ``(N,)``
        :param is_stack: Whether its older frames are those of the steps before; None: they are compared
        :return: False if its older frames are not those of the steps before; then it is not stored
        """
        obs = obs.reshape(self.n_envs, self.n_stack, *self.frame_shape)
        if self.n_stack > 1:
            if step == 0:
                older = self._frames[: self.first].view(self.n_stack - 1, self.n_envs, *self.frame_shape)
                older.copy_(obs[:, :-1].transpose(0, 1))
            elif is_stack is None:
                self._older[th.as_tensor(begins > 0, device=self._frames.device)] = 0
                is_stack = th.equal(obs[:, :-1], self._older)
            if not is_stack and step > 0:
                return False
            self._older.copy_(obs[:, 1:])
        self.newest[step].copy_(obs[:, -1])
        return True

    def finish(self, episode_starts: np.ndarray) -> None:
        """
        To be called when all steps are stored, before stacks are read.

        :param episode_starts: Whether an episode begins with the observation, ``(T, N)``
        """
        if self.n_stack == 1:
            return
        steps, envs = np.arange(self.n_steps)[:, None], np.arange(self.n_envs)
        # Episodes that began before the rollout have their older frames, or zeros, in front of step 0
        begins = np.maximum.accumulate(np.where(episode_starts > 0, steps, -self.n_stack), axis=0)  # (T, N)
        shown = steps[..., None] + np.arange(1 - self.n_stack, 1)  # (T, 1, n_stack), steps whose frames are in the stack
        rows = self.first + shown * self.n_envs + envs[:, None]
        zeros = len(self._frames) - 1
        self._rows.copy_(th.as_tensor(np.where(shown >= begins[..., None], rows, zeros)))

    def read(self, rows: th.Tensor) -> th.Tensor:
        """
        :param rows: Of the observations, step * N + environment, ``(B,)`` int64
        :return: ``(B, *shape)``
        """
        rows = rows.to(self._frames.device)
        if self.n_stack > 1:
            rows = self._rows.view(-1, self.n_stack)[rows].flatten()
        return self._frames.index_select(0, rows).view(-1, *self.shape)


class FrameUploader:
    """
    Observations of ``N`` environments on the device. Of a stack only the newest frame travels, from pinned memory and
    without waiting; the stack is rebuilt there. The older frames are compared with those of the steps before. Where they
    differ, because somebody else has stepped the environments, the whole observation travels.

    The device has to be waited for between two calls, as whoever asks it for actions does.

    :param n_envs: Environments, N
    :param shape: Of one observation
    :param dtype: Of the observations
    :param device: PyTorch device
    :param n_stack: Frames in an observation, along its first axis, as :func:`find_stack` says
    """

    def __init__(self, n_envs: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: th.device, n_stack: int = 1) -> None:
        self.n_stack = n_stack
        self.is_stack = False  #: whether the last observation's older frames were those of the steps before
        self._stacked = n_envs, n_stack, shape[0] // n_stack, *shape[1:]
        frames = [th.as_tensor(np.zeros((n_envs, *self._stacked[2:]), dtype)) for _ in range(n_stack)]
        #: those of the last observation, oldest first, (N, c, H, W) each; the oldest one's memory takes the next frame
        self._frames = [frame.pin_memory() if device.type == "cuda" else frame for frame in frames]
        self._stack = th.zeros(self._stacked, dtype=frames[0].dtype, device=device)

    def restart(self, obs: np.ndarray) -> th.Tensor:
        """
        :param obs: ``(N, *shape)``, in whatever way it came about
        :return: the same on the device
        """
        obs = obs.reshape(self._stacked)
        for index, frame in enumerate(self._frames):
            frame.numpy()[:] = obs[:, index]
        self._stack = th.as_tensor(obs.copy()).to(self._stack.device)
        return self._stack.flatten(1, 2)

    def upload(self, obs: np.ndarray, begins: np.ndarray) -> th.Tensor:
        """
        :param obs: The next ones, ``(N, *shape)``
        :param begins: Whether an episode begins with the observation, ``(N,)``
        :return: the same on the device, maybe before it has arrived there
        """
        stacked = obs.reshape(self._stacked)
        oldest, *expected = self._frames
        for frame in expected:
            frame.numpy()[begins] = 0
        self.is_stack = all(np.array_equal(frame.numpy(), stacked[:, index]) for index, frame in enumerate(expected))
        if not self.is_stack:
            return self.restart(obs)
        oldest.numpy()[:] = stacked[:, -1]
        self._frames = [*expected, oldest]
        newest = oldest.to(self._stack.device, non_blocking=True, copy=True)
        older = self._stack[:, 1:]
        if begins.any() and self.n_stack > 1:
            older = older.masked_fill(th.as_tensor(begins, device=older.device).view(-1, 1, 1, 1, 1), 0)
        self._stack = th.cat([older, newest.unsqueeze(1)], dim=1)
        return self._stack.flatten(1, 2)
