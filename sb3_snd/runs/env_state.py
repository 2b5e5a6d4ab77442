"""Read the state of vector environments and callbacks as plain data, so that it can be saved and restored.

Knows Gymnasium's and SB3's wrappers. Must not know any file, algorithm or network.
"""

import copy
import inspect
import pickle
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

LEAVES = (
    *(bool, int, float, str, bytes, type(None), np.generic, np.random.Generator, np.random.RandomState, th.Tensor),
    *(RunningMeanStd, StackedObservations),  # classes of SB3 that only contain such values
)
#: types of attributes that an environment never changes, so that they need not be saved
FIXED = (gym.spaces.Space, EnvSpec, type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)


class NotRestorableError(ValueError):
    """Raised if an environment's state cannot be saved; the message says why."""


def is_plain(value: Any) -> bool:
    """
    Check whether a value is plain data: numbers, strings, arrays, tensors, random generators, and containers
    of these.

    :param value: Any value
    :return: whether it is plain data
    """
    if isinstance(value, np.ndarray):
        return value.dtype != object
    if isinstance(value, dict):
        return all(map(is_plain, value)) and all(map(is_plain, value.values()))
    if isinstance(value, (list, tuple, set, deque)):
        return all(map(is_plain, value))
    return isinstance(value, LEAVES)


def map_tensors(function: Callable[[th.Tensor, Any], th.Tensor], value: Any, other: Any = None) -> Any:
    """
    Apply a function to every tensor in nested dicts, lists, tuples and deques.

    :param function: Takes a tensor and the value at the same place in ``other``, None if there is none
    :param value: Any value
    :param other: A value of similar structure; it may lack parts
    :return: ``value`` with its tensors replaced; dicts, lists, tuples and deques are copied
    """
    if isinstance(value, th.Tensor):
        return function(value, other)
    if isinstance(value, dict):
        mapped = copy.copy(value)
        for key, entry in value.items():
            mapped[key] = map_tensors(function, entry, other.get(key) if isinstance(other, dict) else None)
        return mapped
    if not isinstance(value, (list, tuple, deque)):
        return value
    others = [*(other if isinstance(other, (list, tuple, deque)) else ()), *[None] * len(value)][: len(value)]
    entries = [map_tensors(function, entry, beside) for entry, beside in zip(value, others, strict=True)]
    if isinstance(value, tuple):
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    sequence = copy.copy(value)
    for index, entry in enumerate(entries):
        sequence[index] = entry
    return sequence


def on_cpu(value: Any) -> Any:
    """
    Move all tensors in a value to the CPU, so that a machine without their device can load it.

    :param value: Any value
    :return: a copy with its tensors on the CPU
    """
    return map_tensors(lambda tensor, _: tensor.cpu(), value)


def plain_state(owner: Any) -> dict[str, Any]:
    """
    Collect the attributes of an object that are plain data.

    Settings are omitted: attributes named like a constructor argument, and names in the class's
    ``transient``.

    :param owner: A wrapper or callback
    :return: attribute name -> value, with tensors on the CPU; arrays, and tensors that were already there,
        are not copied
    """
    left_out = {*inspect.signature(type(owner)).parameters, *getattr(owner, "transient", ())}
    return on_cpu({name: value for name, value in vars(owner).items() if name not in left_out and is_plain(value)})


def set_plain_state(owner: Any, state: dict[str, Any]) -> None:
    """
    Restore attributes that were saved by :func:`plain_state`.

    Each tensor is moved to the device of the tensor it replaces, or to that of the others if it replaces
    none.

    :param owner: An object of the same class
    :param state: Attribute name -> value, from :func:`plain_state`
    """
    replaced = {name: getattr(owner, name, None) for name in state}
    devices: list[th.device] = []

    def remember(tensor: th.Tensor, _: Any) -> th.Tensor:
        devices.append(tensor.device)
        return tensor

    map_tensors(remember, replaced)

    def move(tensor: th.Tensor, old: Any) -> th.Tensor:
        device = old.device if isinstance(old, th.Tensor) else next(iter(devices), tensor.device)
        return tensor.to(device)

    for name, value in map_tensors(move, state, replaced).items():
        setattr(owner, name, value)


def get_env_state(venv: VecEnv) -> bytes:
    """
    Serialise the state of an environment's wrappers and, if possible, of the environments.

    Environments can be saved if they or the vector environment have methods ``get_state()`` and
    ``set_state(state)``, whose tensors are saved on the CPU. They can also be saved if they only contain
    plain data and do not run in subprocesses.

    :param venv: Vector environment with any wrappers
    :return: pickled state
    """
    wrappers = [(type(layer).__name__, plain_state(layer)) for layer in _wrappers(venv)]
    try:
        return pickle.dumps((wrappers, on_cpu(_get_base_state(venv.unwrapped)), ""))
    except NotRestorableError as error:
        return pickle.dumps((wrappers, None, str(error)))


def set_env_state(venv: VecEnv, saved: bytes) -> str:
    """
    Restore the state that :func:`get_env_state` returned.

    :param venv: Vector environment, constructed like the saved one
    :param saved: Pickled state
    :return: empty if everything was restored, else the reason why the environments were not and must be reset
    :raises ValueError: if the wrappers differ
    """
    wrappers, base, reason = pickle.loads(saved)
    names, there = [name for name, _ in wrappers], [type(layer).__name__ for layer in _wrappers(venv)]
    if names != there:
        raise ValueError(f"The environment was saved with the wrappers {names} but has {there}: use the same wrappers.")
    for layer, (_, state) in zip(_wrappers(venv), wrappers, strict=True):
        set_plain_state(layer, state)
    if base is not None:
        _set_base_state(venv.unwrapped, base)
    return reason


def _wrappers(venv: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv


def _get_base_state(venv: VecEnv) -> list[Any]:
    if hasattr(venv, "get_state"):
        return [venv.get_state()]
    if isinstance(venv, DummyVecEnv):
        return [list(map(_layer_state, _layers(env))) for env in venv.envs]
    if venv.has_attr("get_state") and venv.has_attr("set_state"):
        return venv.env_method("get_state")
    raise NotRestorableError(f"the state of the environments of {type(venv).__name__} cannot be saved")


def _set_base_state(venv: VecEnv, states: list[Any]) -> None:
    if hasattr(venv, "set_state"):
        venv.set_state(states[0])
    elif isinstance(venv, DummyVecEnv):
        for env, layers in zip(venv.envs, states, strict=True):
            for layer, state in zip(_layers(env), layers, strict=True):
                if isinstance(state, dict):
                    set_plain_state(layer, state)
                else:
                    layer.set_state(state[0])  # type: ignore[attr-defined]
    else:
        for index, state in enumerate(states):
            venv.env_method("set_state", state, indices=index)


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    while True:
        yield env
        if not isinstance(env, gym.Wrapper):
            return
        env = env.env


def _layer_state(layer: gym.Env) -> Any:
    """Return the attributes that are plain data, or a list whose only entry is ``layer.get_state()``."""
    if "get_state" in dir(type(layer)) and "set_state" in dir(type(layer)):
        return [layer.get_state()]  # type: ignore[attr-defined]
    state = {name: value for name, value in vars(layer).items() if is_plain(value)}
    for name, value in vars(layer).items():
        if name not in state and not isinstance(value, (*FIXED, gym.Env)):
            raise NotRestorableError(f"{type(layer).__name__}.{name} ({type(value).__name__}) is not plain data")
    return state
