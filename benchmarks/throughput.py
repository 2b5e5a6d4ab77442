"""
Steps per second of a whole training iteration, by phase, beside the naive schedule and stock PPO; peak memory of each.

``python benchmarks/throughput.py --algo ppo_snd`` builds the model as ``train.py`` does and times its own
``collect_rollouts`` and ``train``. It only measures: nothing here makes anything faster. See README.md beside this file.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBufferSamples
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_snd import SND
from sb3_snd.buffers import StreamRolloutBuffer
from sb3_snd.frame_stacks import FrameStore
from sb3_snd.hardware import keep_freed_memory
from sb3_snd.targets.std import STDTarget, infonce
from sb3_snd.torch_layers import SNDTrunk
from sb3_snd.type_aliases import Transitions
from sb3_snd.zoo import ALGO_KEYS, FullRunTime, SNDExperimentManager, register

STEPPING, INFERENCE, NOVELTY, PPO_UPDATE, SND_UPDATE, OTHER = PHASES = (
    "stepping",
    "inference",
    "novelty",
    "PPO update",
    "SND update",
    "other",
)
STOCK_POLICY = "stable_baselines3.common.policies.ActorCriticCnnPolicy"
PACKAGES = ("sb3-snd", "torch", "stable-baselines3", "rl_zoo3", "ale-py", "gymnasium", "numpy")


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


class Schedule:
    """
    What all schedules share: a model of the YAML entry, its environments, and a clock.

    :param args: Of the command line
    :param folder: Where the Zoo may write
    :param algo: Algo key
    :param hyperparams: Further ones, over those of the YAML entry and of the command line
    """

    def __init__(self, args: argparse.Namespace, folder: str, algo: str, **hyperparams: Any) -> None:
        names = ("n_envs", "n_steps", "batch_size", "n_epochs")
        asked = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        options: dict[str, Any] = dict(seed=args.seed, verbose=0, device=args.device, eval_freq=-1)
        if args.frame_size is not None:
            options["env_kwargs"] = dict(frame_size=args.frame_size)
        try:
            self.manager = SNDExperimentManager(args, algo, args.env, folder, hyperparams={**asked, **hyperparams}, **options)
            with contextlib.redirect_stdout(io.StringIO()):
                experiment = self.manager.setup_experiment()
        except KeyError:
            sys.exit(f"throughput.py: there is no environment {args.env}.")
        except ValueError as error:
            sys.exit(f"throughput.py: {error}")
        assert experiment is not None and isinstance(experiment[0], PPO)
        self.model = experiment[0]
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.snd: SND | None = getattr(self.model, "snd", None)
        env = self.model.get_env()
        assert env is not None
        self.env: VecEnv = env  # without intrinsic reward
        self.clock = Clock(self.model.device)
        innermost = env
        while isinstance(innermost, VecEnvWrapper):
            innermost = innermost.venv
        for method in ("step_async", "step_wait"):
            self.clock.wrap(innermost, method, STEPPING)
        for method in ("forward", "predict_values"):
            self.clock.wrap(self.model.policy, method, INFERENCE)

    def _start_callbacks(self) -> None:
        callbacks = [callback for callback in self.manager.callbacks if not isinstance(callback, FullRunTime)]
        _, self.callback = self.model._setup_learn(self.manager.n_timesteps, callbacks)
        self.callback.on_training_start(locals(), globals())

    def iterate(self) -> None:
        """One rollout and the updates that follow it."""
        raise NotImplementedError

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
    The package as ``train.py`` runs it: the model's own rollout and update, with the callback that writes the log.

    The emulators run in threads of their own while novelty is computed. Stepping is the time spent in sending actions
    and waiting for results, so the part of the emulators' work that novelty hides is not in it.

    :param args: Of the command line
    :param folder: Where the Zoo may write
    """

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        super().__init__(args, folder, args.algo, **({} if args.precision is None else dict(precision=args.precision)))
        if self.model.device.type == "cpu":
            keep_freed_memory()  # as learn() does
        if self.snd is not None:
            for method in ("update_statistics", "novelty"):
                self.clock.wrap(self.snd, method, NOVELTY)
            self.clock.wrap(self.snd, "train_on_rollout", SND_UPDATE)
        self._start_callbacks()

    def iterate(self) -> None:
        """See :meth:`Schedule.iterate`; ``PPOSND.train`` calls the SND update within it."""
        model = self.model
        assert model.env is not None
        model.collect_rollouts(model.env, self.callback, model.rollout_buffer, model.n_steps)
        with self.clock.phase(PPO_UPDATE):
            model.train()

    def close(self) -> None:
        """End log and environments."""
        self.callback.on_training_end()
        super().close()


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
    :param folder: Where the Zoo may write
    """

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        policy_kwargs = dict(features_extractor_class=PlainTrunk, net_arch=dict(pi=[512], vf=[512]))
        Schedule.__init__(self, args, folder, "ppo", policy=STOCK_POLICY, policy_kwargs=policy_kwargs)
        self._start_callbacks()


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
    :param folder: Where the Zoo may write
    """

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        super().__init__(args, folder, args.algo, rollout_buffer_class=NaiveBuffer, precision="float32")
        space = self.env.observation_space
        if not (isinstance(space, Box) and is_image_space(space) and is_image_space_channels_first(space)):
            sys.exit(f"throughput.py: the naive schedule reads images, channels first, not {space}: use --against stock.")
        self.model.policy.normalize_images = False  # what it stores lies in [0, 1] already
        if self.snd is not None and isinstance(self.snd.target, STDTarget):
            self.snd.target.contrast = plain_contrast  # type: ignore[method-assign]
        for part in (self.model.policy, self.snd):
            if part is not None:
                make_plain(part)
                for group in part.optimizer.param_groups:
                    group["fused"] = None
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
        with self.clock.phase(NOVELTY):
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


