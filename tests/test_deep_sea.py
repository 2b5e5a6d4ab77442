"""Deep Sea: returns that can be told beforehand."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from sb3_snd.envs.deep_sea import DeepSea


def play(env, go_right):
    """Go right in the steps where ``go_right`` says so. :return: observations and rewards"""
    observations, rewards, ended = [env.reset()[0]], [], False
    while not ended:
        right = env.unwrapped.right[env.unwrapped.row, env.unwrapped.column]
        obs, reward, ended, truncated, _ = env.step(right if go_right[len(rewards)] else 1 - right)
        assert not truncated
        observations.append(obs)
        rewards.append(reward)
    return observations, rewards


@pytest.mark.parametrize("size", [2, 10, 23])
def test_only_the_way_along_the_diagonal_finds_the_treasure(size):
    env = gym.make("DeepSea-v0", size=size)
    observations, rewards = play(env, [True] * size)
    np.testing.assert_allclose(rewards, [-0.01 / size] * (size - 1) + [1 - 0.01 / size])
    assert sum(rewards) == pytest.approx(0.99)
    assert [obs.argmax() for obs in observations[:-1]] == [step * (size + 1) for step in range(size)]  # the diagonal
    assert all(obs.sum() == 1 for obs in observations[:-1]) and observations[-1].sum() == 0

    for wrong in range(size):
        _, rewards = play(env, [step != wrong for step in range(size)])
        assert sum(rewards) == pytest.approx(-0.01 * (size - 1) / size)  # all strokes but one, no treasure
    assert sum(play(env, [False] * size)[1]) == 0.0


def test_both_actions_mean_right_somewhere_and_always_the_same():
    first, second = DeepSea(10).right, DeepSea(10).right
    assert set(first.flatten().tolist()) == {0, 1} and (first == second).all()


def test_checker_and_bad_input():
    check_env(DeepSea(4))
    with pytest.raises(ValueError, match="size=1 must be an integer >= 2"):
        DeepSea(1)
