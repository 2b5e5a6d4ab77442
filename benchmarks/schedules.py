"""
What the benchmarks compare: the package, its parts alone, the naive schedule, and stock PPO, all on the same emulators.

Models are built from the entries of ``hyperparams/`` without the RL Zoo, so that a bare host can run this.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBufferSamples
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_snd import PPOSND, SND
from sb3_snd.common.extras import require_or_exit
from sb3_snd.common.memory import keep_freed_memory
from sb3_snd.common.precision import resolve_precision
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.envs import make_atari_env, make_procgen_env
from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer
from sb3_snd.ppo_snd.frame_stacks import FrameStore, find_stack
from sb3_snd.ppo_snd.policies import SNDTrunk
from sb3_snd.runs.monitor import StreamMonitor
from sb3_snd.targets.std import STDTarget, infonce

require_or_exit("yaml", "zoo")

import yaml  # noqa: E402

ALGO_KEYS = ("ppo_rnd", "ppo_snd_v", "ppo_snd_v_original", "ppo_snd_std", "ppo_snd_vic", "ppo_snd")
ROLLOUT, STEPPING, INFERENCE, NOVELTY, PPO_UPDATE, SND_UPDATE, OTHER = PHASES = (
    "rollout",
    "stepping",
    "inference",
    "novelty",
    "PPO update",
    "SND update",
    "other",
)
NOT_OF_THE_MODEL = ("env_wrapper", "env_kwargs", "frame_stack", "n_envs", "n_timesteps")


class Clock:
    """
    Seconds by phase. Phases nest, and while an inner one runs the outer one stands still: they add up to the whole.

    :param device: Waited for whenever the clock is read
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._last = 0.0

    def _book(self) -> None:
        if self.device.type != "cpu":
            th.accelerator.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """
        :param name: One of ``PHASES``, to which the block's time is added
        """
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """
        Time every call of a bound method from now on.

        :param owner: The object, whose attribute is replaced
        :param method: The method's name
        :param name: One of ``PHASES``
        """
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def pop(self) -> dict[str, float]:
        """
        :return: seconds by phase since the last call
        """
        seconds, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return seconds


def read_entry(algo: str, env_id: str) -> dict[str, Any]:
    """
    :param algo: Algo key
    :param env_id: Gymnasium id
    :return: the entry of ``hyperparams/``
    """
    path = Path(__file__).parent.parent / "hyperparams" / f"{algo}.yml"
    entries = yaml.safe_load(path.read_text())
    entry = entries.get(env_id)
    if entry is None or not ("AtariWrapper" in entry.get("env_wrapper", "") or env_id.startswith("procgen-")):
        native = ", ".join(name for name in entries if "NoFrameskip" in name or name.startswith("procgen-"))
        sys.exit(f"{Path(sys.argv[0]).name}: there is no environment {env_id}. Known are {native}.")
    return entry


