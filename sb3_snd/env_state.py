"""The state of vector environments and of callbacks as plain data, to be saved and put back.

Knows Gymnasium's and SB3's wrappers; no file, no algorithm, no network.
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
    *(RunningMeanStd, StackedObservations),  # SB3's, which hold nothing else
)
#: what an environment holds and never changes
FIXED = (gym.spaces.Space, EnvSpec, type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)


class NotRestorableError(ValueError):
    """An environment whose state cannot be told, and why."""


def is_plain(value: Any) -> bool:
    """
    :param value: Anything
    :return: whether it consists of numbers, strings, arrays, tensors and random generators only
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
    :param function: Takes a tensor and what stands in its place in ``other``, None where nothing does
    :param value: Anything; tensors in dicts, lists, tuples and deques are found, however deep
    :param other: Something that is built alike, as far as it goes
    :return: the same with other tensors; dicts, lists, tuples and deques are copies
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
    :param value: Anything
    :return: the same with its tensors on the CPU, so that a machine without the device they were on can read it
    """
    return map_tensors(lambda tensor, _: tensor.cpu(), value)


def plain_state(owner: Any) -> dict[str, Any]:
    """
    :param owner: A wrapper or callback
    :return: those of its attributes that are plain data, by name, with tensors on the CPU; arrays and tensors on the CPU are
        not copied. Settings are left out, that is what is called as an argument of its constructor, and the names in its
        class's ``transient``
    """
    left_out = {*inspect.signature(type(owner)).parameters, *getattr(owner, "transient", ())}
    return on_cpu({name: value for name, value in vars(owner).items() if name not in left_out and is_plain(value)})


def set_plain_state(owner: Any, state: dict[str, Any]) -> None:
    """
    :param owner: The same kind of wrapper or callback
    :param state: From :func:`plain_state`; tensors go to the device of those that they replace, and those that replace none to
        the device of the others
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
    :param venv: The environment, however wrapped
    :return: the state of its wrappers and, where that can be told, of the environments; they can if they, or the vector
        environment, have methods ``get_state()`` and ``set_state(state)``, whose tensors are saved on the CPU, or hold plain
        data only, without subprocesses
    """
    wrappers = [(type(layer).__name__, plain_state(layer)) for layer in _wrappers(venv)]
    try:
        return pickle.dumps((wrappers, on_cpu(_get_base_state(venv.unwrapped)), ""))
    except NotRestorableError as error:
        return pickle.dumps((wrappers, None, str(error)))


def set_env_state(venv: VecEnv, saved: bytes) -> str:
    """
    :param venv: The same kind of environment
    :param saved: From :func:`get_env_state`
    :return: empty, or why the environments' own state could not be put back: their episodes have to begin anew
    :raises ValueError: if the wrappers are others
    """
    wrappers, base, reason = pickle.loads(saved)
    names, there = [name for name, _ in wrappers], [type(layer).__name__ for layer in _wrappers(venv)]
    if names != there:
        raise ValueError(f"The environment was saved with the wrappers {names} and has {there}: wrap it as it was.")
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
    raise NotRestorableError(f"{type(venv).__name__} cannot tell its environments' state")


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
    """:return: its plain data by name, or the only entry of a list: what its own method says"""
    if "get_state" in dir(type(layer)) and "set_state" in dir(type(layer)):
        return [layer.get_state()]  # type: ignore[attr-defined]
    state = {name: value for name, value in vars(layer).items() if is_plain(value)}
    for name, value in vars(layer).items():
        if name not in state and not isinstance(value, (*FIXED, gym.Env)):
            raise NotRestorableError(f"{type(layer).__name__}.{name} is a {type(value).__name__}, no plain data")
    return state
