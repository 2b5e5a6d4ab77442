"""
Train models on a device that computes nothing, and print what a GPU would refuse. ``test_no_gpu.py`` runs this file,
and tells what it does not see. It is a process of its own because PyTorch cannot forget a device.

Tensors are PyTorch's fake ones: they have a shape, a type and a device, but no numbers. Their device is the one that
PyTorch keeps for extensions, because a build for CPUs has no autograd for fake ``cuda`` tensors. Fake tensors refuse
operations whose tensors lie on two devices. :class:`Host` answers what the host reads, and notes it within a recording.
"""

import contextlib
import itertools
import json
import unittest.mock
import warnings

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from sb3_snd import PPOSND, SND
from sb3_snd.common import check_nan, cuda_graphs
from sb3_snd.ppo_snd import validation
from sb3_snd.ppo_snd.frame_stacks import FrameUploader
from sb3_snd.ppo_snd.policies import CnnPolicy, StreamActorCriticPolicy
from sb3_snd.rewards import REWARDS, base
from sb3_snd.targets import TARGETS, VICTarget

GPU = th.device("privateuseone:0")
SPACES = {
    "image": (spaces.Box(0, 255, (1, 40, 40), np.uint8), 4),  # and frames in a stack
    "rgb": (spaces.Box(0, 255, (3, 36, 48), np.uint8), 2),
    "vector": (spaces.Box(-1, 1, (7,), np.float32), 1),
}
ACTIONS = spaces.Discrete(5), spaces.Box(-1, 1, (2,), np.float32), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)
OPTIONS = {"image": {}, "rgb": dict(normalize_advantage=True, clip_range_vf=0.1), "vector": {}}

aten = th.ops.aten
READS = aten._local_scalar_dense.default, aten.equal.default
COPIES = aten._to_copy.default, aten.copy_.default


class Backend(_DummyBackendModule):
    """What PyTorch asks a device for."""

    def get_amp_supported_dtype(self):
        return [th.bfloat16]


class Fault(Exception):
    """Something that cannot be recorded. No RuntimeError: a recording that ends in one goes on without."""


class Host(TorchDispatchMode):
    """
    Gives the host a 1 for each number that it reads. Within a recording it notes what may not be there; it raises
    nothing, because a backward pass runs in another thread, where an exception would end the process.
    """

    recording = False
    noted: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in READS:
            if self.recording:
                self.noted.append(f"{func} within a recording")
            return True if func is aten.equal.default else 1.0 if args[0].is_floating_point() else 1
        if func is aten._fused_adam_.tensor_lr:  # fake tensors only know the one whose rate is a number
            func, kwargs = aten._fused_adam_.default, {**kwargs, "lr": 1.0}
        result = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, th.Tensor)]
        for tensor in tensors:
            tensor.constant = None  # PyTorch would compute with small constants, which the device cannot
        if self.recording and any(tensor.device == GPU for tensor in tensors):
            elsewhere = [tensor for tensor in tensors if tensor.device != GPU and (tensor.ndim > 0 or func in COPIES)]
            self.noted.extend(f"{func} with a tensor on {tensor.device} within a recording" for tensor in elsewhere)
        return result


def as_numpy(tensor, **_):
    """Stands for ``Tensor.numpy``."""
    if tensor.device != th.device("cpu"):
        raise TypeError(f"a tensor on {tensor.device} has no array")
    return np.ones(tensor.shape, str(tensor.dtype).removeprefix("torch."))


class Recorder:
    """Stands for CUDA graphs: a recording is what it records, called anew at each replay."""

    def __init__(self):
        self.count = 0

    def record(self, function, inputs, _):
        def replay():
            Host.noted.clear()
            Host.recording = True
            try:
                results = function(*inputs)
            finally:
                Host.recording = False
            if Host.noted:
                raise Fault(Host.noted[0])
            return results

        replay()
        self.count += 1
        return replay

    def patches(self):
        yield unittest.mock.patch.object(cuda_graphs, "can_record", lambda device: device == GPU)
        yield unittest.mock.patch.object(cuda_graphs, "make_stream", lambda _: None)
        yield unittest.mock.patch.object(cuda_graphs, "warm_up", lambda function, inputs, _: function(*inputs))
        yield unittest.mock.patch.object(cuda_graphs, "record", self.record)
        yield unittest.mock.patch.object(cuda_graphs, "WARM_UP", 1)  # nothing has to settle, and fake tensors are slow
        yield unittest.mock.patch.object(check_nan, "is_recording", lambda: Host.recording)


def made_there(cls):
    """Fake parameters cannot be moved, so nets are made on the device; ``nn.Module.to`` then has nothing to do."""
    init = cls.__init__

    def init_there(self, *args, **kwargs):
        with GPU:
            init(self, *args, **kwargs)

    return unittest.mock.patch.object(cls, "__init__", init_there)