def make_env(entry: dict[str, Any], env_id: str, n_envs: int, seed: int, **kwargs: Any) -> VecEnv:
    """
    :param entry: From :func:`read_entry`
    :param env_id: Gymnasium id
    :param n_envs: Number of environments
    :param seed: Of the environments
    :param kwargs: Arguments over those of the entry
    :return: the native vector environment
    """
    make = make_procgen_env if env_id.startswith("procgen-") else make_atari_env
    kwargs = {"n_stack": entry.get("frame_stack", 1), **entry.get("env_kwargs", {}), **kwargs}
    try:
        return make(env_id, n_envs, seed=seed, **kwargs)
    except (TypeError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


class StillEnv(VecEnv):
    """
    Costs nothing: eight random screens in turn, stacked; no reward, no end of an episode.

    :param venv: What it has the spaces and the number of environments of; it is closed
    :param seed: Of the screens
    """

    def __init__(self, venv: VecEnv, seed: int) -> None:
        self.zero_padded_stack = find_stack(venv)
        super().__init__(venv.num_envs, venv.observation_space, venv.action_space)
        venv.close()
        n_frames, shape = 8, venv.observation_space.shape
        assert shape is not None
        frame = shape[0] // self.zero_padded_stack, *shape[1:]
        screens = np.random.default_rng(seed).integers(256, size=(n_frames, self.num_envs, *frame), dtype=np.uint8)
        stack = range(1 - self.zero_padded_stack, 1)
        self._observations = [np.concatenate([screens[(t + k) % n_frames] for k in stack], axis=1) for t in range(n_frames)]
        none = np.zeros_like(screens[0])
        self._first = [
            np.concatenate([screens[t + k] if t + k >= 0 else none for k in stack], axis=1)
            for t in range(self.zero_padded_stack - 1)
        ]
        self._step = 0

    def _show(self) -> np.ndarray:
        step = self._step
        return self._first[step] if step < len(self._first) else self._observations[step % len(self._observations)]

    def reset(self) -> np.ndarray:
        self._step = 0
        return self._show()

    def step_async(self, actions: np.ndarray) -> None:
        self._step += 1

    def step_wait(self) -> Any:
        none = np.zeros(self.num_envs, dtype=np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return self._show(), none, none.astype(bool), infos

    def close(self) -> None:
        """Nothing to end."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class Schedule:
    """
    What all schedules share: environments, a model of the YAML entry, and a clock.

    :param args: Of the command line
    :param algo: Algo key of the entry
    :param model_class: What is trained
    :param hyperparams: Arguments of the model over those of the entry and of the command line
    :param still: Whether on environments that cost nothing
    """

    def __init__(
        self, args: argparse.Namespace, algo: str, model_class: type[PPO] = PPOSND, still: bool = False, **hyperparams: Any
    ) -> None:
        entry = read_entry(algo, args.env)
        names = ("n_steps", "batch_size", "n_epochs")
        asked = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        kwargs = {name: value for name, value in {**entry, **asked}.items() if name not in NOT_OF_THE_MODEL}
        env_kwargs = {} if args.frame_size is None else dict(frame_size=args.frame_size)
        env = make_env(entry, args.env, args.n_envs or entry["n_envs"], args.seed, **env_kwargs)
        self.env: VecEnv = StillEnv(env, args.seed) if still else env  # without intrinsic reward
        try:
            self.model = model_class(env=self.env, seed=args.seed, device=args.device, **{**kwargs, **hyperparams})
        except ValueError as error:
            sys.exit(f"{Path(sys.argv[0]).name}: {error}")
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.snd: SND | None = getattr(self.model, "snd", None)
        self.clock = Clock(self.model.device)
        if args.coarse:
            self.clock.wrap(self.model, "collect_rollouts", ROLLOUT)
            return
        innermost = self.env
        while isinstance(innermost, VecEnvWrapper):
            innermost = innermost.venv
        for method in ("step_async", "step_wait"):
            self.clock.wrap(innermost, method, STEPPING)
        if model_class is PPOSND:  # its forward pass may be recorded, and a recording cannot wait
            self.clock.wrap(self.model, "_act", INFERENCE)
        else:
            self.clock.wrap(self.model.policy, "forward", INFERENCE)
        self.clock.wrap(self.model.policy, "predict_values", INFERENCE)

    def iterate(self) -> None:
        """One rollout and the updates that follow it."""
        raise NotImplementedError

    @property
    def recorded(self) -> dict[str, bool]:
        """Of what ``cuda_graphs`` may record, what is."""
        parts = {
            "acting": getattr(self.model, "_recorded_act", None),
            "PPO update": getattr(getattr(self.model, "_update", None), "_step", None),
            "SND update": getattr(self.snd, "_replay", None),
        }
        return {name: replay.is_recorded for name, replay in parts.items() if replay is not None}

    def measure(self) -> dict[str, float]:
        """
        :return: seconds of one iteration, by phase
        """
        with self.clock.phase(OTHER):
            self.iterate()
        return self.clock.pop()

    def warm_up(self) -> None:
        """One iteration that is not counted, with one epoch instead of all."""
        n_epochs, self.model.n_epochs = self.model.n_epochs, 1
        self.measure()
        self.model.n_epochs = n_epochs

    def close(self) -> None:
        """End the environments."""
        self.env.close()


class PackageSchedule(Schedule):
    """
    The package as it runs: the model's own rollout and update, with the callback that writes the log.

    The emulators run in threads of their own while novelty is computed. Stepping is the time spent in sending actions
    and waiting for results, so the part of the emulators' work that novelty hides is not in it.

    :param args: Of the command line
    :param hyperparams: Over those of the entry and of the command line
    """

    def __init__(self, args: argparse.Namespace, **hyperparams: Any) -> None:
        asked = {"precision": args.precision or "auto", "cuda_graphs": args.cuda_graphs}
        super().__init__(args, args.algo, **{**asked, **hyperparams})
        if self.model.device.type == "cpu":
            keep_freed_memory()  # as learn() does
        if self.snd is not None:
            for method in ("update_statistics", "novelty") if not args.coarse else ():
                self.clock.wrap(self.snd, method, NOVELTY)
            self.clock.wrap(self.snd, "train_on_rollout", SND_UPDATE)
        self.start_callback(args)

    def start_callback(self, args: argparse.Namespace) -> None:
        """
        The log that ``train.py`` writes too, in a folder that is forgotten.

        :param args: Of the command line
        """
        self.folder = tempfile.TemporaryDirectory()
        callback: list[BaseCallback] = [StreamMonitor(self.folder.name, args.env)]
        _, self.callback = self.model._setup_learn(10**9, callback)
        self.callback.on_training_start(locals(), globals())

    def iterate(self) -> None:
        """See :meth:`Schedule.iterate`; ``PPOSND.train`` calls the SND update within it."""
        model = self.model
        assert model.env is not None
        model.collect_rollouts(model.env, self.callback, model.rollout_buffer, model.n_steps)
        with self.clock.phase(PPO_UPDATE):
            model.train()

    def warm_up(self) -> None:
        """Until everything is recorded; see :meth:`Schedule.warm_up`."""
        super().warm_up()
        if self.model.device.type == "cuda":
            super().warm_up()

    def close(self) -> None:
        """End log and environments."""
        self.callback.on_training_end()
        self.folder.cleanup()
        super().close()


class EagerSchedule(PackageSchedule):
    """
    The package without ``cuda_graphs``.

    :param args: Of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, cuda_graphs=False)


class OneStreamSchedule(PackageSchedule):
    """
    The package without SND: one stream, in the number format and with the settings of the others.

    :param args: Of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        device = th.device("cuda" if args.device == "auto" and th.cuda.is_available() else args.device.replace("auto", "cpu"))
        precision = resolve_precision(args.precision or "auto", device)
        super().__init__(args, snd=None, precision=precision)


class StillSchedule(PackageSchedule):
    """
    The package on environments that cost nothing: the nets' work alone, and what Python adds to it.

    :param args: Of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, still=True)


