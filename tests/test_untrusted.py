"""Files from strangers: what should be tensors is read as tensors, and never runs."""

import io
import pathlib
import pickle
import zipfile

import pytest
import torch as th
from fakes import CountingEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_snd import PPOSND, SND, SNDCallback, VecIntrinsicReward

SIZES = dict(n_steps=16, batch_size=16, n_epochs=1, device="cpu")


class Poison:
    """What unpickles it creates a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """The file that a poisoned one creates where it runs, which is shown here."""
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Poison(path)))
    assert path.exists()
    path.unlink()
    return path


def poisoned(mark, inside=()):
    """As ``th.save`` writes it, beside true tensors or alone."""
    file = io.BytesIO()
    th.save({**dict(inside), "state": Poison(mark)}, file)
    return file.getvalue()


def make_env():
    return DummyVecEnv([CountingEnv] * 2)


def make_snd():
    return SND(make_env().observation_space, "vic", device="cpu", features_dim=8)


def restore(path):
    model = PPO("MlpPolicy", VecIntrinsicReward(make_env(), make_snd()), **SIZES)
    model.learn(32, callback=SNDCallback(restore=path))


WRITERS = {
    "beside tensors": lambda mark: poisoned(mark, {"snd": make_snd().state_dict()}),
    "in the tensors' place": lambda mark: poisoned(mark, {"snd": Poison(mark), "optimizer": Poison(mark)}),
    "a bare pickle": lambda mark: pickle.dumps(Poison(mark)),
}


@pytest.mark.parametrize("read", [lambda path: make_snd().load(path), restore], ids=["SND.load", "SNDCallback"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_poisoned_file_of_an_snd_does_not_run(read, write, mark, tmp_path):
    path = tmp_path / "rl_model.snd.pth"
    path.write_bytes(write(mark))
    with pytest.raises(ValueError, match=r"rl_model\.snd\.pth is not a file of tensors that SND\.save wrote") as error:
        read(path)
    assert "\n" not in str(error.value) and not mark.exists()


@pytest.mark.parametrize("write", [lambda _: b"", lambda _: b"hello", lambda _: b"PK\x03\x04" + bytes(99)])
def test_a_broken_file_of_an_snd(write, tmp_path):
    path = tmp_path / "rl_model.snd.pth"
    path.write_bytes(write(None))
    with pytest.raises(ValueError, match=r"is not a file of tensors that SND\.save wrote"):
        make_snd().load(path)


@pytest.mark.parametrize(
    "saved",
    [
        th.zeros(3),
        {},
        {"snd": {}, "optimizer": {}},
        {"snd": 3, "optimizer": 3},
        {"snd": lambda: make_snd().state_dict(), "optimizer": {}},
        {"snd": lambda: make_snd().state_dict(), "optimizer": {"state": {}, "param_groups": []}},
    ],
    ids=["tensor", "nothing", "empty parts", "numbers", "empty optimizer", "optimizer without nets"],
)
def test_tensors_of_something_else(saved, tmp_path):
    path = tmp_path / "rl_model.snd.pth"
    if isinstance(saved, dict):
        saved = {name: value() if callable(value) else value for name, value in saved.items()}
    th.save(saved, path)
    with pytest.raises(ValueError, match=r"rl_model\.snd\.pth does not hold an SND with target 'vic' of these sizes\.$"):
        make_snd().load(path)


ENTRIES = ["snd.pth", "snd.trainer.optimizer.pth", "policy.pth", "policy.optimizer.pth", "pytorch_variables.pth"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_poisoned_entry_of_a_model_does_not_run(entry, mark, tmp_path):
    model = PPOSND("MlpPolicy", make_env(), snd=make_snd(), **SIZES)
    model.save(tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good.zip") as good, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        assert entry in good.namelist()
        for name in good.namelist():
            bad.writestr(name, poisoned(mark) if name == entry else good.read(name))
    with pytest.raises(ValueError, match=r"bad\.zip holds other objects in place of tensors") as error:
        PPOSND.load(tmp_path / "bad.zip", device="cpu")
    assert "\n" not in str(error.value) and not mark.exists()
    with pytest.raises(pickle.UnpicklingError):
        model.set_parameters(tmp_path / "bad.zip", device="cpu")
    assert not mark.exists()
    PPOSND.load(tmp_path / "good.zip", device="cpu")
