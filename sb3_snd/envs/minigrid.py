"""MiniGrid's view as a grid of symbols, and the map that an agent could draw of it.

Knows MiniGrid's numbers of objects, colours and states. Must not know any network, novelty or algorithm.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_snd.common.extras import require
from sb3_snd.common.type_aliases import PLACE_KEY


class MiniGridWrapper(gym.ObservationWrapper):
    """
    Return the image of MiniGrid's observations, in a space with its true bounds.

    Each cell holds the numbers of an object, a colour and a state. ``ImgObsWrapper`` of MiniGrid returns the same
    numbers in a space from 0 to 255, from which no net can know that they are symbols. With these bounds, the nets of
    this package encode them one-hot.

    :param env: An environment of MiniGrid, with or without a wrapper that shows the whole grid
    :raises ValueError: if the observations have no such image
    :raises ImportError: if MiniGrid is not installed; the message names the extra
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        require("minigrid", "minigrid")
        from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX

        entries = env.observation_space.spaces if isinstance(env.observation_space, spaces.Dict) else {}
        shape = entries["image"].shape if "image" in entries else ()
        inner: Any = env.unwrapped
        sizes = getattr(inner, "agent_view_size", 0), getattr(inner, "width", 0), getattr(inner, "height", 0)
        if shape is None or len(shape) != 3 or shape[2] != 3 or max(shape[:2]) > max(sizes):
            raise ValueError(f"MiniGridWrapper needs MiniGrid's observations with an 'image', not {env.observation_space}.")
        states = max(*STATE_TO_IDX.values(), len(DIR_TO_VEC) - 1)  # of doors, or the direction of the agent
        most = np.array([max(OBJECT_TO_IDX.values()), max(COLOR_TO_IDX.values()), states], dtype=np.uint8)
        self.observation_space = spaces.Box(np.zeros(shape, np.uint8), np.broadcast_to(most, shape), dtype=np.uint8)  # type: ignore[arg-type]

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        """
        Return the image.

        :param observation: MiniGrid's observation
        :return: ``(width, height, 3)`` uint8
        """
        return observation["image"]


class MiniGridMap(gym.Wrapper):
    """
    Add to the infos what the agent would enter on a map of the episode, as keys under ``"place"``, for rewards that
    count places: each cell in sight, with its position in the room and what is there, and what the agent carries.

    This is no secret of the simulator: an agent that counts its own steps and turns knows where it is. The wrapper
    reads the position and the direction only to place the view on the map. It must be below :class:`MiniGridWrapper`.

    :param env: An environment of MiniGrid, with the agent's own view as observation
    :raises ValueError: if it is none
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._inner: Any = env.unwrapped
        size = getattr(self._inner, "agent_view_size", 0)
        entries = env.observation_space.spaces if isinstance(env.observation_space, spaces.Dict) else {}
        if size == 0 or "image" not in entries or entries["image"].shape != (size, size, 3):
            raise ValueError(
                f"MiniGridMap needs an environment of MiniGrid with the agent's own view, not {env.observation_space}:"
                " put it below all other wrappers, and give the size of the view to gymnasium.make, as agent_view_size."
            )
        # Position of each cell of the view: to the right of the agent, and in front of it
        right, back = np.meshgrid(np.arange(size) - size // 2, np.arange(size) - (size - 1), indexing="ij")
        self._right, self._front = right, -back
        self._own = size // 2, size - 1  # the agent's own cell, which shows what it carries

    def _keys(self, view: np.ndarray) -> np.ndarray:
        """
        Number all that is in sight.

        :param view: ``(size, size, 3)`` uint8
        :return: ``(size * size,)`` int64; 0 for cells that are hidden, and for the agent's own cell if it carries nothing
        """
        inner, symbols = self._inner, view.astype(np.int64)
        x = inner.agent_pos[0] + self._front * inner.dir_vec[0] + self._right * inner.right_vec[0]
        y = inner.agent_pos[1] + self._front * inner.dir_vec[1] + self._right * inner.right_vec[1]
        inside = (x >= 0) & (x < inner.width) & (y >= 0) & (y < inner.height)
        x[self._own] = y[self._own] = -1  # what is carried is nowhere
        keys = np.zeros_like(x)
        for part, most in ((x + 1, 256), (y + 1, 256), *((symbols[..., channel], 16) for channel in range(3))):
            keys = keys * most + part
        shown = inside & (symbols[..., 0] > 0)
        shown[self._own] = inner.carrying is not None
        return np.where(shown, keys + 1, 0).flatten()

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env.reset``."""
        obs, info = self.env.reset(**kwargs)
        return obs, {**info, PLACE_KEY: self._keys(obs["image"])}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env.step``."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, PLACE_KEY: self._keys(obs["image"])}
