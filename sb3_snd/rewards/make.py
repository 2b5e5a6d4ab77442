"""From the arguments ``snd`` and ``snd_kwargs`` to an intrinsic reward.

Knows the rewards by name, but not what they compute.
"""

from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.preprocessing import FrameReader
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.snd import SND
from sb3_snd.targets import Target

#: arguments that snd_kwargs cannot hold
SET_BY_CALLER = ("self", "observation_space", "target", "device")


def check_snd_kwargs(snd_kwargs: Any, snd: Any = None) -> dict[str, Any]:
    """
    Check the type and the names of ``snd_kwargs``.

    :param snd_kwargs: Value of an argument ``snd_kwargs``; None means no arguments
    :param snd: Value of the argument ``snd`` beside it
    :return: arguments of ``SND`` by name
    :raises ValueError: if it is neither None nor a dict of such arguments, or if ``snd`` needs none
    """
    names = snd_kwargs if isinstance(snd_kwargs, dict) else [None]
    if snd_kwargs is not None and not all(isinstance(name, str) and name not in SET_BY_CALLER for name in names):
        raise ValueError(
            f"snd_kwargs={snd_kwargs!r} must be a dict of SND's arguments by name, without"
            f" {', '.join(SET_BY_CALLER)}, or None."
        )
    if isinstance(snd, IntrinsicReward) and snd_kwargs:
        raise ValueError(
            f"snd_kwargs={snd_kwargs!r} needs the name or class of a target: pass them to the {type(snd).__name__} itself."
        )
    return dict(snd_kwargs or {})


def is_trained(snd: Any) -> bool:
    """
    Tell whether an argument ``snd`` surely gives a reward whose nets are trained. A class of rewards shows it
    only later.

    :param snd: Its value
    :return: whether it does
    """
    if isinstance(snd, IntrinsicReward):
        return snd.trainer is not None
    return snd is not None and not (isinstance(snd, type) and issubclass(snd, IntrinsicReward))


def make_reward(
    snd: str | type[Target] | type[IntrinsicReward] | IntrinsicReward,
    observation_space: spaces.Space,
    device: th.device | str,
    snd_kwargs: dict[str, Any],
) -> IntrinsicReward:
    """
    Create an intrinsic reward, unless there is one.

    :param snd: Name of a target in ``sb3_snd.targets.TARGETS``, a subclass of ``Target``, a subclass of
        ``IntrinsicReward``, or a reward
    :param observation_space: Observation space of the environment
    :param device: PyTorch device of a new reward
    :param snd_kwargs: Further arguments of a new reward
    :return: the reward, which fits the observation space
    :raises ValueError: for invalid arguments, or a reward that was made for other observations
    """
    if isinstance(snd, type) and issubclass(snd, IntrinsicReward):
        return snd(observation_space, device=device, **snd_kwargs)
    reward = snd if isinstance(snd, IntrinsicReward) else SND(observation_space, snd, device=device, **snd_kwargs)
    check_space(reward, observation_space)
    return reward


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
