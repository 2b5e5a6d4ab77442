"""State of single objects: saved without a device, and put back on the device of what it replaces."""

import pickle
from collections import OrderedDict, defaultdict, deque, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from devices import OnGPU, gpu, on
from fakes import CountingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_snd import EtaProposal, ExplorationLogger, SNDCallback, VecIntrinsicReward
from sb3_snd.runs.monitor import StreamMonitor
from sb3_snd.runs.run_state import get_run_state, set_run_state

Pair = namedtuple("Pair", ("first", "second"))


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


def test_tensors_are_saved_on_the_cpu_however_deep():
    holding = Holding(gpu)
    with pytest.raises(RuntimeError, match="CUDA device"):  # the stand-in would show it
        pickle.dumps(vars(holding))
    saved = pickle.loads(pickle.dumps(get_run_state(holding)))
    other = Holding(on("cpu"))
    vars(other).clear()
    set_run_state(other, saved)
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
    set_run_state(owner, get_run_state(Holding(on("cpu"))))
    devices = [tensor.device.type for tensor in tensors(owner)]
    assert devices == ["cpu", "meta", "cpu", "meta", "meta", "meta", "meta", "meta", "meta"]


def test_tensors_that_replace_none_go_where_the_others_are():
    """A queue that fills in the course of a run is empty in a new one."""
    owner = Holding(on("meta"))
    owner.recent, owner.by_name, owner.grouped, owner.pair = deque(maxlen=3), {}, None, ()
    set_run_state(owner, get_run_state(Holding(on("cpu"))))
    assert {tensor.device.type for tensor in tensors(owner)} == {"meta"}


def test_settings_of_foreign_objects_are_not_saved():
    class Foreign:
        def __init__(self, setting):
            self.setting, self.count, self.helper = setting, 3, object()

    assert get_run_state(Foreign(1)) == {"count": 3}


def test_a_wrapper_above_has_its_own_state():
    """SB3's wrappers answer with the attributes of those below them."""
    env = VecNormalize(VecIntrinsicReward(DummyVecEnv([CountingEnv]), "rnd", device="cpu"))
    env.reset()
    assert env.get_run_state.__self__ is env.venv
    assert get_run_state(env)["obs_rms"] is env.obs_rms and "last_obs" not in get_run_state(env)


def test_what_classes_of_the_package_save(tmp_path):
    """Each names it; an attribute that somebody adds is neither saved nor refused."""
    wrapper = VecIntrinsicReward(DummyVecEnv([CountingEnv]), "rnd", device="cpu")
    expected = {
        wrapper: {"last_obs", "_places", "scorer"},
        SNDCallback(): {"n_calls"},
        EtaProposal(): {"eta", "_n_before"},
        StreamMonitor(tmp_path, "Some-v0"): {"_returns", "_lengths"},
        ExplorationLogger(): {"n_calls", "places", "_episodes", "_most", "_frames", "_warned"},
    }
    for owner, names in expected.items():
        owner.added = 1
        assert set(get_run_state(owner)) == names


def test_frames_go_on_where_the_nets_are():
    logger, other = ExplorationLogger(), ExplorationLogger()
    logger._frames = [gpu(1.0)]
    saved = get_run_state(logger)
    assert [type(frames) for frames in saved["_frames"]] == [th.Tensor]
    other._wrapper = SimpleNamespace(snd=SimpleNamespace(device=th.device("meta")))
    set_run_state(other, saved)
    assert [frames.device.type for frames in other._frames] == ["meta"]
