"""Observations of a rollout. Each frame is uploaded and stored once; stacks are rebuilt from the frames.

Knows how SB3's vector environments stack frames, but no network or reward.
"""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecTransposeImage,
)

#: wrappers that do not change the values of observations; others declare this by ``keeps_frames = True``
TRANSPARENT = (VecMonitor, VecTransposeImage, VecCheckNan)


def find_stack(env: VecEnv) -> int:
    """
    Determine how many frames the environment stacks in an observation.

    The frames must be the newest frames of the last steps along the first axis, oldest first, with zeros
    before the first frame of an episode. An environment that stacks frames itself declares their number by
    ``zero_padded_stack``.

    :param env: The environment, as an algorithm sees it
    :return: number of frames in an observation, or 1 if no such stack is known
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
    Observations of ``T`` steps of ``N`` environments, on the device. Only the newest frame of a stack is
    stored.

    :param n_steps: Steps in a rollout, T
    :param n_envs: Environments, N
    :param shape: Shape of one observation
    :param dtype: Data type of the observations
    :param device: PyTorch device
    :param n_stack: Frames in an observation, along its first axis, see :func:`find_stack`
    """

    def __init__(
        self,
        n_steps: int,
        n_envs: int,
        shape: tuple[int, ...],
        dtype: th.dtype,
        device: th.device | str,
        n_stack: int = 1,
    ) -> None:
        self.n_steps, self.n_envs, self.shape, self.n_stack = n_steps, n_envs, shape, n_stack
        self.frame_shape = shape if n_stack == 1 else (shape[0] // n_stack, *shape[1:])
        #: first row of step 0. The rows before it hold the older frames of its stack; the last row of all is
        #: a frame of zeros
        self.first = (n_stack - 1) * n_envs
        n_rows = self.first + n_steps * n_envs + 1
        self._frames = th.zeros(n_rows, *self.frame_shape, dtype=dtype, device=device)
        #: row of each frame in each observation
        self._rows = th.zeros(n_steps, n_envs, n_stack, dtype=th.int64, device=device)

    @property
    def newest(self) -> th.Tensor:
        """Newest frame of each observation, ``(T, N, *frame_shape)``; all of it if there is no stack."""
        return self._frames[self.first : -1].view(self.n_steps, self.n_envs, *self.frame_shape)

    def memory(self) -> tuple[th.Tensor, ...]:
        """Return all tensors that :meth:`read` reads."""
        return self._frames, self._rows

    def store(self, step: int, obs: th.Tensor) -> None:
        """
        Store the observations of one step. From step 1 on, their older frames must be those of the steps
        before, or zeros before the first frame of an episode.

        :param step: Index of the step, from 0
        :param obs: ``(N, *shape)``
        """
        obs = obs.reshape(self.n_envs, self.n_stack, *self.frame_shape)
        if step == 0:
            older = self._frames[: self.first].view(self.n_stack - 1, self.n_envs, *self.frame_shape)
            older.copy_(obs[:, :-1].transpose(0, 1))
        self.newest[step].copy_(obs[:, -1])

    def finish(self, episode_starts: np.ndarray) -> None:
        """
        Prepare for reading stacks. This must be called after all steps are stored.

        :param episode_starts: Whether an episode begins with the observation, ``(T, N)``
        """
        if self.n_stack == 1:
            return
        steps, envs = np.arange(self.n_steps)[:, None], np.arange(self.n_envs)
        # For episodes that began before the rollout, the rows before step 0 hold the older frames, or zeros
        begins = np.maximum.accumulate(np.where(episode_starts > 0, steps, -self.n_stack), axis=0)  # (T, N)
        # (T, 1, n_stack), steps of the frames in the stack
        shown = steps[..., None] + np.arange(1 - self.n_stack, 1)
        rows = self.first + shown * self.n_envs + envs[:, None]
        zeros = len(self._frames) - 1
        self._rows.copy_(th.as_tensor(np.where(shown >= begins[..., None], rows, zeros)))

    def read(self, rows: th.Tensor) -> th.Tensor:
        """
        Read observations.

        :param rows: Rows of the observations, step * N + environment, ``(B,)`` int64
        :return: ``(B, *shape)``
        """
        rows = rows.to(self._frames.device)
        if self.n_stack > 1:
            rows = self._rows.view(-1, self.n_stack)[rows].flatten()
        return self._frames.index_select(0, rows).view(-1, *self.shape)


class DeviceObs(NamedTuple):
    """Observations on the device, and how they relate to the previous ones."""

    tensor: th.Tensor | TensorDict
    #: whether the older frames of all stacks are known to be those of the steps before
    continues_previous: bool


class ObsUploader:
    """
    Copy observations to the device as they are.

    :param device: PyTorch device
    """

    def __init__(self, device: th.device) -> None:
        self.device = device

    def restart(self, obs: Any) -> DeviceObs:
        """
        Upload observations that need not continue earlier ones.

        :param obs: ``(N, *obs_shape)``, or a dict of these
        :return: the same observations on the device
        """
        return DeviceObs(obs_as_tensor(obs, self.device), continues_previous=False)

    def upload(self, obs: Any, begins: np.ndarray) -> DeviceObs:
        """
        Upload the observations of the next step.

        :param obs: ``(N, *obs_shape)``, or a dict of these
        :param begins: Whether an episode begins with the observation, ``(N,)``
        :return: the same observations on the device; the upload may still be running
        """
        return self.restart(obs)


class StackUploader(ObsUploader):
    """
    Copy stacked observations to the device as they are, and compare their older frames with those of the
    steps before, which differ if other code has stepped the environments.

    :param n_envs: Environments, N
    :param shape: Shape of one observation
    :param dtype: Data type of the observations
    :param device: PyTorch device
    :param n_stack: Frames in an observation, along its first axis, see :func:`find_stack`
    """

    def __init__(
        self,
        n_envs: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        device: th.device,
        n_stack: int = 1,
    ) -> None:
        super().__init__(device)
        self.n_stack = n_stack
        self._stacked = n_envs, n_stack, shape[0] // n_stack, *shape[1:]
        #: frames of the last observation, oldest first, (N, c, H, W) each; the oldest is overwritten next
        self._frames = [th.as_tensor(np.zeros((n_envs, *self._stacked[2:]), dtype)) for _ in range(n_stack)]
        if device.type == "cuda":
            self._frames = [frame.pin_memory() for frame in self._frames]

    def restart(self, obs: np.ndarray) -> DeviceObs:
        """See :meth:`ObsUploader.restart`."""
        for frame, shown in zip(self._frames, self._split(obs), strict=True):
            frame.numpy()[:] = shown
        return super().restart(obs)

    def upload(self, obs: np.ndarray, begins: np.ndarray) -> DeviceObs:
        """See :meth:`ObsUploader.upload`."""
        if not self._continues_previous(obs, begins):
            return self.restart(obs)
        return DeviceObs(obs_as_tensor(obs, self.device), continues_previous=True)  # type: ignore[arg-type]

    def _split(self, obs: np.ndarray) -> np.ndarray:
        """Return the frames of observations, oldest first, ``(n_stack, N, c, H, W)``."""
        return obs.reshape(self._stacked).swapaxes(0, 1)

    def _continues_previous(self, obs: np.ndarray, begins: np.ndarray) -> bool:
        """Compare the older frames with those of the steps before. If they are equal, keep the newest one."""
        *older, newest = self._split(obs)
        oldest, *expected = self._frames
        for frame in expected:
            frame.numpy()[begins] = 0
        pairs = zip(expected, older, strict=True)
        if not all(np.array_equal(frame.numpy(), shown) for frame, shown in pairs):
            return False
        oldest.numpy()[:] = newest
        self._frames = [*expected, oldest]
        return True


class FrameUploader(StackUploader):
    """
    Upload only the newest frame of each stack, without waiting, and rebuild the stack on the device. Whole
    stacks are uploaded if other code has stepped the environments.

    The caller must synchronise with the device between two calls, as reading the actions does.
    """

    _stack: th.Tensor  # the last observation on the device, (N, n_stack, c, H, W); ``restart`` sets it first

    def restart(self, obs: np.ndarray) -> DeviceObs:
        """See :meth:`ObsUploader.restart`."""
        tensor = super().restart(obs.copy()).tensor
        assert isinstance(tensor, th.Tensor)
        self._stack = tensor.view(self._stacked)
        return DeviceObs(tensor, continues_previous=False)

    def upload(self, obs: np.ndarray, begins: np.ndarray) -> DeviceObs:
        """See :meth:`ObsUploader.upload`."""
        if not self._continues_previous(obs, begins):
            return self.restart(obs)
        newest = self._frames[-1].to(self.device, non_blocking=True, copy=True)
        older = self._stack[:, 1:]
        if begins.any() and self.n_stack > 1:
            older = older.masked_fill(th.as_tensor(begins, device=older.device).view(-1, 1, 1, 1, 1), 0)
        self._stack = th.cat([older, newest.unsqueeze(1)], dim=1)
        return DeviceObs(self._stack.flatten(1, 2), continues_previous=True)
