"""Observation -> newest frame: float32, channels first, in [0, 1]. Everything that is not an image becomes a
vector.

Knows SB3's notions of spaces, but no network or environment.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeGuard

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import (
    get_flattened_obs_dim,
    is_image_space_channels_first,
    preprocess_obs,
)

MIN_FRAME_SIZE = 36  # smallest side of an image, as for SB3's NatureCNN; what is smaller is a grid
MIN_GRID_SIZE = 4  # smallest side of a grid
MOST_SYMBOLS = 32  # largest number of symbols in a channel of a grid that are encoded one-hot
#: spaces that are read as vectors, unless they are images
VECTORS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def map_obs(function: Callable[..., Any], *observations: Any) -> Any:
    """
    Apply a function to observations, or to each entry of ``Dict`` observations.

    :param function: Function of one array or tensor from each of the observations
    :param observations: Arrays or tensors, or dicts of them with the same keys
    :return: its result; for dicts a dict of results
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(obs[key] for obs in observations)) for key in first}
    return function(*observations)


class FrameReader:
    """
    Read the newest frame from observations of a space.

    Images are three-dimensional boxes, uint8 or float, channels first or last, stacked or not. Their values
    are scaled by the box's bounds to [0, 1]. If the number of channels is a multiple of three, they are taken
    as RGB frames, otherwise as grey frames.

    Three-dimensional boxes with a side below 36 are grids. All their channels are read. If they hold integers
    from 0 to at most 31, these are symbols, and each channel becomes as many planes as it has symbols. Other
    grids keep their values. All other spaces that SB3 supports are read as SB3 does, one-hot
    if discrete, and flattened to vectors.

    From a ``Dict`` space either one image is read, or vectors and discrete entries are joined to one vector.

    :param observation_space: Observation space of the environment
    :param obs_key: For a ``Dict`` space, name of the entry to read, or names of several entries that are not
        images. By default it is the only image, or all other entries if there are no images or several
    :raises ValueError: if ``obs_key`` does not fit the space, if SB3 does not support the space, or if it
        holds images that have no bounds, or grids smaller than 4 x 4 cells
    """

    def __init__(self, observation_space: spaces.Space, obs_key: str | Sequence[str] | None = None) -> None:
        self.obs_key = obs_key
        #: names of the entries that are read, empty if the space is not a ``Dict``
        self.keys: tuple[str, ...] = ()
        #: ``(C, H, W)`` of one frame, or ``(D,)``
        self.shape: tuple[int, ...]
        self.space = observation_space
        #: number of symbols in each channel of a grid, empty for anything else
        self.symbols: tuple[int, ...] = ()
        #: readers of the entries by name, if several are joined
        self.parts: dict[str, FrameReader] = {}
        if isinstance(observation_space, spaces.Dict):
            self.keys = choose_entries(observation_space, obs_key)
            if len(self.keys) > 1:
                self.parts = {key: FrameReader(observation_space[key]) for key in self.keys}
                self.shape = (sum(part.shape[0] for part in self.parts.values()),)
                return
            self.space = observation_space[self.keys[0]]
        elif obs_key is not None:
            raise ValueError(f"obs_key={obs_key!r} needs Dict observations, not {observation_space}: omit obs_key.")
        if is_image(self.space):
            self._read_image_space(self.space)
        elif isinstance(self.space, VECTORS):
            self.shape = (int(get_flattened_obs_dim(self.space)),)
        else:
            raise ValueError(f"SND cannot read {self.space}: use a Box, Discrete, MultiDiscrete or MultiBinary space.")

    def _read_image_space(self, space: spaces.Box) -> None:
        shape = space.shape
        stacked, height, width = shape if is_image_space_channels_first(space) else (shape[2], *shape[:2])
        check_frame_size(height, width)
        self.shape = (3 if stacked % 3 == 0 else 1), height, width
        if is_grid(self.shape):
            self.shape, self.symbols = (stacked, height, width), count_symbols(space)
            return
        self.low, self.high = float(space.low.min()), float(space.high.max())
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(
                f"SND cannot scale images of {space.dtype} without bounds:"
                " give their Box finite low and high (gymnasium.wrappers.TransformObservation)."
            )

    @property
    def is_image(self) -> bool:
        """Whether frames are images or grids."""
        return len(self.shape) == 3

    @property
    def scaled_shape(self) -> tuple[int, ...]:
        """Shape of a frame after :meth:`scale`."""
        return (sum(self.symbols), *self.shape[1:]) if self.symbols else self.shape

    @property
    def has_bounds(self) -> bool:
        """Whether :meth:`scale` gives numbers in [0, 1]. Running statistics must normalise all others."""
        return bool(self.symbols) or (self.is_image and not is_grid(self.shape))

    def describe(self) -> str:
        """
        Describe the frames in words.

        :return: a description that is the same for all spaces that the same nets can read
        """
        if self.is_image and is_grid(self.shape):
            return f"grids of shape {self.shape} with {self.symbols or 'any'} symbols"
        if self.is_image:
            return f"frames of shape {self.shape} with values from {self.low:g} to {self.high:g}"
        entries = f" of {', '.join(self.parts)}" if self.parts else ""
        return f"frames of shape {self.shape} from a {type(self.space).__name__}{entries}"

    def entry(self, obs: Any) -> Any:
        """
        Select the entries that are read.

        :param obs: Observations of the environment, batched or not
        :return: for a dict, the entry that is read, or a dict of several entries; anything else is returned
            unchanged
        """
        if not isinstance(obs, dict):
            return obs
        return {key: obs[key] for key in self.keys} if self.parts else obs[self.keys[0]]

    def newest(self, obs: Any, device: th.device) -> th.Tensor:
        """
        Extract the newest frames and move them to a device. Only the bytes of these frames are transferred.

        These shapes are accepted, and told apart by the position of height and width:

        - observations ``(n, *obs_shape)``, with channels first or last, stacked or not
        - a dict of these for a ``Dict`` space
        - frames ``(n, *shape)`` that were extracted before

        :param obs: Observations or frames
        :param device: Target device
        :return: ``(n, *shape)``: images in the environment's dtype, vectors in float32
        :raises ValueError: if the observations do not contain such a frame
        """
        if self.parts and isinstance(obs, dict):
            return th.cat([part.newest(obs[key], device) for key, part in self.parts.items()], dim=1)
        obs = th.as_tensor(self.entry(obs))
        if not self.is_image:
            return self._vectors(obs.to(device))
        channels = self.shape[0]
        if obs.ndim == 4 and obs.shape[2:] == self.shape[1:]:
            obs = obs[:, -channels:]  # the newest frame of an SB3 stack comes last
        elif obs.ndim == 4 and obs.shape[1:3] == self.shape[1:]:
            obs = obs[..., -channels:].permute(0, 3, 1, 2)
        else:
            raise ValueError(f"Expected image observations with frames of shape {self.shape}, got {tuple(obs.shape)}.")
        return obs.to(device)

    def _vectors(self, obs: th.Tensor) -> th.Tensor:
        if obs.shape[1:] == self.shape:
            return obs.float()
        if self.parts:
            raise ValueError(f"Expected a dict of {', '.join(self.parts)}, got an array of shape {tuple(obs.shape)}.")
        if isinstance(self.space, spaces.Discrete):
            obs = obs.reshape(len(obs))  # SB3's buffers store (n, 1)
        vectors = preprocess_obs(obs, self.space)
        assert isinstance(vectors, th.Tensor)
        vectors = vectors.flatten(1)
        if vectors.shape[1] % self.shape[0] != 0 or (obs.ndim > 2 and vectors.shape[1] != self.shape[0]):
            raise ValueError(f"Expected observations of shape (n, {self.shape[0]}), got {tuple(obs.shape)}.")
        return vectors[:, -self.shape[0] :]  # the newest vector of a stack comes last

    def scale(self, frames: th.Tensor) -> th.Tensor:
        """
        Convert frames to float32, scale images by their bounds, and encode symbols one-hot.

        :param frames: ``(n, *shape)`` of any dtype
        :return: ``(n, *scaled_shape)`` float32; images and planes of symbols in [0, 1]
        """
        if self.symbols:
            return one_hot_planes(frames, self.symbols)
        if not self.has_bounds:
            return frames.float()
        if self.low == 0:
            return frames.to(th.float32, copy=True).div_(self.high)
        return ((frames - self.low) / (self.high - self.low)).float()


