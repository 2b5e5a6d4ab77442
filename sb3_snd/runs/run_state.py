"""State of a run's parts for a checkpoint: of wrappers, callbacks and random generators.

Knows plain data and tensors. Must not know any file, environment, algorithm or network.
"""

import copy
import inspect
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

LEAVES = (
    *(bool, int, float, str, bytes, type(None), np.generic, np.random.Generator, np.random.RandomState, th.Tensor),
    *(RunningMeanStd, StackedObservations),  # classes of SB3 that only contain such values
)


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


def get_run_state(owner: Any) -> dict[str, Any]:
    """
    Return the state of a wrapper or callback.

    This package's classes name it themselves, with the methods ``get_run_state()`` and
    ``set_run_state(state)``. The state of other classes is what :func:`plain_attributes` finds.

    :param owner: A wrapper or callback
    :return: name -> value, with tensors on the CPU; arrays and tensors on the CPU are not copied
    """
    # Asked of the class, because a wrapper would answer with the method of a wrapper below it
    return on_cpu(owner.get_run_state() if hasattr(type(owner), "get_run_state") else plain_attributes(owner))


def set_run_state(owner: Any, state: dict[str, Any]) -> None:
    """
    Restore the state that :func:`get_run_state` returned.

    :param owner: An object of the same class
    :param state: Name -> value, with tensors on the CPU
    """
    if hasattr(type(owner), "set_run_state"):
        owner.set_run_state(state)
    else:
        set_attributes(owner, state)


def plain_attributes(owner: Any) -> dict[str, Any]:
    """
    Collect the attributes of an object that are plain data. Attributes named like a constructor argument are
    settings and are omitted.

    :param owner: Any object
    :return: attribute name -> value
    """
    settings = inspect.signature(type(owner)).parameters
    return {name: value for name, value in vars(owner).items() if name not in settings and is_plain(value)}


def set_attributes(owner: Any, state: dict[str, Any]) -> None:
    """
    Set attributes of an object. Each tensor is moved to the device of the tensor it replaces, or to that of
    the others if it replaces none.

    :param owner: Any object
    :param state: Attribute name -> value
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


def get_random_state() -> dict[str, Any]:
    """
    Read the states of the random generators of Python, numpy and PyTorch (CPU and CUDA).

    :return: generator -> state
    """
    cuda = [each.cpu() for each in th.cuda.get_rng_state_all()] if th.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": th.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """
    Restore the states of the random generators. Those of CUDA are restored if the number of devices is the
    same.

    :param state: States from :func:`get_random_state`
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    if len(state["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(state["cuda"])
