"""Transitions from a replay buffer. None crosses a reset of the environment.

Knows SB3's replay buffers, but no nets or callback.
"""

import numpy as np
import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_snd.rewards.recompute import RecomputedReplayBuffer, environment_actions

MOST_WITHOUT_PAIR = 512  # number of transitions without a pair after which SND gives up


def sample_transitions(model: OffPolicyAlgorithm, batch_size: int) -> tuple | None:
    """
    Draw transitions.

    :param model: Model whose replay buffer holds observations that no ``VecNormalize`` above has normalised
    :param batch_size: Number of transitions, B
    :return: s_t and s_{t+1}, ``(B, *obs_shape)`` each, or dicts of these; the actions as the environment got
        them, ``(B, *action_shape)``; whether the episode ended other than by a time limit, ``(B,)`` bool.
        None if the buffer has no transition yet
    :raises ValueError: if the buffer will never have one, see :func:`sample_within_episodes`
    """
    buffer = model.replay_buffer
    assert buffer is not None
    if buffer.optimize_memory_usage:
        drawn = sample_within_episodes(buffer, batch_size)
        if drawn is None:
            return None
        states, successors, actions = drawn
        ends = th.zeros(batch_size, dtype=th.bool, device=actions.device)
    else:
        if isinstance(buffer, NStepReplayBuffer):  # the successors that it samples are n steps away
            samples = ReplayBuffer._get_samples(buffer, np.random.randint(buffer.size(), size=batch_size))
        elif isinstance(buffer, RecomputedReplayBuffer):  # the nets' training needs no rewards
            samples = buffer.draw(batch_size)
        else:
            samples = buffer.sample(batch_size)
        states, successors, actions = samples.observations, samples.next_observations, samples.actions
        ends = samples.dones.flatten() > 0
    return states, successors, environment_actions(model.action_space, actions), ends


def sample_within_episodes(
    buffer: ReplayBuffer,
    batch_size: int,
) -> tuple[th.Tensor, th.Tensor, th.Tensor] | None:
    """
    Draw pairs from a buffer with ``optimize_memory_usage``, which keeps one array of observations. The row
    after an episode's last one holds the first observation of the next episode, so pairs are drawn only from
    the other rows.

    :param buffer: The replay buffer
    :param batch_size: Number of pairs, B
    :return: s_t and s_{t+1}, ``(B, *obs_shape)`` each, and the stored actions; None if there is no pair yet
        among fewer than 512 transitions
    :raises ValueError: if there is no pair among 512 or more transitions, or in a full buffer
    """
    has_successor = buffer.dones == 0  # (buffer_size, n_envs)
    # The row at the write position is empty, or its observation is already the successor of the newest one
    has_successor[buffer.pos : buffer.pos + 1 if buffer.full else None] = False
    cells = np.flatnonzero(has_successor)
    if len(cells) == 0:
        if buffer.full or buffer.pos * buffer.n_envs >= MOST_WITHOUT_PAIR:
            raise ValueError(
                "SND finds no transition within an episode in the replay buffer, and optimize_memory_usage=True discards"
                " the last observation of each episode: omit it, or choose a larger buffer_size."
            )
        return None
    rows, envs = np.divmod(np.random.choice(cells, batch_size), buffer.n_envs)
    next_rows = (rows + 1) % buffer.buffer_size
    cells_of = ((buffer.observations, rows), (buffer.observations, next_rows), (buffer.actions, rows))
    states, successors, actions = (buffer.to_torch(array[row, envs]) for array, row in cells_of)
    return states, successors, actions


def end_interrupted_episodes(model: OffPolicyAlgorithm) -> None:
    """
    Mark the newest transitions as an episode's last if the environment was reset after them, which SB3 allows
    by ``set_env``. SB3 marks them itself for ``reset_num_timesteps=True`` and ``load_replay_buffer``.

    :param model: Model with a replay buffer; the buffer is changed only if it keeps one array of observations
    """
    buffer = model.replay_buffer
    if buffer is None or not buffer.optimize_memory_usage or not (buffer.full or buffer.pos > 0):
        return
    last_obs = model._last_obs if model.get_vec_normalize_env() is None else model._last_original_obs
    expected = buffer.observations[buffer.pos]  # (n_envs, *obs_shape)
    differs = (expected != np.reshape(last_obs, expected.shape)).reshape(buffer.n_envs, -1).any(axis=1)  # type: ignore[arg-type]
    buffer.dones[buffer.pos - 1, differs] = True
