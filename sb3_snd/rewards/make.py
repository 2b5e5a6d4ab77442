"""From the arguments ``snd`` and ``snd_kwargs`` to an intrinsic reward.

Knows the rewards by name, but not what they compute.
"""

from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.preprocessing import FrameReader
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.product import Product
from sb3_snd.rewards.registry import REWARDS
from sb3_snd.rewards.settings import SET_BY_CALLER
from sb3_snd.rewards.snd import SND
from sb3_snd.targets import TARGETS, Target


def check_snd_kwargs(snd_kwargs: Any, snd: Any = None, episodic: str | None = None) -> dict[str, Any]:
    """
    Check the type and the names of ``snd_kwargs``.

    :param snd_kwargs: Value of an argument ``snd_kwargs``; None means no arguments
    :param snd: Value of the argument ``snd`` beside it
    :param episodic: Value of the argument ``episodic`` beside it
    :return: arguments of the reward by name, ``episodic`` among them unless it is None
    :raises ValueError: if it is neither None nor a dict of such arguments, or if ``snd`` needs none
    """
    names = snd_kwargs if isinstance(snd_kwargs, dict) else [None]
    if snd_kwargs is not None and not all(isinstance(name, str) and name not in SET_BY_CALLER for name in names):
        raise ValueError(
            f"snd_kwargs={snd_kwargs!r} must be a dict of the reward's arguments by name, without"
            f" {', '.join(SET_BY_CALLER)}, or None."
        )
    if episodic is not None:
        if snd is None or isinstance(snd, IntrinsicReward):
            raise ValueError(f"episodic={episodic!r} needs the name or class of a reward as snd, with which it is multiplied.")
        snd_kwargs = {**(snd_kwargs or {}), "episodic": episodic}
    if isinstance(snd, IntrinsicReward) and snd_kwargs:
        raise ValueError(
            f"snd_kwargs={snd_kwargs!r} needs the name or class of a reward: pass them to the {type(snd).__name__} itself."
        )
    return dict(snd_kwargs or {})


def is_trained(snd: Any) -> bool:
    """
    Tell whether an argument ``snd`` surely gives a reward whose nets are trained. A name or a class of other
    rewards than SND shows it only later.

    :param snd: Its value
    :return: whether it does
    """
    if isinstance(snd, IntrinsicReward):
        return snd.trainer is not None
    return (isinstance(snd, str) and snd not in REWARDS) or (isinstance(snd, type) and issubclass(snd, Target))


def make_reward(
    snd: str | type[Target] | type[IntrinsicReward] | IntrinsicReward,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    device: th.device | str,
    snd_kwargs: dict[str, Any],
) -> IntrinsicReward:
    """
    Create an intrinsic reward, unless there is one.

    :param snd: Name in ``sb3_snd.targets.TARGETS`` or ``sb3_snd.rewards.REWARDS``, a subclass of ``Target`` or
        of ``IntrinsicReward``, or a reward
    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment
    :param device: PyTorch device of a new reward
    :param snd_kwargs: Further arguments of a new reward
    :return: the reward, which fits the observation space
    :raises ValueError: for invalid arguments, or a reward that was made for other observations
    """
    if isinstance(snd, IntrinsicReward):
        check_space(snd, observation_space)
        return snd
    factor = {name: snd_kwargs[name] for name in ("episodic", "episodic_features") if snd_kwargs.get(name) is not None}
    arguments = {"action_space": action_space, "device": device, **snd_kwargs}
    if factor:
        if "episodic" not in factor:
            raise ValueError("episodic_features needs episodic, the name of the episodic factor.")
        lifelong = {name: value for name, value in snd_kwargs.items() if name not in ("episodic", "episodic_features")}
        return Product(make_reward(snd, observation_space, action_space, device, lifelong), observation_space, **factor)
    if isinstance(snd, str) and snd not in (*TARGETS, *REWARDS):
        raise ValueError(f"Unknown reward snd={snd!r}: choose one of {', '.join(map(repr, (*TARGETS, *REWARDS)))}.")
    if isinstance(snd, str) and snd in REWARDS:
        return REWARDS[snd](observation_space, **arguments)
    if isinstance(snd, type) and issubclass(snd, IntrinsicReward):
        return snd(observation_space, **arguments)
    return SND(observation_space, snd, **arguments)


def check_space(reward: IntrinsicReward, observation_space: spaces.Space) -> None:
    """
    Check that a reward fits an environment.

    :param reward: The reward
    :param observation_space: Observation space of the environment
    :raises ValueError: if the reward was made for other frames
    """
    made_for, given = reward.reader.describe(), FrameReader(observation_space, reward.reader.obs_key).describe()
    if made_for != given:
        raise ValueError(
            f"This {type(reward).__name__} was made for {made_for}, but the environment gives {given}:"
            " create it with the environment's observation_space."
        )
