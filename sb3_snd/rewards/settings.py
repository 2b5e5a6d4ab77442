"""Settings that all rewards have, and the file that holds a reward and its settings.

Knows PyTorch's files, but not what a reward computes.
"""

import inspect
import pathlib
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch as th

from sb3_snd.common.precision import PRECISION
from sb3_snd.common.validation import (
    BOOL,
    MAX_EPOCHS,
    MAX_NUMBER,
    integer,
    non_negative,
    or_none,
    positive,
    scheduled,
    validate,
)

if TYPE_CHECKING:
    from sb3_snd.rewards.base import IntrinsicReward

RULES = {
    "eta": scheduled(non_negative(MAX_NUMBER)),
    "learning_rate": scheduled(positive(1)),
    "batch_size": or_none(integer(2)),  # the variance of a single sample is undefined
    "n_epochs": integer(1, MAX_EPOCHS),
    "norm_reward": BOOL,
    "precision": PRECISION,
}
#: defaults of the settings, from which a reward may differ
DEFAULTS = {
    "eta": 1.0,
    "learning_rate": 1e-4,
    "batch_size": None,
    "n_epochs": 1,
    "norm_reward": False,
    "precision": "float32",
}
#: arguments that wrapper and algorithm give to a reward themselves
SET_BY_CALLER = ("self", "observation_space", "action_space", "target", "device")
#: settings that are saved in a file; precision is not, since it depends on the machine
SAVED_SETTINGS = ("eta", "learning_rate", "batch_size", "n_epochs", "norm_reward")
#: errors that may occur if a file does not hold the tensors that :func:`save_reward` writes
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError)


def check_argument_names(reward_class: type["IntrinsicReward"], settings: Mapping[str, Any]) -> None:
    """
    Check that the further arguments of a reward are settings.

    :param reward_class: Class of the reward
    :param settings: Its further arguments
    :raises ValueError: if one is not a setting; the sentence lists all arguments of the class
    """
    unknown = sorted(set(settings) - set(RULES))
    if unknown:
        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        own = [name for name, each in inspect.signature(reward_class).parameters.items() if each.kind in kinds]
        known = [*RULES, *(name for name in own if name not in (*SET_BY_CALLER, *RULES))]
        raise ValueError(f"Unknown argument {unknown[0]!r} of {reward_class.__name__}: it takes {', '.join(known)}.")


def save_reward(reward: "IntrinsicReward", path: str | pathlib.Path) -> None:
    """
    Write a reward; see :meth:`~sb3_snd.rewards.base.IntrinsicReward.save`.

    :param reward: The reward
    :param path: File to write
    """
    settings = {name: reward.init_kwargs[name] for name in SAVED_SETTINGS} | {"eta": reward.scale.eta}
    saved = {"snd": reward.state_dict(), "settings": settings}
    if reward.trainer is not None:
        settings["learning_rate"] = reward.trainer.optimizer.param_groups[0]["lr"]
        saved["optimizer"] = reward.trainer.optimizer.state_dict()
    th.save(saved, path)


def load_reward(reward: "IntrinsicReward", path: str | pathlib.Path) -> None:
    """
    Load a reward; see :meth:`~sb3_snd.rewards.base.IntrinsicReward.load`.

    :param reward: The reward, which is changed in place
    :param path: File to read
    :raises ValueError: if the file holds another reward or other sizes, or anything but tensors
    """
    try:
        saved = th.load(path, map_location=reward.device, weights_only=True)
    except UNREADABLE as error:
        name = type(reward).__name__
        raise ValueError(f"{path} is not a file of tensors that {name}.save wrote, so nothing was loaded.") from error
    state = {name: value.clone() for name, value in reward.state_dict().items()}
    init_kwargs, return_stats = reward.init_kwargs, reward.scale.return_stats
    try:
        found = saved.get("settings", {})
        settings = {name: found[name] for name in SAVED_SETTINGS if name in found}
        reward.init_kwargs = {**init_kwargs, **validate(settings, RULES), **reward.given}
        reward.use_settings()
        reward.load_state_dict(saved["snd"])
        if reward.trainer is not None:
            reward.trainer.optimizer.load_state_dict(saved["optimizer"])
    except UNREADABLE as error:
        reward.init_kwargs, reward.scale.return_stats = init_kwargs, return_stats
        reward.use_settings()
        reward.load_state_dict(state)
        kind = f"an SND with target {reward.spec!r}" if isinstance(reward.spec, str) else f"a {reward.spec.__name__}"
        raise ValueError(f"{path} does not hold {kind} of these sizes.") from error
