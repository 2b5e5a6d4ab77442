"""State of environments and wrappers: after it is put back, the same steps lead to the same results."""

import numpy as np
import pytest
import torch as th
from devices import gpu, on
from fakes import CountingEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper, VecFrameStack, VecNormalize

from sb3_snd import VecIntrinsicReward
from sb3_snd.runs.env_state import get_env_state, set_env_state


def test_environments_that_hold_plain_data_only():
    """Wrappers, time limit and generators: after the state is put back the same steps lead to the same results."""

    def play(env, n_steps):
        return [np.concatenate([np.ravel(part) for part in env.step(np.array([t % 3, 1]))[:3]]) for t in range(n_steps)]

    def make():
        return VecFrameStack(VecNormalize(make_vec_env("MountainCar-v0", 2, seed=1)), 2)

    env = make()
    env.reset()
    play(env, 190)
    saved = get_env_state(env)
    expected = play(env, 50)  # over the time limit, into a random beginning
    other = make()
    other.reset()
    assert set_env_state(other, saved) == ""
    np.testing.assert_array_equal(play(other, 50), expected)
    assert sum(bool(row[-1]) for row in expected) > 0


class Telling(CountingEnv):
    """Not plain, but it can tell."""

    def __init__(self):
        super().__init__()
        self.secret = object()

    def get_state(self):
        return self.step_count

    def set_state(self, state):
        self.step_count = state


def test_environments_that_tell_their_state_and_those_that_cannot():
    env, other = DummyVecEnv([Telling]), DummyVecEnv([Telling])
    env.reset()
    other.reset()
    env.step(np.array([0]))
    env.step(np.array([0]))
    assert set_env_state(other, get_env_state(env)) == ""
    assert other.step(np.array([0]))[0].tolist() == [[0.0, 3.0]]

    class Secret(CountingEnv):
        def __init__(self):
            super().__init__()
            self.secret = object()

    env = VecNormalize(DummyVecEnv([Secret]))
    env.reset()
    env.ret_rms.mean = np.float64(7.0)
    other = VecNormalize(DummyVecEnv([Secret]))
    assert set_env_state(other, get_env_state(env)) == "Secret.secret (object) is not plain data"
    assert other.ret_rms.mean == 7.0  # the wrappers' state is there all the same
    with pytest.raises(ValueError, match=r"saved with the wrappers \['VecNormalize'\] but has \[\]: use the same wrappers"):
        set_env_state(DummyVecEnv([Secret]), get_env_state(env))


@pytest.mark.parametrize("state", [[7], {"count": 7}, ("method", 7)])
@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_a_state_may_look_like_anything(kind, state):
    """What ``get_state`` returns comes back to ``set_state`` as it was."""
    env = kind([Carrying] * 2)
    env.reset()
    env.set_attr("carried", state, indices=1)
    saved = get_env_state(env)
    env.set_attr("carried", None)
    assert set_env_state(env, saved) == ""
    assert env.get_attr("carried") == [0, state]
    env.close()


class Carrying(CountingEnv):
    carried = 0

    def get_state(self):
        return self.carried

    def set_state(self, state):
        self.carried = state


def test_a_vector_environment_may_tell_the_state_of_all():
    class Whole(DummyVecEnv):
        def get_state(self):
            return [env.step_count for env in self.envs]

        def set_state(self, state):
            for env, step_count in zip(self.envs, state, strict=True):
                env.step_count = step_count

    env = Whole([CountingEnv] * 2)
    env.reset()
    env.envs[1].step_count = 3
    saved = get_env_state(env)
    env.reset()
    assert set_env_state(env, saved) == ""
    assert [inner.step_count for inner in env.envs] == [0, 3]


class Remembering(CountingEnv):
    """Tells a state with tensors."""

    def get_state(self):
        return {"count": gpu(float(self.step_count)), "before": [gpu(1.0)]}

    def set_state(self, state):
        assert type(state["count"]) is th.Tensor and state["before"][0].item() == 1.0
        self.step_count = int(state["count"])


class Recent(VecEnvWrapper):
    """Keeps what it saw on its device."""

    def __init__(self, venv, tensor):
        super().__init__(venv)
        self.seen = [tensor(0.0), {"more": tensor(1.0)}]

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


def test_state_of_environments_and_wrappers_needs_no_device():
    env, other = Recent(DummyVecEnv([Remembering]), gpu), Recent(DummyVecEnv([Remembering]), on("meta"))
    for each in (env, other):
        each.reset()
    env.step(np.array([0]))
    env.step(np.array([0]))
    saved = get_env_state(env)
    assert b"OnGPU" not in saved
    assert set_env_state(other, saved) == ""
    assert other.seen[0].device.type == other.seen[1]["more"].device.type == "meta"
    assert other.step(np.array([0]))[0].tolist() == [[0.0, 3.0]]


def test_the_bonus_of_a_gpu_goes_on_without_one():
    env = VecIntrinsicReward(DummyVecEnv([CountingEnv]), "rnd", snd_kwargs={"norm_reward": True}, device="cpu")
    env.reset()
    env.scorer._claim = env.snd.claim()
    env.snd.scale.returns, env.last_obs = gpu(2.5), gpu(1.0, 2.0)
    env.scorer.statistics._sums, env.scorer.statistics._largest = {"novelty_mean": gpu(0.5)}, gpu(0.7)
    other = VecIntrinsicReward(DummyVecEnv([CountingEnv]), "rnd", snd_kwargs={"norm_reward": True}, device="cpu")
    other.reset()
    assert set_env_state(other, get_env_state(env)) == ""
    assert other.snd.scale.returns.item() == 2.5 and other.last_obs.tolist() == [1.0, 2.0]
    assert other.scorer.statistics._sums[
        "novelty_mean"
    ].item() == 0.5 and other.scorer.statistics._largest.item() == np.float32(0.7)