class EmulatorSchedule(Schedule):
    """
    The emulators alone, with random actions.

    :param args: Of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, args.algo)
        self.env.reset()
        self.random = np.random.default_rng(args.seed)

    def iterate(self) -> None:
        """As many steps as a rollout has."""
        for _ in range(self.model.n_steps):
            self.env.step(self.random.integers(self.env.action_space.n, size=self.env.num_envs))  # type: ignore[attr-defined]


class PlainTrunk(SNDTrunk):
    """The package's trunk without its haste: what a user of stock PPO would have written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        make_plain(self)


class StockSchedule(PackageSchedule):
    """
    PPO of Stable-Baselines3 with its ``CnnPolicy``, buffer and optimiser: one stream, no novelty. Trunk, sizes and
    emulators are those of the others, and so is the log.

    :param args: Of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        policy_kwargs = dict(features_extractor_class=PlainTrunk, net_arch=dict(pi=[512], vf=[512]))
        Schedule.__init__(self, args, "ppo", PPO, policy=ActorCriticCnnPolicy, policy_kwargs=policy_kwargs)
        self.start_callback(args)


def make_plain(net: th.nn.Module) -> None:
    """
    :param net: Its activations no longer overwrite what they act on, in place
    """
    for module in net.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def plain_contrast(anchors: tuple[th.Tensor, th.Tensor], columns: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    What ``STDTarget.contrast`` computes, by the formula, with all logits at once.

    :param anchors: ``(P, B, L)`` each
    :param columns: ``(P, B, L)``
    :return: sum of both cross-entropies, and of both mean norms of the logits
    """
    logits = [part @ columns.transpose(1, 2) for part in anchors]  # (P, B, B) each
    norm = logits[0].norm(dim=(1, 2)).mean() + logits[1].norm(dim=(1, 2)).mean()
    return infonce(logits[0]) + infonce(logits[1]), norm


class NaiveBuffer(StreamRolloutBuffer):
    """s_t and s_{t+1} as float32 in host memory; each minibatch is copied out of it, then to the device."""

    def reset(self) -> None:
        """Allocate once, then empty."""
        if not hasattr(self, "successors"):
            self.successors = self._make_store(self.observation_space, 1)
        super().reset()

    def _make_store(self, space: Any, n_stack: int) -> FrameStore:
        return FrameStore(self.buffer_size, self.n_envs, space.shape, th.float32, "cpu")

    def set_stack(self, n_stack: int) -> None:
        """Every observation is stored whole."""

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> RolloutBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(observations=samples.observations.to(self.device))


