"""Checks of what ``PPOSND`` is given: arguments, environment, policy and buffer. Each error is one sentence.

Knows SB3's environments and policies, but no network or update.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, is_vecenv_wrapped
from torch import nn

from sb3_snd.common.precision import PRECISION
from sb3_snd.common.validation import (
    DISCOUNT,
    FLAG,
    LARGEST,
    LARGEST_WEIGHT,
    MOST_EPOCHS,
    PATH,
    SEED,
    SHARE,
    VERBOSE,
    WEIGHT,
    WIDEST,
    Allowed,
    check_names,
    checked,
    default_of,
    not_negative,
    number,
    or_infinite,
    or_none,
    positive,
    scheduled,
    whole,
)
from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer
from sb3_snd.ppo_snd.policies import StreamActorCriticPolicy
from sb3_snd.rewards.rollout import check_rollout
from sb3_snd.wrappers import VecIntrinsicReward

MOST_STEPS = 1_000_000  # most steps per environment in a rollout, for which memory is allocated at the beginning
DEEPEST = 100  # largest number of hidden layers
#: arguments that the algorithm passes to a policy
GIVEN = ("observation_space", "action_space", "lr_schedule", "use_sde", "n_streams")
ARGUMENTS = {
    "learning_rate": scheduled(not_negative(1)),  # enjoy loads models with 0
    "n_steps": whole(1, MOST_STEPS),
    "batch_size": whole(1),
    "n_epochs": whole(1, MOST_EPOCHS),
    "gamma": DISCOUNT,
    "gamma_int": DISCOUNT,
    "gae_lambda": SHARE,
    "clip_range": scheduled(or_infinite(not_negative(LARGEST))),
    "clip_range_vf": or_none(scheduled(or_infinite(positive(LARGEST)))),
    "normalize_advantage": FLAG,
    "ent_coef": WEIGHT,
    "vf_coef": not_negative(LARGEST_WEIGHT),
    "max_grad_norm": or_infinite(positive(LARGEST)),
    "use_sde": FLAG,
    "sde_sample_freq": whole(-1),
    "target_kl": or_none(or_infinite(positive(LARGEST))),
    "stats_window_size": whole(1, 1_000_000),
    "tensorboard_log": PATH,
    "verbose": VERBOSE,
    "seed": SEED,
    "ext_coef": scheduled(WEIGHT),
    "int_coef": scheduled(WEIGHT),
    "intrinsic_episodic": FLAG,
    "precision": PRECISION,
    "cuda_graphs": FLAG,
}
#: arguments that the algorithm passes to its rollout buffer
BUFFER_GIVEN = ("buffer_size", "observation_space", "action_space", "device", "gae_lambda", "gamma", "n_envs")
STREAM_GIVEN = ("gamma_int", "ext_coef", "int_coef", "intrinsic_episodic")


def check_discount(name: str, value: float) -> None:
    """
    Check a discount factor.

    :param name: Name of the argument
    :param value: Its value
    :raises ValueError: if it does not lie in [0, 1]
    """
    checked({name: value}, {name: DISCOUNT})


def find_env(env: Any, verbose: int) -> GymEnv:
    """
    Create the environment if an id is given, and check it.

    :param env: Value of the argument ``env``
    :param verbose: Whether to report what is created
    :return: the environment
    :raises ValueError: if it is not an environment, or if none can be created from it
    """
    must = f"env={env!r} must be an environment, or the Gymnasium id of one"
    if isinstance(env, str):
        try:
            return maybe_make_env(env, verbose)
        except (gym.error.Error, ImportError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{must}: {reason}.") from error
    if not (hasattr(env, "step") and hasattr(env, "reset")):
        raise ValueError(f"{must}.")
    check_unwrapped(env)
    return env


def check_sizes(env: GymEnv, given: dict[str, Any], trains_snd: bool) -> None:
    """
    Check that neither PPO nor SND would compute the standard deviation of a single number.

    :param env: The environment
    :param given: Arguments of PPO by name
    :param trains_snd: Whether SND is trained on the rollouts
    :raises ValueError: if PPO would take the standard deviation of one advantage, or SND that of one state
    """
    n_envs = env.num_envs if isinstance(env, VecEnv) else 1
    if trains_snd:
        check_rollout(given.get("n_steps", 2) * n_envs)
    if not given["normalize_advantage"]:
        return
    for name, size in (("batch_size", given.get("batch_size", 2)), ("n_steps", given.get("n_steps", 2) * n_envs)):
        if size < 2:
            raise ValueError(
                f"{name}=1 must be >= 2 with normalize_advantage=True"
                " (n_steps * n_envs): the standard deviation of a single advantage is undefined."
            )


def check_policy(policy: Any, aliases: Iterable[str]) -> None:
    """
    Check the argument ``policy``.

    :param policy: Its value
    :param aliases: Names of policies
    :raises ValueError: if it is not a policy
    """
    names = list(aliases)
    known = isinstance(policy, str) and policy in names
    if not known and not (isinstance(policy, type) and issubclass(policy, BasePolicy)):
        listed = ", ".join(map(repr, names))
        raise ValueError(
            f"policy={policy!r} must be {listed} or a subclass of sb3_snd.ppo_snd.policies.StreamActorCriticPolicy."
        )


def check_buffer(buffer_class: Any, buffer_kwargs: Any) -> None:
    """
    Check the rollout buffer's class and arguments.

    :param buffer_class: Value of ``rollout_buffer_class``
    :param buffer_kwargs: Value of ``rollout_buffer_kwargs``
    :raises ValueError: if the class does not support two streams, or does not take the arguments
    """
    buffer_class = StreamRolloutBuffer if buffer_class is None else buffer_class
    if not (isinstance(buffer_class, type) and issubclass(buffer_class, StreamRolloutBuffer)):
        raise ValueError(f"rollout_buffer_class={buffer_class!r} must be None or a subclass of StreamRolloutBuffer.")
    check_names("rollout_buffer_kwargs", buffer_kwargs, buffer_class, (*BUFFER_GIVEN, *STREAM_GIVEN))


def check_unwrapped(env: GymEnv | str | None) -> None:
    """
    Check that an environment has no intrinsic reward yet.

    :param env: The environment
    :raises ValueError: if it already has an intrinsic reward
    """
    if isinstance(env, VecEnv) and is_vecenv_wrapped(env, VecIntrinsicReward):
        raise ValueError(
            "The environment already has an intrinsic reward: pass the environment without VecIntrinsicReward to PPOSND,"
            " or use the wrapper with an unmodified algorithm and SNDCallback."
        )


def _are_widths(value: Any) -> bool:
    width = whole(1, WIDEST)
    return isinstance(value, (list, tuple)) and len(value) <= DEEPEST and all(map(width.holds, value))


def _is_net_arch(value: Any) -> bool:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]  # SB3's format before 1.8
    if isinstance(value, dict):
        return set(value) <= {"pi", "vf"} and all(map(_are_widths, value.values()))
    return _are_widths(value)


def _is_activation(value: Any) -> bool:
    try:
        return isinstance(value, type) and issubclass(value, nn.Module) and value()(th.zeros(1, 4)).shape == (1, 4)
    except Exception:  # a layer may raise anything
        return False


def _subclass(parent: type) -> Allowed:
    return Allowed(lambda value: isinstance(value, type) and issubclass(value, parent), f"be a subclass of {parent.__name__}")


POLICY_ARGUMENTS = {
    "net_arch": or_none(
        Allowed(
            _is_net_arch,
            f"be a list of at most {DEEPEST} widths, integers from 1 to {WIDEST}, or a dict of such lists, 'pi' and 'vf'",
        )
    ),
    "activation_fn": Allowed(_is_activation, "be a class of element-wise layers, such as torch.nn.Tanh"),
    **dict.fromkeys(
        ("ortho_init", "full_std", "use_expln", "squash_output", "share_features_extractor", "normalize_images"), FLAG
    ),
    "log_std_init": number(-10, 10),
    "features_extractor_class": _subclass(BaseFeaturesExtractor),
    "optimizer_class": _subclass(th.optim.Optimizer),
}


def check_policy_kwargs(policy_class: type["StreamActorCriticPolicy"], policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Check the arguments of a policy.

    :param policy_class: The policy
    :param policy_kwargs: Its arguments by name
    :return: the same arguments, with NumPy scalars converted to Python numbers
    :raises ValueError: for an argument that the policy does not take, or a value out of its range
    """
    check_names("policy_kwargs", policy_kwargs, policy_class, GIVEN)
    plain = checked(policy_kwargs, POLICY_ARGUMENTS)
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
