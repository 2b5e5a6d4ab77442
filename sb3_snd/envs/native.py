"""
What the emulators' own vector environments have in common.

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

from sb3_snd.arguments import SEED, whole

#: what the makers of vector environments take
ARGUMENTS = {
    "n_envs": whole(1, 10_000),
    "n_stack": whole(1, 100),
    "num_threads": whole(0, 1024),
    "seed": SEED,
}


def find_spec(env_id: str, entry_point: str, family: str) -> EnvSpec:
    """
    :param env_id: Gymnasium id
    :param entry_point: Entry point that all ids of the family have
    :param family: One of them, in words
    :return: The id's entry in Gymnasium's registry
    :raises ValueError: if it is not of the family, with the nearest id that is
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
    """Base of vector environments with discrete actions that run in C++, where no Python can reach a single one."""

    remedy = "use --vec-env dummy, or make_vec_env"

    def check_actions(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: ``(n_envs,)`` integers
        :return: the same
        :raises ValueError: if there is none of that number
        """
        assert isinstance(self.action_space, spaces.Discrete)
        actions = np.asarray(actions)
        if actions.min() < 0 or actions.max() >= self.action_space.n:
            raise ValueError(f"Actions must lie between 0 and {self.action_space.n - 1}, got {actions}.")
        return actions

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: An attribute of this object, which stands for all its environments
        :param indices: Environments to answer for, all by default
        :return: The value, once for each of them
        """
        if not hasattr(self, attr_name):
            raise AttributeError(f"{self._where()} and have no {attr_name}: {self.remedy}.")
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Not possible here.

        :param attr_name: Name of the attribute
        :param value: Its new value
        :param indices: Environments to set it in
        """
        raise NotImplementedError(f"{self._where()}, {attr_name} cannot be set: {self.remedy}.")

    def env_method(self, method_name: str, *method_args, indices: VecEnvIndices = None, **method_kwargs) -> list[Any]:
        """
        Not possible here.

        :param method_name: Name of the method
        :param method_args: Its positional arguments
        :param indices: Environments to call it on
        :param method_kwargs: Its named arguments
        :return: Nothing, it raises
        """
        raise NotImplementedError(f"{self._where()}, {method_name} cannot be called: {self.remedy}.")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: A wrapper of single environments, which cannot be inside C++
        :param indices: Environments to answer for, all by default
        :return: False for each of them
        """
        return [False for _ in self._get_indices(indices)]

    def _where(self) -> str:
        return f"The environments of {type(self).__name__} run in C++"
