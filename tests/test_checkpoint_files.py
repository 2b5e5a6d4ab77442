"""Checkpoints that are broken, foreign, not finite or cannot be written, and the one that is taken instead."""

import zipfile

import pytest
import torch as th
from run_helpers import IDENTITY, SIZES, bonus, train, two_streams
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_snd import PPOSND
from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.runs import log_files
from sb3_snd.runs.checkpoint_files import find_checkpoint, list_checkpoints, save_atomically, why_unusable
from sb3_snd.runs.checkpoints import RunCheckpoint, find_snd


def test_broken_and_foreign_files_are_named_and_the_one_before_is_taken(tmp_path):
    train(tmp_path / "run", total=320)
    names = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert names == [f"rl_model_{steps}_steps.zip" for steps in (320, 256, 192)]  # the newest three
    newest, second, third = list_checkpoints(tmp_path / "run")
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "run" / "rl_model_999_steps.zip")
    damaged = bytearray(second.read_bytes())
    with zipfile.ZipFile(second) as archive:
        place = archive.getinfo("policy.pth").header_offset
    damaged[place + 5000] ^= 1
    second.write_bytes(damaged)
    found, refused = find_checkpoint(tmp_path / "run", IDENTITY)
    assert found == third
    assert [sentence.split(": ", 1)[1] for sentence in refused] == [
        "it is not a checkpoint of a run; trying the checkpoint before it.",
        "it is truncated or not a zip file; trying the checkpoint before it.",
        "its entry policy.pth is damaged; trying the checkpoint before it.",
    ]
    assert why_unusable(third, {**IDENTITY, "seed": 6}) == "its seed is 5, not 6"
    assert find_checkpoint(tmp_path / "run", {**IDENTITY, "algo": "other"})[0] is None
    model = PPOSND.load(third, device="cpu")  # it is a model, too
    assert model.num_timesteps == 192


def policy(model):
    return model.policy.value_net.weight.data


def moments(model):
    return next(iter(model.policy.optimizer.state.values()))["exp_avg"]


def nets(model):
    return next(find_snd(model).parameters()).data


def moments_of_nets(model):
    return next(iter(find_snd(model).trainer.optimizer.state.values()))["exp_avg_sq"]


def statistics(model):
    return find_snd(model).target.frame_stats.var


POISONED = [
    (two_streams, policy, float("nan"), "policy:value_net.weight"),
    (two_streams, policy, float("inf"), "policy:value_net.weight"),
    (two_streams, moments, float("nan"), "policy.optimizer:state:0:exp_avg"),
    (two_streams, nets, float("nan"), "snd:learner.0.weight"),
    (two_streams, moments_of_nets, float("inf"), "snd.trainer.optimizer:state:0:exp_avg_sq"),
    (bonus, nets, float("nan"), "sb3_snd_nets:snd:learner.0.weight"),
    (bonus, moments_of_nets, -float("inf"), "sb3_snd_nets:optimizer:state:0:exp_avg_sq"),
    (bonus, statistics, float("inf"), "sb3_snd_nets:snd:target.frame_stats.var"),
]


@pytest.mark.parametrize(("kind", "part", "value", "name"), POISONED)
def test_nets_that_are_not_finite_are_no_checkpoint(kind, part, value, name, tmp_path, monkeypatch):
    """As an update leaves them that nobody looks at; one that lies there from elsewhere is not taken, but the one before."""
    folder = tmp_path / "run"
    model = train(folder, kind, total=192)
    before = {path.name: path.read_bytes() for path in folder.glob("rl_model_*")}
    saver = RunCheckpoint(folder, 64, [], IDENTITY)
    saver.init_callback(model)
    saver.on_rollout_start()  # sound, and saved already
    model.num_timesteps = 256
    part(model).view(-1)[0] = value
    message = rf"^\S+ in the model to be saved is {value}: lower learning_rate"
    with pytest.raises(NonFiniteError, match=message) as error:
        saver.on_rollout_start()
    assert error.value.poisoned and len(before) == 6
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert not [path for path in folder.iterdir() if "256" in path.name]
    monkeypatch.setattr(saver, "_refuse_non_finite", None)
    saver.save()
    found, refused = find_checkpoint(folder, IDENTITY)
    assert found == folder / "rl_model_192_steps.zip"
    (sentence,) = refused
    where = sentence.removeprefix(f"{folder / 'rl_model_256_steps.zip'}: ").partition(" in it is ")
    assert where[2] == f"{value}; trying the checkpoint before it."
    assert where[0].split(":")[:-1] == name.split(":")[:-1]  # the first parameter is not called the same in each target


def test_infinities_on_purpose_are_saved(tmp_path):
    """A mask is infinite from the beginning, and in the run that goes on."""
    env = make_vec_env("DeepSea-v0", 4, seed=5, env_kwargs={"size": 5})
    model = PPO("MlpPolicy", env, **SIZES)
    model.policy.register_buffer("mask", th.tensor([0.0, -float("inf")]), persistent=True)
    model.learn(128, callback=RunCheckpoint(tmp_path, 64, [], IDENTITY))
    (newest, _), refused = list_checkpoints(tmp_path), find_checkpoint(tmp_path, IDENTITY)
    assert refused == (newest, [])
    model.policy.mask[0] = float("nan")
    with pytest.raises(NonFiniteError, match="policy:mask in the model to be saved is nan"):
        model.learn(128, callback=RunCheckpoint(tmp_path, 64, [], IDENTITY))


def test_a_disk_that_is_full_costs_no_checkpoint(tmp_path, monkeypatch):
    train(tmp_path / "run", total=128)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("rl_model_*.zip")}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_atomically(PPO("MlpPolicy", "CartPole-v1", device="cpu"), next(tmp_path.rglob("rl_model_128_steps.zip")))
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("rl_model_*.zip")} == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
