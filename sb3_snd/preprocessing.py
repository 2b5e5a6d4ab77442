"""Observation -> newest frame: float32, channels first, in [0, 1]; everything that is no image becomes a vector.

Knows SB3's notions of spaces and nothing of networks or environments.
"""

import math
from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space_channels_first, preprocess_obs

MIN_FRAME_SIZE = 36  # smallest side of an image, as for SB3's NatureCNN


def map_obs(function: Callable[..., Any], *observations: Any) -> Any:
    """
    :param function: Of one array or tensor from each of the observations
    :param observations: Arrays or tensors, or dicts of them with the same keys
    :return: its result; for dicts one for each key
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(obs[key] for obs in observations)) for key in first}
    return function(*observations)


class FrameReader:
    """
    Reads the newest frame out of observations of a space.

    Images are three-dimensional boxes, uint8 or float, channels first or last, stacked or not; values are scaled by the
    box's bounds to [0, 1]. A stack whose channels are a multiple of three is taken as RGB frames, any other as grey ones.
    All other spaces that SB3 knows are read as it does, one-hot where discrete, and flattened to vectors.

    :param observation_space: What an environment gives
    :param obs_key: The entry to read, for a ``Dict`` space
    :raises ValueError: if ``obs_key`` does not fit the space, if SB3 does not know the space, or if it holds images
        without bounds or smaller than 36 x 36 pixels
    """

    def __init__(self, observation_space: spaces.Space, obs_key: str | None = None) -> None:
        self.obs_key = obs_key
        if isinstance(observation_space, spaces.Dict):
            if obs_key not in list(observation_space.spaces):
                raise ValueError(
                    f"obs_key={obs_key!r} must choose what novelty is read from:"
                    f" the observations have {', '.join(map(repr, observation_space.spaces))}."
                )
            observation_space = observation_space[obs_key]
        elif obs_key is not None:
            raise ValueError(f"obs_key={obs_key!r} only goes with Dict observations, not with {observation_space}.")
        self.space = observation_space
        #: ``(C, H, W)`` of one frame, or ``(D,)``
        self.shape: tuple[int, ...]
        if isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 3:
            self._read_image_space(observation_space)
        elif isinstance(observation_space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            self.shape = (int(get_flattened_obs_dim(observation_space)),)
        else:
            raise ValueError(f"SND cannot read {observation_space}: give it a Box, Discrete, MultiDiscrete or MultiBinary.")

    def _read_image_space(self, space: spaces.Box) -> None:
        shape = space.shape
        stacked, height, width = shape if is_image_space_channels_first(space) else (shape[2], *shape[:2])
        check_frame_size(height, width)
        self.shape = (3 if stacked % 3 == 0 else 1), height, width
        self.low, self.high = float(space.low.min()), float(space.high.max())
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(
                f"SND cannot scale images of {space.dtype} without bounds:"
                " give their Box finite low and high (gymnasium.wrappers.TransformObservation)."
            )

    @property
    def is_image(self) -> bool:
        """Whether frames are images."""
        return len(self.shape) == 3

    def describe(self) -> str:
        """
        :return: the frames in words, the same for spaces that the same nets can read
        """
        if self.is_image:
            return f"frames of shape {self.shape} with values from {self.low:g} to {self.high:g}"
        return f"frames of shape {self.shape} from a {type(self.space).__name__}"

    def entry(self, obs: Any) -> Any:
        """
        :param obs: Anything that the environment gives, batched or not
        :return: the entry ``obs_key`` of a dict, anything else as it is
        """
        return obs[self.obs_key] if isinstance(obs, dict) else obs

    def newest(self, obs: Any, device: th.device) -> th.Tensor:
        """
        Only the bytes of the newest frame travel to the device; a frame that is there already stays as it is.

        :param obs: ``(n, *obs_shape)``, also in the other order of channels or stacked once more; a dict of these for
            a ``Dict`` space; or frames ``(n, *shape)``
        :param device: Where the frames are wanted
        :return: ``(n, *shape)``: images in the environment's dtype, vectors float32
        :raises ValueError: if the observations do not hold such a frame
        """
        obs = th.as_tensor(self.entry(obs))
        if not self.is_image:
            return self._vectors(obs.to(device))
        channels = self.shape[0]
        if obs.ndim == 4 and obs.shape[2:] == self.shape[1:]:
            obs = obs[:, -channels:]  # newest frame of an SB3 stack comes last
        elif obs.ndim == 4 and obs.shape[1:3] == self.shape[1:]:
            obs = obs[..., -channels:].permute(0, 3, 1, 2)
        else:
            raise ValueError(f"Expected image observations with frames of shape {self.shape}, got {tuple(obs.shape)}.")
        return obs.to(device)

    def _vectors(self, obs: th.Tensor) -> th.Tensor:
        if obs.shape[1:] == self.shape:
            return obs.float()
        if isinstance(self.space, spaces.Discrete):
            obs = obs.reshape(len(obs))  # SB3's buffers keep (n, 1)
        vectors = preprocess_obs(obs, self.space)
        assert isinstance(vectors, th.Tensor)
        vectors = vectors.flatten(1)
        if vectors.shape[1] % self.shape[0] != 0 or (obs.ndim > 2 and vectors.shape[1] != self.shape[0]):
            raise ValueError(f"Expected observations of shape (n, {self.shape[0]}), got {tuple(obs.shape)}.")
        return vectors[:, -self.shape[0] :]  # newest of a stack comes last

    def scale(self, frames: th.Tensor) -> th.Tensor:
        """
        :param frames: ``(n, *shape)`` of any dtype
        :return: ``(n, *shape)`` float32; images in [0, 1]
        """
        if not self.is_image:
            return frames
        if self.low == 0:
            return frames.to(th.float32, copy=True).div_(self.high)
        return ((frames - self.low) / (self.high - self.low)).float()


def check_frame_size(height: int, width: int) -> None:
    """
    :param height: Height of a frame in pixels
    :param width: Width of a frame in pixels
    :raises ValueError: if a side is below 36 pixels
    """
    if min(height, width) < MIN_FRAME_SIZE:
        raise ValueError(
            f"Frames of {height} x {width} pixels are smaller than the convolutions need: resize them to at least"
            f" {MIN_FRAME_SIZE} x {MIN_FRAME_SIZE} (gymnasium.wrappers.ResizeObservation), or flatten what is no image"
            " (gymnasium.wrappers.FlattenObservation)."
        )
