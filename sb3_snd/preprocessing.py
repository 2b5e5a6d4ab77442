"""Observation -> newest frame: float32, channels first, in [0, 1]; vectors pass through as float32.

Knows SB3's notion of an image space and nothing of networks or environments.
"""

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

MIN_FRAME_SIZE = 36  # smallest side of an image, as for SB3's NatureCNN


def get_frame_shape(observation_space: spaces.Space) -> tuple[int, ...]:
    """
    Shape of one frame of the space: the newest of a stack, channels first.

    A stack whose channels are a multiple of three is taken as RGB frames, any other as grey ones.

    :param observation_space: A uint8 image ``Box`` (channels first or last, stacked or not) or a vector ``Box``
    :return: ``(C, H, W)`` or ``(D,)``
    :raises ValueError: if the space is neither, or its frames are smaller than 36 x 36 pixels
    """
    if isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1:
        return observation_space.shape
    if not (isinstance(observation_space, spaces.Box) and is_image_space(observation_space)):
        raise ValueError(
            f"SND cannot read {observation_space}: give it uint8 images (H, W, C) or (C, H, W) with values in [0, 255],"
            " or vectors (a one-dimensional Box; see gymnasium.wrappers.FlattenObservation)."
        )
    shape = observation_space.shape
    stacked, height, width = shape if is_image_space_channels_first(observation_space) else (shape[2], *shape[:2])
    check_frame_size(height, width)
    return (3 if stacked % 3 == 0 else 1), height, width


def check_frame_size(height: int, width: int) -> None:
    """
    :param height: Height of a frame in pixels
    :param width: Width of a frame in pixels
    :raises ValueError: if a side is below 36 pixels
    """
    if min(height, width) < MIN_FRAME_SIZE:
        raise ValueError(
            f"Frames of {height} x {width} pixels are smaller than the convolutions need:"
            f" resize them to at least {MIN_FRAME_SIZE} x {MIN_FRAME_SIZE} (gymnasium.wrappers.ResizeObservation)."
        )


def newest_frame(obs: np.ndarray | th.Tensor, frame_shape: tuple[int, ...], device: th.device) -> th.Tensor:
    """
    Only the bytes of the newest frame travel to the device.

    :param obs: ``(n, *obs_shape)``: uint8 images, stacked or not, channels first or last; or vectors ``(n, D)``
    :param frame_shape: ``(C, H, W)`` or ``(D,)``, from :func:`get_frame_shape`
    :param device: Where the frames are wanted
    :return: ``(n, *frame_shape)`` float32; images in [0, 1], their newest frame
    :raises ValueError: if the observations do not hold such a frame
    """
    obs = th.as_tensor(obs)
    if len(frame_shape) == 1:
        if obs.shape[1:] != frame_shape:
            raise ValueError(f"Expected observations of shape (n, {frame_shape[0]}), got {tuple(obs.shape)}.")
        return obs.to(device=device, dtype=th.float32)
    channels = frame_shape[0]
    if obs.ndim == 4 and obs.shape[2:] == frame_shape[1:]:
        obs = obs[:, -channels:]  # newest frame of an SB3 stack comes last
    elif obs.ndim == 4 and obs.shape[1:3] == frame_shape[1:]:
        obs = obs[..., -channels:].permute(0, 3, 1, 2)
    else:
        raise ValueError(f"Expected image observations with frames of shape {frame_shape}, got {tuple(obs.shape)}.")
    return obs.to(device) / 255.0  # uint8 -> float32 in one pass
