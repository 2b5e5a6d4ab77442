"""Rules for arguments: what a value must be, as a test and in words. A value that breaks its rule is refused
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

MAX_NUMBER = 1e18  # an integer of this size still fits into PyTorch's 64 bits
MAX_WEIGHT = 1e6  # largest weight of a loss or a reward, since their squares are summed in float32
#: most units of a layer or channels of a convolution; twice as many take a minute to initialise
MAX_WIDTH = 8192
MAX_EPOCHS = 10_000


class Rule(NamedTuple):
    """What the value of an argument must be."""

    holds: Callable[[Any], bool]  #: whether a value follows the rule
    requirement: str  #: the words after "must" in the message for other values


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def integer(least: int, most: int | None = None) -> Rule:
    """
    Allow integers in a range.

    :param least: Smallest value
    :param most: Largest value; None means no upper limit
    :return: the rule
    """
    limit = "" if most is None else f" and <= {most}"
    return Rule(
        lambda value: _is_integer(value) and least <= value and (most is None or value <= most),
        f"be an integer >= {least}{limit}",
    )


def number(least: float, most: float) -> Rule:
    """
    Allow numbers in a range.

    :param least: Smallest value
    :param most: Largest value
    :return: the rule
    """
    return Rule(
        lambda value: _is_number(value) and least <= value <= most,
        f"be a number from {least:g} to {most:g}",
    )


def positive(most: float) -> Rule:
    """
    Allow positive numbers.

    :param most: Largest value
    :return: the rule
    """
    return Rule(
        lambda value: _is_number(value) and 0 < value <= most,
        f"be a positive number <= {most:g}",
    )


def non_negative(most: float) -> Rule:
    """
    Allow numbers from 0.

    :param most: Largest value
    :return: the rule
    """
    return Rule(
        lambda value: _is_number(value) and 0 <= value <= most,
        f"be a non-negative number <= {most:g}",
    )


def one_of(*choices: str | None) -> Rule:
    """
    Allow only the given values.

    :param choices: Strings, or None
    :return: the rule
    """
    quoted = [*map(repr, choices)]
    listed = " or ".join(quoted) if len(quoted) < 3 else f"one of {', '.join(quoted)}"
    return Rule(lambda value: (value is None or isinstance(value, str)) and value in choices, f"be {listed}")


def or_none(rule: Rule) -> Rule:
    """
    Allow None as well.

    :param rule: Rule for other values
    :return: the rule
    """
    return Rule(lambda value: value is None or rule.holds(value), f"{rule.requirement}, or None")


def or_infinite(rule: Rule) -> Rule:
    """
    Allow infinity as well, which means no limit.

    :param rule: Rule for finite limits
    :return: the rule
    """
    return Rule(
        lambda value: rule.holds(value) or (_is_number(value) and value == math.inf),
        f"{rule.requirement}, or inf",
    )


def scheduled(rule: Rule) -> Rule:
    """
    Allow functions of the remaining progress as well. At the beginning of training, when the progress is 1,
    the function must return an allowed number or 0.

    :param rule: Rule for numbers
    :return: the rule
    """

    def holds(value: Any) -> bool:
        if not callable(value):
            return rule.holds(value)
        try:
            first = float(value(1.0))
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError):
            return False
        return first == 0 or rule.holds(first)

    return Rule(
        holds,
        f"{rule.requirement}, or a function of the remaining progress that returns such numbers",
    )


BOOL = Rule(lambda value: isinstance(value, bool), "be True or False")
FRACTION = Rule(lambda value: _is_number(value) and 0 <= value <= 1, "lie in [0, 1]")
DISCOUNT = Rule(FRACTION.holds, f"{FRACTION.requirement}: it is a discount factor")
SEED = or_none(integer(0, 2**32 - 1))
VERBOSE = Rule(lambda value: isinstance(value, int) and 0 <= value <= 2, "be 0, 1 or 2")
WEIGHT = number(-MAX_WEIGHT, MAX_WEIGHT)
PATH = or_none(
    Rule(
        lambda value: isinstance(value, (str, os.PathLike)) and "\0" not in str(value),
        "be a path",
    )
)
NAME = Rule(
    lambda value: isinstance(value, str) and value != "" and not {"/", "\\", "\0"} & set(value),
    "be the beginning of a file name",
)


def validate(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """
    Check arguments against their rules.

    :param values: Arguments by name; arguments without a rule are not checked
    :param rules: Rules by name
    :return: the same arguments, with NumPy scalars converted to Python numbers
    :raises ValueError: for the first value that breaks its rule
    """
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    for name, value in plain.items():
        if name in rules and not rules[name].holds(value):
            raise ValueError(f"{name}={value!r} must {rules[name].requirement}.")
    return plain


def check_names(name: str, kwargs: Any, cls: type, reserved: Container[str] = ()) -> None:
    """
    Check the names of a dict of further arguments.

    :param name: Name of the argument that holds the dict
    :param kwargs: Its value
    :param cls: The class that takes the further arguments
    :param reserved: Arguments of this class that the caller sets itself
    :raises ValueError: if the value is not a dict, or has a key that is not an argument of the class
    """
    known = [argument for argument in _argument_names(cls) if argument not in reserved]
    listed = ", ".join(known) or "none"
    if not isinstance(kwargs, dict):
        raise ValueError(f"{name}={kwargs!r} must be a dict of arguments of {cls.__name__}: {listed}.")
    for key in kwargs:
        if key not in known:
            raise ValueError(f"{name}={kwargs!r} must hold only arguments of {cls.__name__} ({listed}), not {key!r}.")


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


def _argument_names(cls: type) -> list[str]:
    """List the named arguments of a class, and those of a parent to which it passes on unknown arguments."""
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