def choose_entries(space: spaces.Dict, obs_key: str | Sequence[str] | None) -> tuple[str, ...]:
    """
    Choose the entries of a ``Dict`` space from which novelty is computed.

    :param space: Observation space
    :param obs_key: One name, several names, or None
    :return: names of the entries, in the space's order: one image, or any number of other entries
    :raises ValueError: if there is no such entry, or if an image would be joined with another entry
    """
    images = [key for key, entry in space.items() if is_image(entry)]
    known = f"the observations have {', '.join(map(repr, space.spaces))}"
    if obs_key is None:
        vectors = [key for key, entry in space.items() if isinstance(entry, VECTORS) and key not in images]
        chosen = images if len(images) == 1 else vectors
        if not chosen:
            raise ValueError(f"obs_key=None must choose the entries from which novelty is computed: {known}.")
        return tuple(chosen)
    wanted = [obs_key] if isinstance(obs_key, str) else obs_key if isinstance(obs_key, (list, tuple)) else []
    if not wanted or not all(key in list(space.spaces) for key in wanted) or len({*wanted}) < len(wanted):
        raise ValueError(f"obs_key={obs_key!r} must choose the entries from which novelty is computed: {known}.")
    if len(wanted) > 1 and {*wanted} & {*images}:
        raise ValueError(f"obs_key={obs_key!r} must name either one image or only entries that are not images: {known}.")
    return tuple(key for key in space.spaces if key in wanted)


