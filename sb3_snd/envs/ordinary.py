"""
Arguments of the native vector environments, as ordinary environments that are made one by one take them.

Knows what ``gym.make`` and ``AtariWrapper`` are told, and how the RL Zoo writes wrappers down. Must not know any network,
novelty or algorithm.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from sb3_snd.arguments import checked, default_of
from sb3_snd.envs import native
from sb3_snd.envs.atari import AtariVecEnv, AtariWrapper
from sb3_snd.envs.procgen import ENTRY_POINT

ATARI_WRAPPER = "sb3_snd.envs.AtariWrapper"
#: arguments that the emulators' environments must not get, as they are given otherwise -> how
ELSEWHERE = {
    "env_id": "--env",
    "seed": "--seed",
    "n_envs": "the hyperparameter n_envs",
    "n_stack": "the hyperparameter frame_stack",
}
#: those of ALE's ordinary environment that AtariWrapper sets itself -> its own argument
REPLACED = {"frameskip": "frame_skip", "max_num_frames_per_episode": "max_episode_steps"}


def is_emulated(env_id: str, env_wrapper: Any) -> bool:
    """
    :param env_id: Gymnasium id
    :param env_wrapper: ``env_wrapper`` of an entry of hyperparameters, None if it has none
    :return: whether there is a native vector environment that does the same
    """
    return ATARI_WRAPPER in _names(env_wrapper) or gym.spec(env_id).entry_point == ENTRY_POINT


def with_defaults(env_wrapper: Any, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Name the default of the native vector environment where the ordinary one has another, so that both are the same.

    :param env_wrapper: ``env_wrapper`` of an entry of hyperparameters, None if it has none
    :param env_kwargs: Its ``env_kwargs``
    :return: ``env_kwargs``; in Atari, where ids differ in it, with ``repeat_action_probability`` unless the wrapper has it
    """
    name = "repeat_action_probability"
    if ATARI_WRAPPER not in _names(env_wrapper) or name in _given(env_wrapper):
        return dict(env_kwargs)
    return {name: default_of(AtariVecEnv, name), **env_kwargs}


def as_ordinary(env_id: str, env_wrapper: Any, env_kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """
    Divide arguments of a native vector environment between ``gym.make`` and ``AtariWrapper``. The number of threads is left
    out. Ids that repeat each action themselves, such as ``ALE/...-v5``, are asked not to. Arguments that were divided before
    stay as they are, and so do those of all other environments.

    :param env_id: Gymnasium id
    :param env_wrapper: ``env_wrapper`` of an entry of hyperparameters, None if it has none; it may hold arguments of the
        native vector environment
    :param env_kwargs: Its ``env_kwargs``, which take precedence over those of the wrapper
    :return: both, for ordinary environments
    :raises ValueError: if an argument has to be given otherwise
    """
    if not is_emulated(env_id, env_wrapper):
        return env_wrapper, dict(env_kwargs)
    made = checked({**_given(env_wrapper), **env_kwargs}, {"num_threads": native.ARGUMENTS["num_threads"]})
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
    """:return: names, or classes, of wrappers in the Zoo's notation: one or several, each with or without arguments"""
    wrappers = env_wrapper if isinstance(env_wrapper, list) else [env_wrapper]
    return [next(iter(wrapper), None) if isinstance(wrapper, dict) else wrapper for wrapper in wrappers]


def _given(env_wrapper: Any) -> dict[str, Any]:
    """:return: the arguments of AtariWrapper, if it is there and has any"""
    wrappers = env_wrapper if isinstance(env_wrapper, list) else [env_wrapper]
    return next((each[ATARI_WRAPPER] for each in wrappers if isinstance(each, dict) and ATARI_WRAPPER in each), {})


def _with_arguments(env_wrapper: Any, arguments: dict[str, Any]) -> Any:
    """:return: the same, with these arguments of AtariWrapper"""
    if isinstance(env_wrapper, list):
        return [_with_arguments(each, arguments) if ATARI_WRAPPER in _names(each) else each for each in env_wrapper]
    return {ATARI_WRAPPER: arguments} if arguments else ATARI_WRAPPER
