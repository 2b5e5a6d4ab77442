"""
Base class of the emulators' native vector environments.

Knows Gymnasium's registry and ``VecEnv``. Must not know any emulator.
"""

import difflib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_snd.common.validation import SEED, integer

#: arguments of all functions that make native vector environments
RULES = {
    "n_envs": integer(1, 10_000),
    "n_stack": integer(1, 100),
    "num_threads": integer(0, 1024),
    "seed": SEED,
}


def find_spec(env_id: str, entry_point: str, family: str) -> EnvSpec:
    """
    Look up an id that must belong to a family of environments.

    :param env_id: Gymnasium id
    :param entry_point: Entry point shared by all ids of the family
    :param family: Description of one environment of the family, such as "an Atari game"
    :return: entry of the id in Gymnasium's registry
    :raises ValueError: if the id does not belong to the family; the message suggests the most similar one
    """
    if not (isinstance(env_id, str) and env_id.isprintable()):
        raise ValueError(f"env_id={env_id!r} must be the Gymnasium id of {family}.")
    ids = [spec.id for spec in gym.registry.values() if spec.entry_point == entry_point]
    if env_id in ids:
        return gym.spec(env_id)
    if env_id in gym.registry:
        raise ValueError(f"{env_id} is not {family}: make it with make_vec_env.")
    nearest = difflib.get_close_matches(env_id, ids, n=1, cutoff=0.0)[0]
    raise ValueError(f"There is no environment {env_id}: did you mean {nearest}?")


class NativeVecEnv(VecEnv):
    """Base class of vector environments with discrete actions in C++, which no Python wrapper reaches."""

    remedy = "use --vec-env dummy, or make_vec_env"

    def check_actions(self, actions: np.ndarray) -> np.ndarray:
        """
        Check that actions are in the action space.

        :param actions: ``(n_envs,)`` integers
        :return: the actions as an array
        :raises ValueError: if an action is outside the action space
        """
        assert isinstance(self.action_space, spaces.Discrete)
        actions = np.asarray(actions)
        if actions.min() < 0 or actions.max() >= self.action_space.n:
            raise ValueError(f"Actions must be between 0 and {self.action_space.n - 1}, got {actions}.")
        return actions

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Read an attribute of this object, which is the same for all its environments.

        :param attr_name: Name of the attribute
        :param indices: Indices of the environments, all by default
        :return: the value, repeated for each of them
        :raises AttributeError: if this object does not have the attribute
        """
        if not hasattr(self, attr_name):
            raise AttributeError(f"{self._where()} and do not have {attr_name}: {self.remedy}.")
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Not supported.

        :param attr_name: Name of the attribute
        :param value: Value of the attribute
        :param indices: Indices of the environments
        :raises NotImplementedError: always
        """
        raise NotImplementedError(f"{self._where()}, {attr_name} cannot be set: {self.remedy}.")

    def env_method(
        self,
        method_name: str,
        *method_args,
        indices: VecEnvIndices = None,
        **method_kwargs,
    ) -> list[Any]:
        """
        Not supported.

        :param method_name: Name of the method
        :param method_args: Positional arguments of the method
        :param indices: Indices of the environments
        :param method_kwargs: Keyword arguments of the method
        :raises NotImplementedError: always
        """
        raise NotImplementedError(f"{self._where()}, {method_name} cannot be called: {self.remedy}.")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Return False: environments in C++ cannot be wrapped individually.

        :param wrapper_class: Class of the wrapper
        :param indices: Indices of the environments, all by default
        :return: False for each of them
        """
        return [False for _ in self._get_indices(indices)]

    def _where(self) -> str:
        return f"The environments of {type(self).__name__} run in C++"
