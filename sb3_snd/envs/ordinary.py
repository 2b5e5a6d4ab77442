"""
Translate arguments of the native vector environments into those of ordinary environments.

Knows the arguments of ``gym.make`` and ``AtariWrapper``, and the RL Zoo's notation for wrappers. Must not
know any network, novelty or algorithm.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from sb3_snd.common.validation import default_of, validate
from sb3_snd.envs import native
from sb3_snd.envs.atari import AtariVecEnv
from sb3_snd.envs.atari_wrapper import AtariWrapper
from sb3_snd.envs.procgen import ENTRY_POINT

ATARI_WRAPPER = "sb3_snd.envs.AtariWrapper"
#: arguments of native vector environments that are given by other means -> those means
ELSEWHERE = {
    "env_id": "--env",
    "seed": "--seed",
    "n_envs": "the hyperparameter n_envs",
    "n_stack": "the hyperparameter frame_stack",
}
#: arguments of ALE's ordinary environment that AtariWrapper sets itself -> AtariWrapper's own argument
REPLACED = {"frameskip": "frame_skip", "max_num_frames_per_episode": "max_episode_steps"}


def is_emulated(env_id: str, env_wrapper: Any) -> bool:
    """
    Check whether a native vector environment is equivalent to an ordinary one.

    :param env_id: Gymnasium id
    :param env_wrapper: ``env_wrapper`` of an entry of hyperparameters; None if it has none
    :return: whether there is an equivalent native vector environment
    """
    return ATARI_WRAPPER in _names(env_wrapper) or gym.spec(env_id).entry_point == ENTRY_POINT


def with_defaults(env_wrapper: Any, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Add the native vector environment's default if that of the ordinary environment differs, so that both
    behave the same.

    :param env_wrapper: ``env_wrapper`` of an entry of hyperparameters; None if it has none
    :param env_kwargs: ``env_kwargs`` of the entry
    :return: copy of ``env_kwargs``. For Atari, whose ids have different defaults, it contains
        ``repeat_action_probability`` unless the wrapper's arguments do
    """
    name = "repeat_action_probability"
    if ATARI_WRAPPER not in _names(env_wrapper) or name in _given(env_wrapper):
        return dict(env_kwargs)
    return {name: default_of(AtariVecEnv, name), **env_kwargs}


def as_ordinary(env_id: str, env_wrapper: Any, env_kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """
    Divide the arguments of a native vector environment between ``gym.make`` and ``AtariWrapper``.

    The number of threads is omitted. For ids that repeat each action themselves, such as ``ALE/...-v5``, this
    is switched off. Arguments that are already divided, and those of all other environments, are not changed.

    :param env_id: Gymnasium id
    :param env_wrapper: ``env_wrapper`` of an entry of hyperparameters, which may contain arguments of the
        native vector environment; None if it has none
    :param env_kwargs: ``env_kwargs`` of the entry; they take precedence over the wrapper's arguments
    :return: ``env_wrapper`` and ``env_kwargs`` for ordinary environments
    :raises ValueError: if an argument must be given by other means
    """
    if not is_emulated(env_id, env_wrapper):
        return env_wrapper, dict(env_kwargs)
    made = validate({**_given(env_wrapper), **env_kwargs}, {"num_threads": native.RULES["num_threads"]})
    made.pop("num_threads", None)
    atari = ATARI_WRAPPER in _names(env_wrapper)
    for name, remedy in {**ELSEWHERE, **(REPLACED if atari else {})}.items():
        if name in made and (name, made[name]) != ("frameskip", 1):
            raise ValueError(f"{name}={made[name]!r} cannot be an argument of the environment here: use {remedy} instead.")
    if not atari:
        return env_wrapper, made
    wrapped = {name: made.pop(name) for name in inspect.signature(AtariWrapper).parameters if name in made}
    if gym.spec(env_id).kwargs.get("frameskip", 1) != 1:
        made["frameskip"] = 1
    return _with_arguments(env_wrapper, wrapped), made


def _names(env_wrapper: Any) -> list[Any]:
    """Return names or classes of wrappers in the Zoo's notation: one or a list, with or without arguments."""
    wrappers = env_wrapper if isinstance(env_wrapper, list) else [env_wrapper]
    return [next(iter(wrapper), None) if isinstance(wrapper, dict) else wrapper for wrapper in wrappers]


def _given(env_wrapper: Any) -> dict[str, Any]:
    """Return the arguments of AtariWrapper; empty if it is missing or has no arguments."""
    wrappers = env_wrapper if isinstance(env_wrapper, list) else [env_wrapper]
    return next((each[ATARI_WRAPPER] for each in wrappers if isinstance(each, dict) and ATARI_WRAPPER in each), {})


def _with_arguments(env_wrapper: Any, arguments: dict[str, Any]) -> Any:
    """Return a copy of ``env_wrapper`` with these arguments of AtariWrapper."""
    if isinstance(env_wrapper, list):
        return [_with_arguments(each, arguments) if ATARI_WRAPPER in _names(each) else each for each in env_wrapper]
    return {ATARI_WRAPPER: arguments} if arguments else ATARI_WRAPPER