def is_image(space: spaces.Space) -> TypeGuard[spaces.Box]:
    """
    Tell whether novelty reads a space as an image.

    :param space: Space of an observation, or of one entry of it
    :return: whether it is an image
    """
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def is_grid(shape: tuple[int, ...]) -> bool:
    """
    Tell whether frames are grids of symbols rather than images.

    :param shape: Shape of a frame
    :return: whether it has three dimensions, and a side below 36
    """
    return len(shape) == 3 and min(shape[1:]) < MIN_FRAME_SIZE


def count_symbols(space: spaces.Box) -> tuple[int, ...]:
    """
    Count the symbols that a grid can hold.

    :param space: Space of a grid, with channels first or last
    :return: number of symbols in each channel; empty if it holds anything but integers from 0 to at most 31
    """
    if space.dtype is None or space.dtype.kind not in "ui" or space.low.min() != 0:
        return ()
    axes = (1, 2) if is_image_space_channels_first(space) else (0, 1)
    most = space.high.max(axis=axes)
    return tuple((most.astype(int) + 1).tolist()) if most.max() < MOST_SYMBOLS else ()


def one_hot_planes(grids: th.Tensor, symbols: tuple[int, ...]) -> th.Tensor:
    """
    Encode symbols one-hot, each channel by itself.

    :param grids: ``(n, C, H, W)``
    :param symbols: Number of symbols in each channel, ``C`` of them
    :return: ``(n, sum(symbols), H, W)`` float32
    """
    channels, values = _planes(symbols, grids.device)
    return (grids.index_select(1, channels) == values).float()


@cache
def _planes(symbols: tuple[int, ...], device: th.device) -> tuple[th.Tensor, th.Tensor]:
    """Return the channel of each plane, ``(P,)``, and its symbol, ``(P, 1, 1)``."""
    planes = [(channel, symbol) for channel, number in enumerate(symbols) for symbol in range(number)]
    channels, values = th.tensor(planes, device=device).T
    return channels, values[:, None, None]


def check_frame_size(height: int, width: int) -> None:
    """
    Check that the convolutions can process a frame.

    :param height: Height of a frame in pixels or cells
    :param width: Width of a frame in pixels or cells
    :raises ValueError: if either is below 4
    """
    if min(height, width) < MIN_GRID_SIZE:
        raise ValueError(
            f"Grids of {height} x {width} cells are smaller than the convolutions need, which is"
            f" {MIN_GRID_SIZE} x {MIN_GRID_SIZE}: flatten them (gymnasium.wrappers.FlattenObservation)."
        )
