"""Conditions for arguments: for each name a check and the words that describe it. A value that fails is refused
in one sentence.

Knows only numbers and names, but no network, environment or algorithm.
"""

import inspect
import math
import os
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.utils import get_device

LARGEST = 1e18  # an integer of this size still fits into PyTorch's 64 bits
LARGEST_WEIGHT = 1e6  # largest weight of a loss or a reward, since their squares are summed in float32
WIDEST = 8192  # most units of a layer or channels of a convolution; twice as many take a minute to initialise
MOST_EPOCHS = 10_000


class Allowed(NamedTuple):
    """A condition, and the words that follow "must" in the message for values that do not meet it."""

    holds: Callable[[Any], bool]
    words: str


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def whole(least: int, most: int | None = None) -> Allowed:
    """
    Allow integers in a range.

    :param least: Smallest value
    :param most: Largest value; None means no upper limit
    :return: the condition
    """
    limit = "" if most is None else f" and <= {most}"
    return Allowed(
        lambda value: _is_whole(value) and least <= value and (most is None or value <= most),
        f"be an integer >= {least}{limit}",
    )


def number(least: float, most: float) -> Allowed:
    """
    Allow numbers in a range.

    :param least: Smallest value
    :param most: Largest value
    :return: the condition
    """
    return Allowed(lambda value: _is_number(value) and least <= value <= most, f"be a number from {least:g} to {most:g}")


def positive(most: float) -> Allowed:
    """
    Allow positive numbers.

    :param most: Largest value
    :return: the condition
    """
    return Allowed(lambda value: _is_number(value) and 0 < value <= most, f"be a positive number <= {most:g}")


def not_negative(most: float) -> Allowed:
    """
    Allow numbers from 0.

    :param most: Largest value
    :return: the condition
    """
    return Allowed(lambda value: _is_number(value) and 0 <= value <= most, f"be a non-negative number <= {most:g}")


def one_of(*choices: str | None) -> Allowed:
    """
    Allow only the given values.

    :param choices: Strings, or None
    :return: the condition
    """
    listed = " or ".join(map(repr, choices)) if len(choices) < 3 else "one of " + ", ".join(map(repr, choices))
    return Allowed(lambda value: (value is None or isinstance(value, str)) and value in choices, f"be {listed}")


def or_none(allowed: Allowed) -> Allowed:
    """
    Allow None as well.

    :param allowed: Condition for other values
    :return: the condition
    """
    return Allowed(lambda value: value is None or allowed.holds(value), f"{allowed.words}, or None")


def or_infinite(allowed: Allowed) -> Allowed:
    """
    Allow infinity as well, which means no limit.

    :param allowed: Condition for finite limits
    :return: the condition
    """
    return Allowed(lambda value: allowed.holds(value) or (_is_number(value) and value == math.inf), f"{allowed.words}, or inf")


def scheduled(allowed: Allowed) -> Allowed:
    """
    Allow functions of the remaining progress as well. At the beginning of training, when the progress is 1, the
    function must return an allowed number or 0.

    :param allowed: Condition for numbers
    :return: the condition
    """

    def holds(value: Any) -> bool:
        if not callable(value):
            return allowed.holds(value)
        try:
            first = float(value(1.0))
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError):
            return False
        return first == 0 or allowed.holds(first)

    return Allowed(holds, f"{allowed.words}, or a function of the remaining progress that returns such numbers")


FLAG = Allowed(lambda value: isinstance(value, bool), "be True or False")
SHARE = Allowed(lambda value: _is_number(value) and 0 <= value <= 1, "lie in [0, 1]")
DISCOUNT = Allowed(SHARE.holds, f"{SHARE.words}: it is a discount factor")
SEED = or_none(whole(0, 2**32 - 1))
VERBOSE = Allowed(lambda value: isinstance(value, int) and 0 <= value <= 2, "be 0, 1 or 2")
WEIGHT = number(-LARGEST_WEIGHT, LARGEST_WEIGHT)
PATH = or_none(Allowed(lambda value: isinstance(value, (str, os.PathLike)) and "\0" not in str(value), "be a path"))
NAME = Allowed(
    lambda value: isinstance(value, str) and value != "" and not {"/", "\\", "\0"} & set(value),
    "be the beginning of a file name",
)


def checked(values: Mapping[str, Any], allowed: Mapping[str, Allowed]) -> dict[str, Any]:
    """
    Check arguments against a table.

    :param values: Arguments by name; names that are not in the table are not checked
    :param allowed: The table
    :return: the same arguments, with NumPy scalars converted to Python numbers
    :raises ValueError: for the first value that is not allowed
    """
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    for name, value in plain.items():
        if name in allowed and not allowed[name].holds(value):
            raise ValueError(f"{name}={value!r} must {allowed[name].words}.")
    return plain


def check_names(name: str, kwargs: Any, cls: type, given: Container[str] = ()) -> None:
    """
    Check the names of a dict of further arguments.

    :param name: Name of the argument that holds the dict
    :param kwargs: Its value
    :param cls: The class that takes the further arguments
    :param given: Arguments of this class that the caller sets itself
    :raises ValueError: if the value is not a dict, or has a key that is not an argument of the class
    """
    known = [argument for argument in _arguments(cls) if argument not in given]
    if not isinstance(kwargs, dict):
        raise ValueError(f"{name}={kwargs!r} must be a dict of arguments of {cls.__name__}: {', '.join(known) or 'none'}.")
    for key in kwargs:
        if key not in known:
            raise ValueError(
                f"{name}={kwargs!r} must hold only arguments of {cls.__name__} ({', '.join(known) or 'none'}), not {key!r}."
            )


def default_of(cls: type, name: str) -> Any:
    """
    Find the default of an argument.

    :param cls: A class
    :param name: Name of one of its arguments
    :return: the default in the first of the class and its parents that has this argument
    :raises LookupError: if there is no such argument
    """
    for part in cls.__mro__:
        parameter = inspect.signature(part.__init__).parameters.get(name)  # type: ignore[misc]
        if parameter is not None:
            return parameter.default
    raise LookupError(f"{cls.__name__} has no argument {name}.")


def _arguments(cls: type) -> list[str]:
    """List the named arguments of a class. Those of a parent are included if the class passes on unknown arguments."""
    names: list[str] = []
    for part in cls.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = list(inspect.signature(part.__init__).parameters.values())[1:]  # type: ignore[misc]
        names += [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if all(each.kind is not each.VAR_KEYWORD for each in parameters):
            break
    return list(dict.fromkeys(names))


def check_device(device: Any) -> None:
    """
    Check that PyTorch can compute on a device.

    :param device: Value of an argument ``device``; as in SB3, ``"cuda"`` means the CPU if there is no GPU
    :raises ValueError: if PyTorch cannot compute there
    """
    try:
        usable = isinstance(device, (str, th.device)) and th.zeros(1, device=get_device(device)).item() == 0
    except (RuntimeError, ImportError, AssertionError, ValueError):
        usable = False
    if not usable:
        raise ValueError(f"device={device!r} must be 'auto', 'cpu', 'cuda' or another device that PyTorch supports here.")
