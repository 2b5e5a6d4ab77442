"""Small runs that can be resumed, and what two runs are compared by."""

import csv

import torch as th
from fakes import Trace
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_snd import PPOSND, ExplorationLogger, SNDCallback, VecIntrinsicReward
from sb3_snd.runs.checkpoint_files import find_checkpoint
from sb3_snd.runs.checkpoints import RunCheckpoint, find_snd
from sb3_snd.runs.log_files import delete_event_files
from sb3_snd.runs.monitor import StreamMonitor
from sb3_snd.runs.resume import load_run

IDENTITY = {"algo": "some", "environment": "DeepSea-v0", "seed": 5}
SIZES = dict(n_steps=16, batch_size=32, n_epochs=2, seed=5, device="cpu")
TOTAL = 640  # ten rollouts of 4 x 16


class Until(BaseCallback):
    """Does something at a step."""

    def __init__(self, step, what):
        super().__init__()
        self.step, self.what = step, what

    def _on_step(self):
        if self.num_timesteps == self.step:
            self.what()
        return True


def two_streams(env):
    fading = LinearSchedule(1.0, 0.0, 1.0)
    snd_kwargs = {"norm_reward": True, "learning_rate": LinearSchedule(1e-3, 0.0, 1.0), "eta": fading}
    return PPOSND, env, dict(snd="v", snd_kwargs=snd_kwargs, ext_coef=LinearSchedule(2.0, 1.0, 1.0), int_coef=fading)


def bonus(env):
    snd_kwargs = {"norm_reward": True, "learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}
    return PPO, VecIntrinsicReward(env, "rnd", snd_kwargs, int_coef=LinearSchedule(1.0, 0.0, 1.0)), {}


def episodic(env):
    return PPOSND, env, dict(snd=Trace, snd_kwargs={"norm_reward": True})


def episodic_bonus(env):
    return PPO, VecIntrinsicReward(env, Trace), {}


def product(env):
    return PPOSND, env, dict(episodic="e3b", snd_kwargs={"features_dim": 8})


def neighbours(env):
    return PPOSND, env, dict(snd="ngu")


def random_steps(env):
    return PPOSND, env, dict(snd="rnd_openai", snd_kwargs={"warm_up_steps": 3})


def shared_memory(env):
    return PPOSND, env, dict(snd="re3")


def lifelong_counts(env):
    return PPO, VecIntrinsicReward(env, "counts", {"kind": "lifelong"}), {}


def plain(env):
    return A2C, env, {}


def train(folder, kind=two_streams, stop=None, step=0, what=None, total=TOTAL):
    """Go on with the run in the folder, or begin it."""
    folder.mkdir(exist_ok=True)
    th.manual_seed(0)  # of the bonus' nets
    venv = VecNormalize(make_vec_env("DeepSea-v0", 4, seed=5, env_kwargs={"size": 5}), norm_obs=False)
    algorithm, env, kwargs = kind(venv)
    path, _ = find_checkpoint(folder, IDENTITY)
    if path is None:
        delete_event_files(folder)
    callbacks = [Until(step, what), StreamMonitor(folder, "DeepSea-v0", append=path is not None), ExplorationLogger()]
    callbacks += [SNDCallback()] if kind in (bonus, episodic_bonus, lifelong_counts) else []
    _, eval_env, _ = kind(VecNormalize(make_vec_env("DeepSea-v0", env_kwargs={"size": 5}), norm_obs=False, training=False))
    callbacks += [EvalCallback(eval_env, eval_freq=20, n_eval_episodes=1, verbose=0)]
    if path is None:
        sizes = {
            name: value for name, value in SIZES.items() if algorithm is not A2C or name not in ("batch_size", "n_epochs")
        }
        model = algorithm("MlpPolicy", env, tensorboard_log=str(folder), **sizes, **kwargs)
        resumed = None
    else:
        model, resumed, reason = load_run(path, algorithm, env, 5, tensorboard_log=str(folder))
        assert reason == ""
    callbacks.append(RunCheckpoint(folder, 64, callbacks, IDENTITY, stop, resumed))
    model.learn(total - model.num_timesteps, callback=callbacks, reset_num_timesteps=path is None, tb_log_name="tb")
    return model


def everything(model):
    """:return: all tensors of nets and optimisers by name, and the counters"""
    tensors = {}
    for name, state in model.get_parameters().items():
        flat = state if "optimizer" not in name else {f"{i}.{k}": v for i, s in state["state"].items() for k, v in s.items()}
        tensors.update({f"{name}.{key}": value for key, value in flat.items()})
    snd = find_snd(model)
    if snd is not None:
        tensors.update({f"nets.{key}": value for key, value in snd.state_dict().items()})
    return tensors, (model.num_timesteps, model._n_updates, [episode["r"] for episode in model.ep_info_buffer])


def all_rows(path):
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


def rows(path, *without):
    return [{k: v for k, v in row.items() if k not in without and not k.startswith("time/")} for row in all_rows(path)]


def events(folder):
    """:return: (step, value) of everything in TensorBoard's files, but for times; each read alone, as they are seconds old"""
    found = {}
    for path in (folder / "tb_1").iterdir():
        log = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        for tag in log.Tags()["scalars"]:
            if not tag.startswith("time/"):
                found.setdefault(tag, []).extend((event.step, event.value) for event in log.Scalars(tag))
    return {tag: sorted(values) for tag, values in found.items()}


def assert_same_run(whole, folder, model, other):
    (tensors, counters), (others, other_counters) = everything(model), everything(other)
    assert counters == other_counters and set(tensors) == set(others)
    assert [name for name in tensors if not th.equal(th.as_tensor(tensors[name]), th.as_tensor(others[name]))] == []
    assert rows(whole / "monitor.csv", "t") == rows(folder / "monitor.csv", "t")
    assert rows(whole / "progress.csv") == rows(folder / "progress.csv")
    assert events(whole) == events(folder)
