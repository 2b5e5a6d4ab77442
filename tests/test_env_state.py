"""State of wrappers as plain data: saved without a device, put back on the device of what it replaces."""

import pickle
from collections import OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import torch as th
from fakes import CountingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from sb3_snd import VecIntrinsicReward
from sb3_snd.runs.env_state import get_env_state, plain_state, set_env_state, set_plain_state

Pair = namedtuple("Pair", ("first", "second"))


class OnGPU(th.Tensor):
    """Stands for a tensor on a GPU: it can be brought to the CPU, and pickled as it is it is of no use elsewhere."""

    def cpu(self, *_, **__):
        return self.as_subclass(th.Tensor).clone()

    def to(self, *args, **kwargs):
        assert th.device(kwargs.get("device", args[0])).type == "cpu"
        return self.cpu()

    def __reduce_ex__(self, _):
        raise RuntimeError("Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.")


def gpu(*numbers):
    return th.tensor(numbers).as_subclass(OnGPU)


class Holding:
    """Tensors wherever plain data may hold them."""

    def __init__(self, tensor):
        self.plain = tensor(1.0)
        self.by_name = {"a": tensor(2.0), "b": {"c": [tensor(3.0), 7]}}
        self.ordered = OrderedDict(x=tensor(4.0))
        self.grouped = defaultdict(list, y=[tensor(5.0)])
        self.recent = deque([tensor(6.0), tensor(7.0)], maxlen=3)
        self.pair = (tensor(8.0), Pair(tensor(9.0), "words"))
        self.array = np.arange(3)


def tensors(owner):
    return [
        owner.plain,
        owner.by_name["a"],
        owner.by_name["b"]["c"][0],
        owner.ordered["x"],
        owner.grouped["y"][0],
        *owner.recent,
        owner.pair[0],
        owner.pair[1].first,
    ]


def on(device):
    return lambda *numbers: th.tensor(numbers, device=device)


def test_tensors_are_saved_on_the_cpu_however_deep():
    holding = Holding(gpu)
    with pytest.raises(RuntimeError, match="CUDA device"):  # the stand-in would show it
        pickle.dumps(vars(holding))
    saved = pickle.loads(pickle.dumps(plain_state(holding)))
    other = Holding(on("cpu"))
    vars(other).clear()
    set_plain_state(other, saved)
    assert [type(tensor) for tensor in tensors(other)] == [th.Tensor] * 9
    assert [tensor.item() for tensor in tensors(other)] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    kinds = [type(value) for value in (other.ordered, other.grouped, other.recent, other.pair[1])]
    assert kinds == [OrderedDict, defaultdict, deque, Pair]
    assert other.recent.maxlen == 3 and other.grouped["new"] == [] and other.by_name["b"]["c"][1] == 7
    assert other.array.tolist() == [0, 1, 2] and other.pair[1].second == "words"
    assert [type(tensor) for tensor in tensors(holding)] == [OnGPU] * 9  # as they were


def test_tensors_go_to_the_device_of_those_they_replace():
    owner = Holding(on("meta"))
    owner.plain, owner.by_name["b"]["c"] = th.zeros(1), [th.zeros(1)]
    set_plain_state(owner, plain_state(Holding(on("cpu"))))
    devices = [tensor.device.type for tensor in tensors(owner)]
    assert devices == ["cpu", "meta", "cpu", "meta", "meta", "meta", "meta", "meta", "meta"]


def test_tensors_that_replace_none_go_where_the_others_are():
    """A queue that fills in the course of a run is empty in a new one."""
    owner = Holding(on("meta"))
    owner.recent, owner.by_name, owner.grouped, owner.pair = deque(maxlen=3), {}, None, ()
    set_plain_state(owner, plain_state(Holding(on("cpu"))))
    assert {tensor.device.type for tensor in tensors(owner)} == {"meta"}


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
    env._returns, env.last_obs, env._sums = gpu(2.5), gpu(1.0, 2.0), {"novelty_mean": gpu(0.5)}
    other = VecIntrinsicReward(DummyVecEnv([CountingEnv]), "rnd", snd_kwargs={"norm_reward": True}, device="cpu")
    other.reset()
    assert set_env_state(other, get_env_state(env)) == ""
    assert [other._returns.item(), *other.last_obs.tolist(), other._sums["novelty_mean"].item()] == [2.5, 1.0, 2.0, 0.5]
