"""Checks of what ``PPOSND`` is given: arguments, environment, policy and buffer. Each error is one sentence.

Knows SB3's environments and policies, but no network or update.
"""

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, is_vecenv_wrapped

from sb3_snd.common.precision import PRECISION
from sb3_snd.common.validation import (
    BOOL,
    DISCOUNT,
    FRACTION,
    MAX_EPOCHS,
    MAX_NUMBER,
    MAX_WEIGHT,
    PATH,
    SEED,
    VERBOSE,
    WEIGHT,
    Rule,
    check_device,
    check_names,
    integer,
    non_negative,
    or_infinite,
    or_none,
    positive,
    scheduled,
    validate,
)
from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer
from sb3_snd.ppo_snd.policies import StreamActorCriticPolicy
from sb3_snd.ppo_snd.policy_kwargs import check_policy_kwargs
from sb3_snd.rewards.rollout import check_rollout
from sb3_snd.wrappers import VecIntrinsicReward

MAX_STEPS = 1_000_000  # per environment in a rollout, for which memory is allocated at the beginning
RULES = {
    "learning_rate": scheduled(non_negative(1)),  # enjoy loads models with 0
    "n_steps": integer(1, MAX_STEPS),
    "batch_size": integer(1),
    "n_epochs": integer(1, MAX_EPOCHS),
    "gamma": DISCOUNT,
    "gamma_int": DISCOUNT,
    "gae_lambda": FRACTION,
    "clip_range": scheduled(or_infinite(non_negative(MAX_NUMBER))),
    "clip_range_vf": or_none(scheduled(or_infinite(positive(MAX_NUMBER)))),
    "normalize_advantage": BOOL,
    "rollout_buffer_kwargs": or_none(Rule(lambda value: isinstance(value, dict), "be a dict")),
    "ent_coef": WEIGHT,
    "vf_coef": non_negative(MAX_WEIGHT),
    "max_grad_norm": or_infinite(positive(MAX_NUMBER)),
    "use_sde": BOOL,
    "sde_sample_freq": integer(-1),
    "target_kl": or_none(or_infinite(positive(MAX_NUMBER))),
    "stats_window_size": integer(1, 1_000_000),
    "tensorboard_log": PATH,
    "verbose": VERBOSE,
    "seed": SEED,
    "ext_coef": scheduled(WEIGHT),
    "int_coef": scheduled(WEIGHT),
    "intrinsic_episodic": BOOL,
    "precision": PRECISION,
    "cuda_graphs": BOOL,
}
#: arguments that the algorithm passes to its rollout buffer: those of every buffer, then those of the streams
SET_BY_ALGORITHM = (
    *("buffer_size", "observation_space", "action_space", "device", "gae_lambda", "gamma", "n_envs"),
    *("gamma_int", "ext_coef", "int_coef", "intrinsic_episodic"),
)


def check_discount(name: str, value: float) -> None:
    """
    Check a discount factor.

    :param name: Name of the argument
    :param value: Its value
    :raises ValueError: if it does not lie in [0, 1]
    """
    validate({name: value}, {name: DISCOUNT})


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
    sizes = {"batch_size": given.get("batch_size", 2), "n_steps": given.get("n_steps", 2) * n_envs}
    for name, size in sizes.items():
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
        raise ValueError(f"policy={policy!r} must be {listed} or a subclass of sb3_snd.policies.StreamActorCriticPolicy.")


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
    check_names("rollout_buffer_kwargs", buffer_kwargs, buffer_class, SET_BY_ALGORITHM)


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


def check_construction(
    policy: Any,
    aliases: Iterable[str],
    env: Any,
    given: dict[str, Any],
    trains_snd: bool,
) -> GymEnv:
    """
    Check what ``PPOSND`` is constructed with, before anything is created.

    :param policy: Value of the argument ``policy``
    :param aliases: Names of policies
    :param env: Value of the argument ``env``
    :param given: Arguments of PPO by name
    :param trains_snd: Whether SND is trained on the rollouts
    :return: the environment
    :raises ValueError: if they do not fit each other
    """
    check_policy(policy, aliases)
    check_device(given.get("device", "auto"))
    env = find_env(env, given.get("verbose", 0))
    check_sizes(env, given, trains_snd)
    if given.get("use_sde") and not isinstance(env.action_space, spaces.Box):
        raise ValueError(f"use_sde=True needs continuous actions (a Box space), not {env.action_space}.")
    if policy == "MultiInputPolicy" and not isinstance(env.observation_space, spaces.Dict):
        raise ValueError(f"policy={policy!r} must be 'MlpPolicy' or 'CnnPolicy': {env.observation_space} is not a Dict space.")
    return env


def check_model(model: Any) -> None:
    """
    Check the attributes of a ``PPOSND``, and convert them to plain numbers. The constructor has checked its
    arguments, but ``load`` fills the attributes without it.

    :param model: The model, before its nets are created
    :raises ValueError: if an attribute is out of its range, or if two of them exclude each other
    """
    if not issubclass(model.policy_class, StreamActorCriticPolicy):
        raise ValueError(
            f"PPOSND needs a policy with one value per stream, not {model.policy_class.__name__}:"
            " use 'MlpPolicy', 'CnnPolicy', 'MultiInputPolicy'"
            " or a subclass of sb3_snd.policies.StreamActorCriticPolicy."
        )
    attributes = {name: value for name, value in vars(model).items() if name in RULES}
    for name, value in validate(attributes, RULES).items():
        setattr(model, name, value)
    model.policy_kwargs = check_policy_kwargs(model.policy_class, model.policy_kwargs)
    if model.policy_kwargs.get("squash_output") and not model.use_sde:
        raise ValueError("squash_output=True requires gSDE: set use_sde=True.")
    check_buffer(model.rollout_buffer_class, model.rollout_buffer_kwargs)
    if model.cuda_graphs and model.target_kl is not None:
        raise ValueError(
            f"target_kl={model.target_kl!r} cannot be used with cuda_graphs=True,"
            " which has no early stopping: drop one of them."
        )
    if model.cuda_graphs and model.rollout_buffer_class not in (None, StreamRolloutBuffer):
        raise ValueError("cuda_graphs=True supports only StreamRolloutBuffer: omit rollout_buffer_class.")
