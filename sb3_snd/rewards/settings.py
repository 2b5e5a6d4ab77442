"""Settings that all rewards have, and the file that holds a reward and its settings.

Knows PyTorch's files, but not what a reward computes.
"""

import pathlib
import pickle
from typing import TYPE_CHECKING

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
#: defaults of the settings, except eta, whose default depends on the reward
DEFAULTS = {"learning_rate": 1e-4, "batch_size": None, "n_epochs": 1, "norm_reward": False, "precision": "float32"}
#: settings that are saved in a file; precision is not, since it depends on the machine
SAVED_SETTINGS = ("eta", "learning_rate", "batch_size", "n_epochs", "norm_reward")
#: errors that may occur if a file does not hold the tensors that :func:`save_reward` writes
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError)


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
