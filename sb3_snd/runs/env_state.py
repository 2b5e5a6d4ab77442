"""Serialise the state of a vector environment with its wrappers, and restore it.

Knows Gymnasium's and SB3's environments. Must not know any file, algorithm or network.
"""

import pickle
import types
from collections.abc import Iterator
from typing import Any, Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_snd.runs.run_state import get_run_state, is_plain, on_cpu, set_attributes, set_run_state

#: types of attributes that an environment never changes, so that they need not be saved
FIXED = (gym.spaces.Space, EnvSpec, type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)


class NotRestorableError(ValueError):
    """Raised if an environment's state cannot be saved; the message says why."""


def get_env_state(venv: VecEnv) -> bytes:
    """
    Serialise the state of an environment's wrappers and, if possible, of the environments.

    Environments can be saved if they or the vector environment have methods ``get_state()`` and
    ``set_state(state)``, whose tensors are saved on the CPU. They can also be saved if they only contain
    plain data and do not run in subprocesses.

    :param venv: Vector environment with any wrappers
    :return: pickled state
    """
    wrappers = [(type(layer).__name__, get_run_state(layer)) for layer in _wrappers(venv)]
    try:
        return pickle.dumps((wrappers, on_cpu(_get_base_state(venv.unwrapped)), ""))
    except NotRestorableError as error:
        return pickle.dumps((wrappers, None, str(error)))


def set_env_state(venv: VecEnv, saved: bytes) -> str:
    """
    Restore the state that :func:`get_env_state` returned.

    :param venv: Vector environment, constructed like the saved one
    :param saved: Pickled state
    :return: empty if everything was restored, else the reason why the environments were not and must be reset
    :raises ValueError: if the wrappers differ
    """
    wrappers, base, reason = pickle.loads(saved)
    names, there = [name for name, _ in wrappers], [type(layer).__name__ for layer in _wrappers(venv)]
    if names != there:
        raise ValueError(f"The environment was saved with the wrappers {names} but has {there}: use the same wrappers.")
    for layer, (_, state) in zip(_wrappers(venv), wrappers, strict=True):
        set_run_state(layer, state)
    if base is not None:
        _set_base_state(venv.unwrapped, *base)
    return reason


def _wrappers(venv: VecEnv) -> Iterator[VecEnvWrapper]:
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv


def _get_base_state(venv: VecEnv) -> tuple[Literal["vec_env", "layers", "envs"], Any]:
    """
    Return whose state it is, and the state: that of the vector environment itself, those of each environment
    and its wrappers, or those that the environments return.
    """
    if hasattr(venv, "get_state"):
        return "vec_env", venv.get_state()
    if isinstance(venv, DummyVecEnv):
        return "layers", [[_get_layer_state(layer) for layer in _layers(env)] for env in venv.envs]
    if venv.has_attr("get_state") and venv.has_attr("set_state"):
        return "envs", venv.env_method("get_state")
    raise NotRestorableError(f"the state of the environments of {type(venv).__name__} cannot be saved")


def _set_base_state(venv: VecEnv, owner: Literal["vec_env", "layers", "envs"], saved: Any) -> None:
    if owner == "vec_env":
        venv.set_state(saved)  # type: ignore[attr-defined]
    elif owner == "layers":
        assert isinstance(venv, DummyVecEnv)
        for env, states in zip(venv.envs, saved, strict=True):
            for layer, state in zip(_layers(env), states, strict=True):
                _set_layer_state(layer, *state)
    else:
        for index, state in enumerate(saved):
            venv.env_method("set_state", state, indices=index)


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    while True:
        yield env
        if not isinstance(env, gym.Wrapper):
            return
        env = env.env


def _get_layer_state(layer: gym.Env) -> tuple[Literal["method", "attributes"], Any]:
    """Return how the state of an environment or wrapper was read, and the state."""
    if "get_state" in dir(type(layer)) and "set_state" in dir(type(layer)):
        return "method", layer.get_state()  # type: ignore[attr-defined]
    state = {name: value for name, value in vars(layer).items() if is_plain(value)}
    for name, value in vars(layer).items():
        if name not in state and not isinstance(value, (*FIXED, gym.Env)):
            raise NotRestorableError(f"{type(layer).__name__}.{name} ({type(value).__name__}) is not plain data")
    return "attributes", state


def _set_layer_state(layer: gym.Env, how: Literal["method", "attributes"], state: Any) -> None:
    if how == "method":
        layer.set_state(state)  # type: ignore[attr-defined]
    else:
        set_attributes(layer, state)
