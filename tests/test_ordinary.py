"""Arguments of native vector environments, divided by hand between ``gym.make`` and ``AtariWrapper``."""

import ale_py
import gymnasium as gym
import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_snd.envs import AtariWrapper, as_ordinary
from sb3_snd.envs.ordinary import with_defaults

gym.register_envs(ale_py)

PONG, ALE_PONG, COINRUN = "PongNoFrameskip-v4", "ALE/Pong-v5", "procgen-coinrun-v0"
WRAPPER = "sb3_snd.envs.AtariWrapper"
OTHER = "gymnasium.wrappers.TransformObservation"
STICKY = {"repeat_action_probability": 0.25}
WRAPPED = {"frame_size": 84, "frame_skip": 2, "max_episode_steps": 100, "reward": "sign"}


@pytest.mark.parametrize(
    ("env_id", "wrapper", "env_kwargs", "expected"),
    [
        (PONG, WRAPPER, {}, (WRAPPER, {})),
        (PONG, WRAPPER, STICKY, (WRAPPER, STICKY)),
        (PONG, WRAPPER, {**STICKY, **WRAPPED, "num_threads": 3}, ({WRAPPER: WRAPPED}, STICKY)),
        (ALE_PONG, WRAPPER, STICKY, (WRAPPER, {**STICKY, "frameskip": 1})),
        ("Pong-v0", WRAPPER, {}, (WRAPPER, {"frameskip": 1})),
        # what was divided before
        (ALE_PONG, {WRAPPER: WRAPPED}, {"frameskip": 1}, ({WRAPPER: WRAPPED}, {"frameskip": 1})),
        (PONG, {WRAPPER: {"frame_size": 36}}, {"mode": 1}, ({WRAPPER: {"frame_size": 36}}, {"mode": 1})),
        # env_kwargs come later than the wrapper's own arguments
        (PONG, [{WRAPPER: {"frame_size": 36, "frame_skip": 3}}], WRAPPED, ([{WRAPPER: WRAPPED}], {})),
        # which the native environment takes there too
        (PONG, {WRAPPER: {"num_threads": 1, "frame_skip": 3, **STICKY}}, {}, ({WRAPPER: {"frame_skip": 3}}, STICKY)),
        (
            ALE_PONG,
            [{WRAPPER: STICKY}],
            {"repeat_action_probability": 0.5},
            ([WRAPPER], {"repeat_action_probability": 0.5, "frameskip": 1}),
        ),
        (PONG, [OTHER, WRAPPER], {"frame_skip": 2}, ([OTHER, {WRAPPER: {"frame_skip": 2}}], {})),
        (PONG, [WRAPPER, {OTHER: {}}], {"frame_skip": 2}, ([{WRAPPER: {"frame_skip": 2}}, {OTHER: {}}], {})),
        (COINRUN, None, {"num_threads": 2, "num_levels": 5}, (None, {"num_levels": 5})),
        # environments that no native one stands for
        (ALE_PONG, None, {"frameskip": 4, "num_threads": 2}, (None, {"frameskip": 4, "num_threads": 2})),
        (PONG, OTHER, {"seed": 3, "max_episode_steps": 7}, (OTHER, {"seed": 3, "max_episode_steps": 7})),
        ("CartPole-v1", None, {"n_envs": 3}, (None, {"n_envs": 3})),
    ],
)
def test_arguments_are_divided(env_id, wrapper, env_kwargs, expected):
    given = dict(env_kwargs)
    assert as_ordinary(env_id, wrapper, env_kwargs) == expected
    assert env_kwargs == given


@pytest.mark.parametrize(
    ("env_id", "wrapper", "env_kwargs", "message"),
    [
        (
            PONG,
            WRAPPER,
            {"n_stack": 3},
            "n_stack=3 cannot be an argument of the environment here: use the hyperparameter frame_stack instead",
        ),
        (PONG, {WRAPPER: {"n_stack": 3}}, {}, "n_stack=3 cannot be an argument of the environment here: use the"),
        (
            COINRUN,
            None,
            {"n_stack": 3},
            "n_stack=3 cannot be an argument of the environment here: use the hyperparameter frame_stack instead",
        ),
        (COINRUN, None, {"seed": 3}, "seed=3 cannot be .*: use --seed instead"),
        (PONG, WRAPPER, {"n_envs": 3}, "n_envs=3 cannot be .*: use the hyperparameter n_envs instead"),
        (ALE_PONG, WRAPPER, {"frameskip": 4}, "frameskip=4 cannot be .*: use frame_skip instead"),
        (PONG, WRAPPER, {"max_num_frames_per_episode": 400}, "=400 cannot be .*: use max_episode_steps instead"),
        (PONG, WRAPPER, {"num_threads": -1}, "num_threads=-1 must be an integer >= 0"),
        (COINRUN, None, {"num_threads": "all"}, "num_threads='all' must be an integer >= 0"),
    ],
)
def test_arguments_that_are_given_otherwise(env_id, wrapper, env_kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        as_ordinary(env_id, wrapper, env_kwargs)
    assert "\n" not in str(error.value)


def test_actions_stick_alike_where_nothing_is_asked_for():
    """The paper's and ALE's vector environment's probability is 0.25, that of ids with NoFrameskip-v4 is 0."""
    assert with_defaults(WRAPPER, {"mode": 1}) == {**STICKY, "mode": 1}
    assert with_defaults([{WRAPPER: {}}], {"repeat_action_probability": 0.0}) == {"repeat_action_probability": 0.0}
    assert with_defaults({WRAPPER: {"repeat_action_probability": 0.5}}, {"mode": 1}) == {"mode": 1}
    assert with_defaults(None, {}) == with_defaults(OTHER, {}) == {}


def test_an_action_is_repeated_and_time_is_counted_as_asked_for():
    wrapper, made = as_ordinary(ALE_PONG, WRAPPER, {**STICKY, "frame_size": 40, "frame_skip": 3, "max_episode_steps": 5})
    venv = make_vec_env(ALE_PONG, wrapper_class=AtariWrapper, wrapper_kwargs=wrapper[WRAPPER], env_kwargs=made)
    assert venv.reset().shape == (1, 40, 40, 1)
    frames, ends = [], []
    for _ in range(6):
        _, _, dones, infos = venv.step([0])
        frames.append(infos[0]["episode_frame_number"])
        ends.append(bool(dones[0]))
    assert frames == [3, 6, 9, 12, 15, 3] and ends == [False] * 4 + [True, False]
