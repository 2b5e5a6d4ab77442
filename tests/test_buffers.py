from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer

pytestmark = pytest.mark.numbers

GOLDEN = np.load(Path(__file__).parent / "golden" / "gae.npz")
SPACES = spaces.Box(-1, 1, (3,)), spaces.Discrete(4)


def fill(buffer, rewards, dones, values):
    """Observations count transitions, so that minibatches can be recognised."""
    n_steps, n_envs = dones.shape
    starts = np.concatenate([np.zeros((1, n_envs)), dones[:-1]])
    for t in range(n_steps):
        obs = np.repeat(t * n_envs + np.arange(n_envs)[:, None], 3, axis=1).astype(np.float32)
        obs = th.as_tensor(obs) if isinstance(buffer, StreamRolloutBuffer) else obs
        action = np.full((n_envs, 1), t % 4)
        buffer.add(obs, action, rewards[t], starts[t], th.as_tensor(values[t]), th.full((n_envs,), -0.5 * t))
    buffer.compute_returns_and_advantage(th.as_tensor(values[n_steps]), dones[-1])


def stream_buffer(n_steps, n_envs, **kwargs):
    return StreamRolloutBuffer(n_steps, *SPACES, device="cpu", n_envs=n_envs, **kwargs)


def two_streams(**kwargs):
    options = dict(gae_lambda=0.95, gamma=0.998, gamma_int=0.99, ext_coef=2.0, int_coef=1.0, **kwargs)
    buffer = stream_buffer(16, 6, **options)
    fill(buffer, GOLDEN["rewards"], GOLDEN["dones"], GOLDEN["values"])
    return buffer


def test_gae_golden():
    buffer = two_streams()
    for stream, name in enumerate(("ext", "int")):
        np.testing.assert_allclose(buffer.advantages[..., stream], GOLDEN[f"advantages_{name}"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(buffer.returns[..., stream], GOLDEN[f"returns_{name}"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(buffer.advantages @ buffer.coefs, GOLDEN["advantages"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stream", [0, 1])
def test_each_stream_is_sb3s_gae(stream):
    buffer = two_streams()
    stock = RolloutBuffer(16, *SPACES, device="cpu", n_envs=6, gae_lambda=0.95, gamma=(0.998, 0.99)[stream])
    fill(stock, GOLDEN["rewards"][..., stream], GOLDEN["dones"], GOLDEN["values"][..., stream])
    np.testing.assert_array_equal(buffer.advantages[..., stream], stock.advantages)
    np.testing.assert_array_equal(buffer.returns[..., stream], stock.returns)


def test_one_stream_gives_sb3s_minibatches_bit_for_bit():
    stock = RolloutBuffer(16, *SPACES, device="cpu", n_envs=6, gae_lambda=0.9, gamma=0.97)
    one = stream_buffer(16, 6, gae_lambda=0.9, gamma=0.97)
    fill(stock, GOLDEN["rewards"][..., 0], GOLDEN["dones"], GOLDEN["values"][..., 0])
    fill(one, GOLDEN["rewards"][..., :1], GOLDEN["dones"], GOLDEN["values"][..., :1])
    batches = []
    for buffer in (stock, one):
        np.random.seed(3)
        batches.append(list(buffer.get(32)) + list(buffer.get(32)))
    assert len(batches[0]) == len(batches[1]) == 6
    for expected, got in zip(*batches, strict=True):
        assert all(th.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_minibatches_of_two_streams():
    buffer = two_streams()
    np.random.seed(0)
    seen = []
    for batch in buffer.get(24):
        rows = batch.observations[:, 0].long()
        seen += rows.tolist()
        step, env = rows // 6, rows % 6
        np.testing.assert_allclose(batch.advantages, GOLDEN["advantages"][step, env], rtol=1e-4, atol=1e-6)
        assert batch.returns.shape == batch.old_values.shape == (48,)
        np.testing.assert_array_equal(batch.old_values.reshape(24, 2), GOLDEN["values"][step, env])
        np.testing.assert_allclose(batch.returns.reshape(24, 2)[:, 1], GOLDEN["returns_int"][step, env], rtol=1e-4)
        np.testing.assert_array_equal(batch.old_log_prob, -0.5 * step)
        np.testing.assert_array_equal(batch.actions[:, 0], step % 4)
    assert sorted(seen) == list(range(96))


def test_non_episodic_intrinsic_stream_by_hand():
    """Two steps, an episode's end after the first; lambda 1, so that advantages are returns minus values."""
    buffer = stream_buffer(2, 1, gae_lambda=1.0, gamma=0.5, gamma_int=0.5, intrinsic_episodic=False)
    rewards = np.array([[[1.0, 1.0]], [[2.0, 2.0]]], dtype=np.float32)
    values = np.zeros((3, 1, 2), dtype=np.float32)
    values[2] = 4.0
    fill(buffer, rewards, np.array([[1.0], [0.0]]), values)
    # extrinsic: 2 + 0.5 * 4 = 4, then 1; intrinsic: 4, then 1 + 0.5 * 4 = 3
    assert buffer.returns[:, 0].tolist() == [[1.0, 3.0], [4.0, 4.0]]
    # a time limit adds the terminal value to the extrinsic stream only
    assert buffer.discount(np.array([10.0, 10.0], dtype=np.float32)).tolist() == [5.0, 0.0]
    assert two_streams().discount(np.ones(2, dtype=np.float32)) == pytest.approx([0.998, 0.99])


def test_observations_keep_their_dtype_and_reset_forgets_ends():
    space = spaces.Box(0, 255, (4, 36, 36), np.uint8)
    buffer = StreamRolloutBuffer(3, space, SPACES[1], device="cpu", n_envs=2, gamma_int=0.9)
    assert buffer.observations.dtype == th.uint8 and buffer.observations.shape == (3, 2, 4, 36, 36)
    buffer.terminal_observations[0] = np.zeros(space.shape)
    buffer.reset()
    assert buffer.terminal_observations == {}
    rollout = buffer.rollout(np.zeros((2, *space.shape)), buffer.actions)
    assert rollout.observations.data_ptr() == buffer.observations.data_ptr()