SCHEDULES: dict[str, Any] = {"ours": PackageSchedule, "naive": NaiveSchedule, "stock": StockSchedule}


def peak_host_memory() -> int:
    """
    :return: largest resident size of this process in bytes
    """
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would also count the parent's size at the fork
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def work(connection: Connection, name: str, args: argparse.Namespace) -> None:
    """
    One schedule in a process of its own: warm up, say what it is, and measure an iteration for each message.

    :param connection: To the process that asks; None ends the work, and the peaks of memory are the last answer
    :param name: Of the schedule
    :param args: Of the command line
    """
    register()
    if args.threads is not None:
        th.set_num_threads(args.threads)
    if args.keep_freed_memory:
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        schedule = SCHEDULES[name](args, folder)
        schedule.warm_up()
        model = schedule.model
        sizes = {size: getattr(model, size) for size in ("n_envs", "n_steps", "batch_size", "n_epochs")}
        connection.send({"machine": describe_machine(model.device), "sizes": sizes})
        with contextlib.suppress(EOFError):  # another schedule failed
            while connection.recv() is not None:
                connection.send(schedule.measure())
        peaks = {"host": peak_host_memory()}
        if model.device.type == "cuda":
            peaks["device"] = th.cuda.max_memory_allocated(model.device)
        schedule.close()
    with contextlib.suppress(BrokenPipeError):
        connection.send(peaks)


class Worker:
    """
    A schedule at work in another process, so that neither memory nor the allocator's settings are shared.

    :param name: Of the schedule
    :param args: Of the command line
    """

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, name, args), daemon=True)
        self.process.start()
        other.close()
        self.about = self._receive()

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            sys.exit("throughput.py: a schedule ended before its time; what it said stands above.")

    def measure(self) -> dict[str, float]:
        """
        :return: seconds of one iteration, by phase
        """
        self.connection.send("measure")
        return self._receive()

    def close(self) -> dict[str, int]:
        """
        :return: peaks of memory in bytes
        """
        self.connection.send(None)
        peaks = self._receive()
        self.process.join()
        return peaks


def measure_speed(workers: dict[str, Worker], n_rounds: int) -> dict[str, list[dict[str, float]]]:
    """
    Alternate the schedules, so that a drift of the machine's speed meets all; every second round goes the other way.

    :param workers: By the schedule's name
    :param n_rounds: Iterations of each
    :return: seconds by phase of each iteration
    """
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for index in range(n_rounds):
        order = list(workers) if index % 2 == 0 else list(workers)[::-1]
        for name in order:
            seconds = workers[name].measure()
            runs[name].append(seconds)
            whole = sum(seconds.values())
            phases = ", ".join(f"{phase} {value:.2f}" for phase, value in seconds.items())
            print(f"{index + 1}/{n_rounds}, {name}: {whole:.2f} s: {phases}", flush=True)
    return runs