class NaiveSchedule(Schedule):
    """
    The same nets, losses and environments in the order of the reference program: one thing after the other, float32,
    contiguous layout, every feature computed where it is needed, PyTorch's plain Adam.

    :param args: Of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, args.algo, rollout_buffer_class=NaiveBuffer, precision="float32")
        if not args.coarse:
            self.clock.wrap(self.model.policy, "forward", INFERENCE)
        space = self.env.observation_space
        if not (isinstance(space, Box) and is_image_space(space) and is_image_space_channels_first(space)):
            sys.exit(f"The naive schedule reads images, channels first, not {space}: use --against stock.")
        self.model.policy.normalize_images = False  # what it stores lies in [0, 1] already
        if self.snd is not None and isinstance(self.snd.target, STDTarget):
            self.snd.target.contrast = plain_contrast  # type: ignore[method-assign]
        for part in (self.model.policy, self.snd):
            if part is not None:
                make_plain(part)
                for group in part.optimizer.param_groups:
                    group["fused"] = None
        self.coarse = args.coarse
        self.state = self._to_state(self.env.reset())
        self.episode_starts = np.ones(self.env.num_envs, dtype=bool)

    def _to_state(self, obs: Any) -> th.Tensor:
        """
        :param obs: ``(n_envs, C, H, W)`` uint8
        :return: the same as float32 in [0, 1] on the device
        """
        return th.as_tensor(obs.astype(np.float32) / 255.0).to(self.model.device)

    def _newest(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: ``(n, C, H, W)`` float32
        :return: their newest frames, ``(n, c, H, W)``
        """
        assert self.snd is not None
        return states[:, -self.snd.frame_shape[0] :]

    def iterate(self) -> None:
        """See :meth:`Schedule.iterate`."""
        with self.clock.phase(ROLLOUT) if self.coarse else contextlib.nullcontext():
            self.collect()
        with self.clock.phase(PPO_UPDATE):
            PPO.train(self.model)
        if self.snd is not None:
            with self.clock.phase(SND_UPDATE):
                self.train_snd(self.snd)

    def collect(self) -> None:
        """One rollout: policy, emulators, novelty, storage, each after the other has ended; then GAE."""
        policy, buffer = self.model.policy, self.model.rollout_buffer
        assert isinstance(buffer, NaiveBuffer)
        policy.set_training_mode(False)
        buffer.reset()
        for _ in range(self.model.n_steps):
            with th.no_grad():
                actions, values, log_probs = policy(self.state)
            actions = actions.cpu().numpy()
            obs, extrinsic, dones, _ = self.env.step(actions)
            rewards = [extrinsic] if self.snd is None else [extrinsic, self.intrinsic_reward(self.snd)]
            next_state = self._to_state(obs)  # of the next episode where one ended, as in the reference
            buffer.successors.store(buffer.pos, next_state, dones)
            buffer.add(self.state, actions, np.stack(rewards, axis=1), self.episode_starts, values, log_probs)
            self.state, self.episode_starts = next_state, dones
        with th.no_grad():
            values = policy.predict_values(self.state)
        buffer.compute_returns_and_advantage(last_values=values, dones=self.episode_starts)

    @th.no_grad()
    def intrinsic_reward(self, snd: SND) -> np.ndarray:
        """
        Target once for the log, then learner and target twice, for the reward and for the log.

        :param snd: The nets
        :return: ``(n_envs,)`` float32
        """
        with contextlib.nullcontext() if self.coarse else self.clock.phase(NOVELTY):
            newest = self._newest(self.state)
            snd.target.update_statistics(newest)
            frames = snd.target.preprocess(newest)
            snd.target(frames).norm(dim=1).mean().item()
            snd.target.novelty(snd.learner(frames), snd.target(frames)).mean().item()
            return snd.scale(snd.target.novelty(snd.learner(frames), snd.target(frames))).cpu().numpy()

    def train_snd(self, snd: SND) -> None:
        """
        One pass over the rollout: target(s_t) twice, target(s_{t+1}) once, where the loss asks for it, learner once.

        :param snd: The nets
        """
        buffer = self.model.rollout_buffer
        assert isinstance(buffer, NaiveBuffer)
        states, successors = buffer.store, buffer.successors
        size = buffer.buffer_size * buffer.n_envs

        def load(memory: FrameStore, rows: th.Tensor) -> th.Tensor:
            return snd.target.preprocess(self._newest(memory.read(rows).to(self.model.device)))

        for rows in th.arange(size).split(snd.minibatch_size(size)):
            frames, next_frames = load(states, rows), load(successors, rows)  # (B, c, H, W) each
            with th.no_grad():
                snd.target(frames)  # for distillation; the loss computes it once more
            next_index = th.arange(len(rows), 2 * len(rows), device=self.model.device)
            both = th.cat([frames, next_frames])
            batch = Transitions(both, next_index, size, lambda chosen: load(states, chosen))
            terms = snd.target.loss(batch, snd.learner)
            snd.optimizer.zero_grad()
            terms["loss"].backward()
            snd.optimizer.step()


SCHEDULES: dict[str, Any] = {
    "ours": PackageSchedule,
    "naive": NaiveSchedule,
    "stock": StockSchedule,
    "eager": EagerSchedule,
    "one-stream": OneStreamSchedule,
    "emulators": EmulatorSchedule,
    "nets": StillSchedule,
}