def patches():
    yield from map(made_there, (StreamActorCriticPolicy, SND, *map(REWARDS.get, TRAINED)))
    yield unittest.mock.patch.object(nn.Module, "to", lambda net, *_, **__: net)
    yield unittest.mock.patch.object(FakeTensor, "numpy", as_numpy, create=True)
    yield unittest.mock.patch.object(FakeTensor, "data_ptr", lambda _: 0, create=True)
    for module in (validation, base):
        yield unittest.mock.patch.object(module, "check_device", lambda _: None)  # by a number that it reads


class Truncated(gym.Env):
    """Random observations; time limits of three steps."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        self.left = 3
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        return self.observation_space.sample(), 1.0, False, self.left == 0, {}


def train(kind, target, actions=ACTIONS[0], policy=None, cuda_graphs=True):
    """
    Two rollouts and the updates after them.

    :return: number of recordings
    """
    space, n_stack = SPACES[kind]
    env = DummyVecEnv([lambda: Truncated(space, actions)] * 4)
    if n_stack > 1:
        env = VecFrameStack(env, n_stack)
    recorder = Recorder()
    with contextlib.ExitStack() as stack:
        for patch in recorder.patches():
            stack.enter_context(patch)
        model = PPOSND(
            policy or ("MlpPolicy" if kind == "vector" else CnnPolicy),
            env,
            snd=target,
            snd_kwargs=dict(norm_reward=True),
            n_steps=2,
            batch_size=8,
            n_epochs=1,
            device=GPU,
            precision="float32",
            cuda_graphs=cuda_graphs,
            **OPTIONS[kind],
        )
        if n_stack > 1:  # as on CUDA
            model._uploader = FrameUploader(4, env.observation_space.shape, np.uint8, GPU, n_stack)
        model.learn(16)
    return recorder.count


class MixingTarget(VICTarget):
    def preprocess(self, frames):
        return frames + th.zeros(frames.shape[-1])


class ReadingTarget(VICTarget):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        return {**terms, "loss": terms["loss"] * float(terms["distill"])}


class TargetReadingInBackward(VICTarget):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        terms["loss"].register_hook(lambda gradient: gradient * gradient.item())
        return terms


class CopyingTarget(VICTarget):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        self.last = terms["distill"].detach().cpu()
        return terms


class UploadingTarget(VICTarget):
    def loss(self, batch, learner):
        terms = super().loss(batch, learner)
        return {**terms, "loss": terms["loss"] * th.as_tensor(np.ones(3, np.float32)).to(GPU).mean()}


class MixingPolicy(CnnPolicy):
    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values + th.zeros(len(values), 1), log_prob, entropy


class ReadingPolicy(CnnPolicy):
    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values * float(values.mean() > 0), log_prob, entropy


class PolicyReadingAsItActs(CnnPolicy):
    def forward(self, obs, deterministic=False):
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions * int(values.isfinite().all()), values, log_prob


#: target, policy and what is seen
FAULTS = {
    "mixing target": (MixingTarget, None, "FakeTensorDeviceMismatchError"),
    "reading target": (ReadingTarget, None, "_local_scalar_dense"),
    "target reading as it learns": (TargetReadingInBackward, None, "_local_scalar_dense"),
    "copying target": (CopyingTarget, None, "_to_copy"),
    "uploading target": (UploadingTarget, None, "_to_copy"),
    "mixing policy": ("rnd", MixingPolicy, "FakeTensorDeviceMismatchError"),
    "reading policy": ("rnd", ReadingPolicy, "_local_scalar_dense"),
    "policy reading as it acts": ("rnd", PolicyReadingAsItActs, "_local_scalar_dense"),
}
PLAIN = {f"without graphs-{kind}": kind for kind in SPACES}
CASES = {f"{target}-{kind}": (kind, target) for kind, target in itertools.product(SPACES, TARGETS)}
#: rewards whose training is recorded, and whose memory needs no number on the host
TRAINED = ("icm", "disagreement", "sp", "e3b")
CASES |= {f"{reward}-vector": ("vector", reward) for reward in TRAINED}


def main():
    """Print, as JSON, for each case the number of its recordings, and for each fault what was seen of it."""
    warnings.simplefilter("ignore")
    _setup_privateuseone_for_python_backend("fakegpu", Backend())
    results = {}
    with contextlib.ExitStack() as stack:
        for mode in (FakeTensorMode(), Host(), *patches()):
            stack.enter_context(mode)
        th._C._set_only_lift_cpu_tensors(True)  # ``th.tensor`` makes them on the CPU first, as elsewhere
        for index, (name, (kind, target)) in enumerate(CASES.items()):
            results[name] = train(kind, target, ACTIONS[index % len(ACTIONS)])
        for name, kind in PLAIN.items():
            results[name] = train(kind, "vic", cuda_graphs=False)
        for name, (target, policy, _) in FAULTS.items():
            try:
                results[name] = f"no fault, {train('image', target, policy=policy)} recordings"
            except Exception as error:
                results[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(results))


if __name__ == "__main__":
    main()
