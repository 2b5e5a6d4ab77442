"""Checks of ``policy_kwargs``. Each error is one sentence.

Knows the arguments of SB3's policies, but no environment.
"""

from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_snd.common.validation import (
    BOOL,
    MAX_WIDTH,
    Rule,
    check_names,
    default_of,
    integer,
    number,
    or_none,
    validate,
)
from sb3_snd.ppo_snd.policies import StreamActorCriticPolicy

MAX_DEPTH = 100  # largest number of hidden layers
#: arguments that the algorithm passes to a policy
SET_BY_ALGORITHM = ("observation_space", "action_space", "lr_schedule", "use_sde", "n_streams")


def _are_widths(value: Any) -> bool:
    width = integer(1, MAX_WIDTH)
    return isinstance(value, (list, tuple)) and len(value) <= MAX_DEPTH and all(map(width.holds, value))


def _is_net_arch(value: Any) -> bool:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]  # SB3's format before 1.8
    if isinstance(value, dict):
        return set(value) <= {"pi", "vf"} and all(map(_are_widths, value.values()))
    return _are_widths(value)


def _is_activation(value: Any) -> bool:
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        return False
    try:
        return value()(th.zeros(1, 4)).shape == (1, 4)
    except Exception:  # a layer may raise anything
        return False


def _subclass(parent: type) -> Rule:
    return Rule(
        lambda value: isinstance(value, type) and issubclass(value, parent),
        f"be a subclass of {parent.__name__}",
    )


RULES = {
    "net_arch": or_none(
        Rule(
            _is_net_arch,
            f"be a list of at most {MAX_DEPTH} widths, integers from 1 to {MAX_WIDTH}, or a dict of such lists, 'pi' and 'vf'",
        )
    ),
    "activation_fn": Rule(_is_activation, "be a class of element-wise layers, such as torch.nn.Tanh"),
    "ortho_init": BOOL,
    "full_std": BOOL,
    "use_expln": BOOL,
    "squash_output": BOOL,
    "share_features_extractor": BOOL,
    "normalize_images": BOOL,
    "log_std_init": number(-10, 10),
    "features_extractor_class": _subclass(BaseFeaturesExtractor),
    "optimizer_class": _subclass(th.optim.Optimizer),
}


def check_policy_kwargs(
    policy_class: type["StreamActorCriticPolicy"],
    policy_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """
    Check the arguments of a policy.

    :param policy_class: The policy
    :param policy_kwargs: Its arguments by name
    :return: the same arguments, with NumPy scalars converted to Python numbers
    :raises ValueError: for an argument that the policy does not take, or a value out of its range
    """
    check_names("policy_kwargs", policy_kwargs, policy_class, SET_BY_ALGORITHM)
    plain = validate(policy_kwargs, RULES)
    extractor = plain.get("features_extractor_class") or default_of(policy_class, "features_extractor_class")
    if plain.get("features_extractor_kwargs") is not None:
        check_names("features_extractor_kwargs", plain["features_extractor_kwargs"], extractor, ("observation_space",))
    if {"optimizer_class", "optimizer_kwargs"} & set(plain):
        optimizer = plain.get("optimizer_class") or default_of(policy_class, "optimizer_class")
        _check_optimizer(optimizer, plain.get("optimizer_kwargs"))
    return plain


def _check_optimizer(optimizer_class: Any, optimizer_kwargs: dict[str, Any] | None) -> None:
    """Try the optimiser: one step on a single scalar parameter."""
    optimizer_kwargs = {} if optimizer_kwargs is None else optimizer_kwargs
    check_names("optimizer_kwargs", optimizer_kwargs, optimizer_class, ("params", "lr"))
    parameter: Any = nn.Parameter(th.ones(1))
    parameter.grad = th.ones(1)
    try:
        optimizer_class([parameter], lr=1e-3, **optimizer_kwargs).step()
        reason = "" if th.isfinite(parameter).all() else "its step gives a non-finite value"
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
    if reason:
        raise ValueError(
            f"optimizer_class={optimizer_class.__name__} with optimizer_kwargs={optimizer_kwargs!r}"
            f" must be able to take a step: {reason}."
        )