def summarise(runs: dict[str, list[dict[str, float]]], size: int) -> dict[str, Any]:
    """
    :param runs: From :func:`measure_speed`
    :param size: Transitions in a rollout
    :return: medians over the iterations of each schedule; beside others, median, least and largest ratio to ours in a round
    """
    summary: dict[str, Any] = {}
    wholes = {name: [sum(seconds.values()) for seconds in run] for name, run in runs.items()}
    for name, run in runs.items():
        whole = statistics.median(wholes[name])
        phases = {phase: statistics.median(seconds[phase] for seconds in run) for phase in PHASES}
        summary[name] = {"steps_per_s": size / whole, "whole": whole, "phases": phases}
        ratios = [other / ours for ours, other in zip(wholes["ours"], wholes[name], strict=True)]
        summary[name]["ours_is_faster"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return summary


def table(summary: dict[str, Any], memory: dict[str, dict[str, int]]) -> str:
    """
    :param summary: From :func:`summarise`
    :param memory: Peaks in bytes by schedule
    :return: a Markdown table
    """
    lines = [f"| median of an iteration | {' | '.join(summary)} |", "|---" + "|---:" * len(summary) + "|"]

    def add(label: str, cells: list[str]) -> None:
        lines.append(f"| {label} | {' | '.join(cells)} |")

    for phase in PHASES:
        add(f"{phase}, s", [f"{row['phases'][phase]:.1f}" for row in summary.values()])
    add("**whole**, s", [f"{row['whole']:.1f}" for row in summary.values()])
    add("**steps/s**", [f"{row['steps_per_s']:.0f}" for row in summary.values()])
    ratios = [row["ours_is_faster"] for row in summary.values()]
    add("ours is faster by", [f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" for ratio in ratios])
    for kind in memory["ours"]:
        add(f"peak memory, {kind}, GB", [f"{memory[name][kind] / 1e9:.2f}" for name in summary])
    return "\n".join(lines)


def describe_machine(device: th.device) -> dict[str, Any]:
    """
    :param device: Of the nets
    :return: processor, cores, threads, accelerator, memory setting and versions
    """
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.is_file() else []
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": models[0].split(":")[1].strip() if models else platform.processor(),
        "cpu_capability": th.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch_threads": th.get_num_threads(),
        "device": str(device),
        "accelerator": th.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.system(),
        "versions": versions,
    }


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """
    :param argv: The command line
    :return: its options
    """
    entry = "by default the YAML entry's"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=ALGO_KEYS, default="ppo_snd")
    parser.add_argument("--env", default="MontezumaRevengeNoFrameskip-v4", help="id with an entry in hyperparams/")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n-envs", type=int, help=f"{entry}, 128")
    parser.add_argument("--n-steps", type=int, help=f"{entry}, 128")
    parser.add_argument("--batch-size", type=int, help=f"{entry}, 512")
    parser.add_argument("--n-epochs", type=int, help=f"{entry}, 4")
    parser.add_argument("--frame-size", type=int, help=f"side of Atari's frames; {entry}, 96")
    parser.add_argument("--rounds", type=int, default=5, help="counted iterations of each schedule")
    parser.add_argument("--against", choices=("naive", "stock"), nargs="*", default=["naive", "stock"])
    parser.add_argument("--precision", help=f"of the package; {entry}, auto")
    parser.add_argument("--keep-freed-memory", action="store_true", help="give the others the package's allocator settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="PyTorch's threads; by default as many as it chooses")
    parser.add_argument("--json", type=Path, help="file to write all numbers to")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be 1 at least.")
    return args


def main(argv: list[str]) -> None:
    """
    Measure, print a table, write the numbers.

    :param argv: The command line
    """
    args = parse_arguments(argv)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # tells of other programs at work
    workers = {}
    for name in ["ours", *dict.fromkeys(args.against)]:
        print(f"warm-up, {name}", flush=True)
        workers[name] = Worker(name, args)
    runs = measure_speed(workers, args.rounds)
    memory = {name: worker.close() for name, worker in workers.items()}
    about = workers["ours"].about
    summary = summarise(runs, about["sizes"]["n_steps"] * about["sizes"]["n_envs"])
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": about["machine"],
        "load_average_at_start": load,
        "settings": {**{key: value for key, value in vars(args).items() if key != "json"}, **about["sizes"]},
        "summary": summary,
        "peak_memory_bytes": memory,
        "seconds_of_each_iteration": runs,
    }
    print("\n" + table(summary, memory))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
