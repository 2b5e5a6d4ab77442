"""What arguments may be: for each name a condition and the words that say it; one sentence where it does not hold.

Knows numbers and names only; no network, no environment, no algorithm.
"""

import inspect
import math
import os
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import numpy as np

LARGEST = 1e18  # a whole number of this size still fits into PyTorch's 64 bits
LARGEST_WEIGHT = 1e6  # of a loss or a reward, whose squares are summed in float32
WIDEST = 8192  # units of a layer or channels of a convolution; twice as many take a minute to initialise
MOST_EPOCHS = 10_000


class Allowed(NamedTuple):
    """A condition, and what follows "must" in the sentence for values that do not meet it."""

    holds: Callable[[Any], bool]
    words: str


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def whole(least: int, most: int | None = None) -> Allowed:
    """
    :param least: Smallest value
    :param most: Largest value; None: any above
    :return: whole numbers in this range
    """
    limit = "" if most is None else f" and {most} at most"
    return Allowed(
        lambda value: _is_whole(value) and least <= value and (most is None or value <= most),
        f"be a whole number, {least} at least{limit}",
    )


def number(least: float, most: float) -> Allowed:
    """
    :param least: Smallest value
    :param most: Largest value
    :return: numbers in this range
    """
    return Allowed(lambda value: _is_number(value) and least <= value <= most, f"be a number from {least:g} to {most:g}")


def positive(most: float) -> Allowed:
    """
    :param most: Largest value
    :return: numbers above 0
    """
    return Allowed(lambda value: _is_number(value) and 0 < value <= most, f"be a positive number, {most:g} at most")


def not_negative(most: float) -> Allowed:
    """
    :param most: Largest value
    :return: numbers from 0 on
    """
    return Allowed(lambda value: _is_number(value) and 0 <= value <= most, f"be a number not below 0, {most:g} at most")


def one_of(*choices: str | None) -> Allowed:
    """
    :param choices: Words, or None
    :return: these and nothing else
    """
    listed = " or ".join(map(repr, choices)) if len(choices) < 3 else "one of " + ", ".join(map(repr, choices))
    return Allowed(lambda value: (value is None or isinstance(value, str)) and value in choices, f"be {listed}")


def or_none(allowed: Allowed) -> Allowed:
    """
    :param allowed: Some values
    :return: these and None
    """
    return Allowed(lambda value: value is None or allowed.holds(value), f"{allowed.words}, or be None")


def or_infinite(allowed: Allowed) -> Allowed:
    """
    :param allowed: Some limits
    :return: these and infinity, which is no limit
    """
    return Allowed(
        lambda value: allowed.holds(value) or (_is_number(value) and value == math.inf), f"{allowed.words}, or be inf"
    )


def scheduled(allowed: Allowed) -> Allowed:
    """
    :param allowed: Some numbers
    :return: these, and functions that give one, or 0, at the beginning of training, where the remaining progress is 1
    """

    def holds(value: Any) -> bool:
        if not callable(value):
            return allowed.holds(value)
        try:
            first = float(value(1.0))
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError):
            return False
        return first == 0 or allowed.holds(first)

    return Allowed(holds, f"{allowed.words}, or a function of the remaining progress that gives such numbers")


FLAG = Allowed(lambda value: isinstance(value, bool), "be True or False")
SHARE = Allowed(lambda value: _is_number(value) and 0 <= value <= 1, "lie in [0, 1]")
DISCOUNT = Allowed(SHARE.holds, f"{SHARE.words}: it is a discount factor")
SEED = or_none(whole(0, 2**32 - 1))
VERBOSE = Allowed(lambda value: isinstance(value, int) and 0 <= value <= 2, "be 0, 1 or 2")
WEIGHT = number(-LARGEST_WEIGHT, LARGEST_WEIGHT)
PATH = or_none(Allowed(lambda value: isinstance(value, (str, os.PathLike)) and "\0" not in str(value), "be a path"))
NAME = Allowed(
    lambda value: isinstance(value, str) and value != "" and not {"/", "\\", "\0"} & set(value),
    "be the beginning of a file's name",
)


def checked(values: Mapping[str, Any], allowed: Mapping[str, Allowed]) -> dict[str, Any]:
    """
    :param values: Arguments by name; what the table does not know passes
    :param allowed: The table
    :return: the same, but numpy's numbers as Python's
    :raises ValueError: for the first value that is not allowed
    """
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    for name, value in plain.items():
        if name in allowed and not allowed[name].holds(value):
            raise ValueError(f"{name}={value!r} must {allowed[name].words}.")
    return plain


def check_names(name: str, kwargs: Any, cls: type, given: Container[str] = ()) -> None:
    """
    :param name: Of the argument that holds further arguments
    :param kwargs: What it holds
    :param cls: The class that gets them
    :param given: Arguments of this class that are given otherwise
    :raises ValueError: if it is no dict, or has a key that is no argument of the class
    """
    known = [argument for argument in _arguments(cls) if argument not in given]
    if not isinstance(kwargs, dict):
        raise ValueError(f"{name}={kwargs!r} must be a dict of arguments of {cls.__name__}: {', '.join(known) or 'none'}.")
    for key in kwargs:
        if key not in known:
            raise ValueError(
                f"{name}={kwargs!r} must hold arguments of {cls.__name__} only, {', '.join(known) or 'none'}: not {key!r}."
            )


def default_of(cls: type, name: str) -> Any:
    """
    :param cls: A class
    :param name: An argument of it
    :return: its default, in the first of its parents that says one
    """
    for part in cls.__mro__:
        parameter = inspect.signature(part.__init__).parameters.get(name)  # type: ignore[misc]
        if parameter is not None:
            return parameter.default
    raise LookupError(f"{cls.__name__} has no argument {name}.")


def _arguments(cls: type) -> list[str]:
    """:return: named arguments of a class, and those of its parents for as long as it passes on what it does not know"""
    names: list[str] = []
    for part in cls.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = list(inspect.signature(part.__init__).parameters.values())[1:]  # type: ignore[misc]
        names += [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if all(each.kind is not each.VAR_KEYWORD for each in parameters):
            break
    return list(dict.fromkeys(names))
