import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import CountingEnv
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize, VecTransposeImage

from sb3_snd import PPOSND
from sb3_snd.envs import VecPositiveReward, make_atari_env, make_procgen_env
from sb3_snd.ppo_snd.frame_stacks import FrameStore, FrameUploader, ObsUploader, StackUploader, find_stack

SIZES = dict(n_steps=16, batch_size=16, n_epochs=1, device="cpu", seed=0)


def counting(n_envs=2, **kwargs):
    return DummyVecEnv([lambda i=i: CountingEnv(i, image=True, **kwargs) for i in range(n_envs)])


def transposed(env):
    return VecTransposeImage(env)


class Rgb(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    def observation(self, obs):
        return np.concatenate([obs, obs + 1, obs + 2], axis=2)


class Grainy(gym.ObservationWrapper):
    """No two pixels, rows or frames alike."""

    def observation(self, obs):
        return np.random.default_rng(int(obs[0, 0, 0])).integers(256, size=obs.shape, dtype=np.uint8)


class Repeating(VecFrameStack):
    """A user's own, whose stacks may begin otherwise."""


def stacked_rgb():
    return VecFrameStack(
        transposed(DummyVecEnv([lambda i=i: Rgb(CountingEnv(i, length=4 + i, image=True)) for i in range(3)])), 2
    )


@pytest.mark.parametrize(
    ("make_env", "expected"),
    [
        (lambda: transposed(VecFrameStack(counting(), 4)), 4),
        (lambda: VecMonitor(VecFrameStack(transposed(counting()), 2)), 2),
        (lambda: transposed(counting()), 1),
        (lambda: VecFrameStack(counting(), 4), 1),  # channels last
        (lambda: VecFrameStack(transposed(VecFrameStack(counting(), 4)), 2, channels_order="last"), 1),  # along the width
        (lambda: Repeating(transposed(counting()), 2), 1),  # of its own kind
        (lambda: VecNormalize(transposed(VecFrameStack(counting(), 4)), norm_obs=False), 1),  # nobody says what it does
        (lambda: VecFrameStack(DummyVecEnv([CountingEnv]), 4), 1),  # vectors
        (lambda: make_atari_env("MontezumaRevengeNoFrameskip-v4", 2, n_stack=3), 3),
        pytest.param(lambda: make_procgen_env("procgen-jumper-v0", 2, n_stack=2), 2, marks=pytest.mark.procgen),
    ],
)
def test_who_stacks(make_env, expected):
    env = make_env()
    assert find_stack(env) == expected
    env.close()


@pytest.mark.parametrize(
    "make_env",
    [
        lambda: transposed(VecFrameStack(counting(3, length=5), 4)),
        lambda: VecFrameStack(transposed(counting(2, length=2, truncated=True)), 4),
        stacked_rgb,
        lambda: make_atari_env("MontezumaRevengeNoFrameskip-v4", 2, seed=0, frame_size=36, max_episode_steps=7),
        lambda: make_atari_env("BreakoutNoFrameskip-v4", 2, seed=0, frame_size=36),
        lambda: transposed(counting(2)),
    ],
    ids=["grey", "short-episodes", "rgb", "time-limit", "game-over", "not-stacked"],
)
def test_observations_come_back_as_they_were(make_env):
    """
    Rollouts with episodes that end within them, at their last step, and go on from one to the next. Where the game ends
    by itself, that takes longer.
    """
    env = make_env()
    rollouts = 20 if isinstance(env, VecPositiveReward) and env.unwrapped.max_episode_frames > 1000 else 3
    model = PPOSND("CnnPolicy", env, **SIZES)
    buffer = model.rollout_buffer
    n_stack = find_stack(env)
    assert buffer.store.n_stack == n_stack
    assert (
        buffer.store._frames.nelement() < (20 / 16) * 16 * env.num_envs * np.prod(env.observation_space.shape) / n_stack + 4e4
    )
    given, checked = [], []
    add = buffer.add

    def remember(obs, *args):
        given.append(obs.clone())
        add(obs, *args)

    def compare():
        read = buffer.store.read(th.arange(16 * env.num_envs)).view(16, env.num_envs, *env.observation_space.shape)
        assert th.equal(read, th.stack(given[-16:]))
        channels = env.observation_space.shape[0] // n_stack
        assert th.equal(buffer.observations, read[:, :, -channels:])
        checked.append(int(buffer.episode_starts.sum()))
        assert not buffer._stores_stacks

    buffer.add = remember
    model.train = compare
    model.learn(rollouts * 16 * env.num_envs)
    assert len(checked) == rollouts and sum(checked) > env.num_envs
    env.close()


def test_environments_that_somebody_else_has_stepped():
    """Their stacks are broken in the midst of a rollout, which is then stored as it is; the next one is not."""
    env = transposed(VecFrameStack(counting(length=50), 4))
    model = PPOSND("CnnPolicy", env, **SIZES).learn(32)
    buffer, given, rollouts = model.rollout_buffer, [], []
    add = buffer.add
    buffer.add = lambda obs, *args: given.append(obs.clone()) or add(obs, *args)
    model.train = lambda: rollouts.append((buffer._stores_stacks, buffer.store.read(th.arange(32)).view(16, 2, 4, 36, 36)))
    for _ in range(5):
        env.step(np.zeros(2, dtype=int))
    model.learn(64, reset_num_timesteps=False)
    assert [broken for broken, _ in rollouts] == [True, False]
    assert th.equal(th.cat([read for _, read in rollouts]), th.stack(given))


def test_frames_are_stored_whole_where_novelty_reads_more_than_the_newest():
    """A stack of three grey frames looks like one in colour."""
    env = transposed(VecFrameStack(counting(), 3))
    assert find_stack(env) == 3
    assert PPOSND("CnnPolicy", env, **SIZES).rollout_buffer.store.n_stack == 1
    assert PPOSND("CnnPolicy", env, snd=None, **SIZES).rollout_buffer.store.n_stack == 3


def test_another_environment_may_stack_otherwise():
    model = PPOSND("CnnPolicy", transposed(VecFrameStack(counting(), 2)), **SIZES)
    assert model.rollout_buffer.store.n_stack == 2
    hidden = VecNormalize(transposed(VecFrameStack(counting(), 2)), norm_obs=False)
    model.set_env(hidden)
    assert model.rollout_buffer.store.n_stack == 1
    model.set_env(transposed(VecFrameStack(counting(), 2)))
    assert model.rollout_buffer.store.n_stack == 2


def test_rows_by_hand():
    """Two environments, stacks of three; an episode of the second begins at step 1."""
    store = FrameStore(3, 2, (3, 1, 1), th.uint8, "cpu", n_stack=3)
    observations = [[[0, 1, 2], [0, 0, 11]], [[1, 2, 3], [0, 0, 12]], [[2, 3, 4], [0, 12, 13]]]
    starts = np.array([[0, 0], [0, 1], [0, 0]], dtype=np.float32)
    observations = np.array(observations, dtype=np.uint8)[..., None, None]
    wrong = np.array([[9, 9, 9], [0, 0, 12]], dtype=np.uint8)[..., None, None]
    for step, obs in enumerate(observations):
        for shown, continues in [(wrong, False), (obs, True)] * (step > 0):
            uploader = FrameUploader(2, (3, 1, 1), np.uint8, th.device("cpu"), 3)
            uploader.restart(observations[step - 1])
            assert uploader.upload(shown, starts[step] > 0).continues_previous is continues
        store.store(step, th.as_tensor(obs))
    store.finish(starts)
    assert store.read(th.tensor([3, 0, 5, 4]))[..., 0, 0].tolist() == [[0, 0, 12], [0, 1, 2], [0, 12, 13], [2, 3, 4]]
    assert store.newest[..., 0, 0, 0].tolist() == [[2, 11], [3, 12], [4, 13]]


@pytest.mark.parametrize("uploader_class", [StackUploader, FrameUploader])
@pytest.mark.parametrize("n_stack", [1, 3])
def test_uploaded_stacks_are_those_of_the_environment(n_stack, uploader_class):
    """Episodes of 4 and 5 steps; the newest frame alone travels, but at the start and where somebody else stepped."""
    venv = DummyVecEnv([lambda i=i: Grainy(CountingEnv(i, length=4 + i, image=True)) for i in range(2)])
    env = VecFrameStack(transposed(venv), n_stack)
    uploader = uploader_class(2, (n_stack, 36, 36), np.uint8, th.device("cpu"), n_stack)
    kept = [(uploader.restart(env.reset()).tensor, env.stacked_obs.stacked_obs.copy())]
    uploaded_whole = []
    for step in range(20):
        if step == 12:  # within both episodes
            env.step(np.zeros(2, dtype=int))
        obs, _, dones, _ = env.step(np.zeros(2, dtype=int))
        tensor, continues_previous = uploader.upload(obs, dones)
        kept.append((tensor, obs.copy()))
        uploaded_whole.append(not continues_previous)
    assert np.flatnonzero(uploaded_whole).tolist() == ([] if n_stack == 1 else [12])
    for uploaded, obs in kept:  # also those of the past: nothing is overwritten
        assert np.array_equal(uploaded.numpy(), obs)


def test_older_frames_are_compared_in_every_pixel():
    """Each of 8 x 36 pixels of the older frames, changed by one in one of two environments; the newest one may be anything."""
    frames = np.random.default_rng(0).integers(255, size=(2, 4, 8, 36), dtype=np.uint8)
    for env, frame, row, column in np.ndindex(2, 2, 8, 36):
        uploader = FrameUploader(2, (3, 8, 36), np.uint8, th.device("cpu"), 3)
        uploader.restart(frames[:, :3])
        obs = frames[:, 1:].copy()
        obs[env, frame, row, column] += 1
        uploaded = uploader.upload(obs, np.zeros(2, dtype=bool))
        assert np.array_equal(uploaded.tensor.numpy(), obs) and not uploaded.continues_previous
        obs = np.concatenate([obs[:, 1:], 255 - obs[:, -1:]], axis=1)
        uploaded = uploader.upload(obs, np.zeros(2, dtype=bool))
        assert np.array_equal(uploaded.tensor.numpy(), obs) and uploaded.continues_previous


def test_rollouts_from_uploaded_frames_are_the_same():
    rollouts = []
    for uploader in (StackUploader, FrameUploader, ObsUploader):
        env = VecFrameStack(transposed(counting(2, length=5)), 4)
        model = PPOSND("CnnPolicy", env, **SIZES)
        assert type(model._uploader) is StackUploader
        if uploader is FrameUploader:  # as on CUDA
            model._uploader = FrameUploader(2, (4, 36, 36), np.uint8, model.device, 4)
        elif uploader is ObsUploader:  # stacks are then stored as they are
            model._uploader = ObsUploader(model.device)
        model.learn(64)
        assert model.rollout_buffer._stores_stacks is (uploader is ObsUploader)
        batch = next(model.rollout_buffer.get())
        rollouts.append((*batch, *model.policy.parameters()))
    for one, *others in zip(*rollouts, strict=True):
        assert all(th.equal(one, other) for other in others)


def test_a_rollout_is_stored_whole_where_somebody_else_stepped_during_it():
    env = VecFrameStack(transposed(counting(2, length=9)), 4)
    model = PPOSND("CnnPolicy", env, **SIZES)
    seen = []

    class Meddling(BaseCallback):
        def _on_step(self):
            seen.append(self.locals["obs_tensor"].clone())
            if self.n_calls == 5:
                env.step(np.zeros(2, dtype=int))
            return True

    model.learn(32, callback=Meddling())
    assert model.rollout_buffer._stores_stacks
    assert th.equal(model.rollout_buffer.store.read(th.arange(32)), th.cat(seen))
