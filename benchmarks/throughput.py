"""
Steps per second of a whole training iteration, by phase, beside the naive schedule; peak memory of both.

``python benchmarks/throughput.py --algo ppo_snd`` builds the model as ``train.py`` does and times its own
``collect_rollouts`` and ``train``. It only measures: nothing here makes anything faster. See README.md beside this file.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
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
from sb3_snd.type_aliases import Transitions
from sb3_snd.zoo import ALGO_KEYS, FullRunTime, SNDExperimentManager, keep_freed_memory, register

STEPPING, INFERENCE, NOVELTY, PPO_UPDATE, SND_UPDATE, OTHER = PHASES = (
    "stepping",
    "inference",
    "novelty",
    "PPO update",
    "SND update",
    "other",
)
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
    What both schedules share: a model of the YAML entry, its environments, and a clock.

    :param args: Of the command line
    :param folder: Where the Zoo may write
    :param hyperparams: Further ones, over those of the YAML entry
    """

    def __init__(self, args: argparse.Namespace, folder: str, **hyperparams: Any) -> None:
        names = ("n_envs", "n_steps", "batch_size", "n_epochs")
        asked = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        options: dict[str, Any] = dict(seed=args.seed, verbose=0, device=args.device, eval_freq=-1)
        try:
            self.manager = SNDExperimentManager(
                args, args.algo, args.env, folder, hyperparams={**asked, **hyperparams}, **options
            )
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
        super().__init__(args, folder)
        if self.snd is not None:
            for method in ("update_statistics", "novelty"):
                self.clock.wrap(self.snd, method, NOVELTY)
            self.clock.wrap(self.snd, "train_on_rollout", SND_UPDATE)
        callbacks = [callback for callback in self.manager.callbacks if not isinstance(callback, FullRunTime)]
        _, self.callback = self.model._setup_learn(self.manager.n_timesteps, callbacks)
        self.callback.on_training_start(locals(), globals())

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


class NaiveBuffer(StreamRolloutBuffer):
    """s_t and s_{t+1} as float32 in host memory; each minibatch is copied out of it, then to the device."""

    next_observations: th.Tensor

    def reset(self) -> None:
        """Allocate once, then empty."""
        if not hasattr(self, "observations"):
            shape = (self.buffer_size, self.n_envs, *self.obs_shape)
            self.observations, self.next_observations = th.zeros(shape), th.zeros(shape)
        super().reset()

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> RolloutBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(observations=samples.observations.to(self.device))


class NaiveSchedule(Schedule):
    """
    The same nets, losses and environments in the order of the reference program: one thing after the other, float32,
    contiguous layout, every feature computed where it is needed.

    :param args: Of the command line
    :param folder: Where the Zoo may write
    """

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        super().__init__(args, folder, rollout_buffer_class=NaiveBuffer)
        space = self.env.observation_space
        if not (isinstance(space, Box) and is_image_space(space) and is_image_space_channels_first(space)):
            sys.exit(f"throughput.py: the naive schedule reads images, channels first, not {space}: use --no-naive.")
        self.model.policy.normalize_images = False  # what it stores lies in [0, 1] already
        for net in (self.model.policy, self.snd):
            if net is not None:
                net.to(dtype=th.float32, memory_format=th.contiguous_format)  # type: ignore[call-overload]
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
            buffer.next_observations[buffer.pos].copy_(next_state)
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
        assert isinstance(buffer, NaiveBuffer) and isinstance(buffer.observations, th.Tensor)
        states, successors = buffer.observations.flatten(0, 1), buffer.next_observations.flatten(0, 1)  # (T * N, C, H, W)

        def load(memory: th.Tensor, rows: th.Tensor) -> th.Tensor:
            return snd.target.preprocess(self._newest(memory[rows.cpu()].to(self.model.device)))

        for rows in th.arange(len(states)).split(snd.batch_size):
            frames, next_frames = load(states, rows), load(successors, rows)  # (B, c, H, W) each
            with th.no_grad():
                snd.target(frames)  # for distillation; the loss computes it once more
            next_index = th.arange(len(rows), 2 * len(rows), device=self.model.device)
            both = th.cat([frames, next_frames])
            batch = Transitions(both, next_index, len(states), lambda chosen: load(states, chosen))
            terms = snd.target.loss(batch, snd.learner)
            snd.optimizer.zero_grad()
            terms["loss"].backward()
            snd.optimizer.step()


SCHEDULES: dict[str, type[Schedule]] = {"ours": PackageSchedule, "naive": NaiveSchedule}


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


def measure_memory(name: str, args: argparse.Namespace, folder: str) -> dict[str, int]:
    """
    Run one iteration with one epoch in this process, which must have done nothing else.

    :param name: Of the schedule
    :param args: Of the command line
    :param folder: Where the Zoo may write
    :return: peaks in bytes
    """
    schedule = SCHEDULES[name](args, folder)
    schedule.warm_up()
    peaks = {"host": peak_host_memory()}
    if schedule.model.device.type == "cuda":
        peaks["device"] = th.cuda.max_memory_allocated(schedule.model.device)
    schedule.close()
    return peaks


def memory_in_child(name: str, argv: list[str]) -> dict[str, int]:
    """
    :param name: Of the schedule
    :param argv: The command line
    :return: its :func:`measure_memory` from a process of its own
    """
    command = [sys.executable, __file__, *argv, "--memory-of", name]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def measure_speed(schedules: dict[str, Schedule], n_pairs: int) -> dict[str, list[dict[str, float]]]:
    """
    Alternate the schedules, so that a drift of the machine's speed meets both; every second pair goes the other way round.

    :param schedules: By name
    :param n_pairs: Iterations of each
    :return: seconds by phase of each iteration
    """
    for name, schedule in schedules.items():
        print(f"warm-up, {name}", flush=True)
        schedule.warm_up()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in schedules}
    for pair in range(n_pairs):
        order = list(schedules) if pair % 2 == 0 else list(schedules)[::-1]
        for name in order:
            seconds = schedules[name].measure()
            runs[name].append(seconds)
            whole, size = sum(seconds.values()), steps_per_iteration(schedules[name].model)
            phases = ", ".join(f"{phase} {value:.2f}" for phase, value in seconds.items())
            print(f"{pair + 1}/{n_pairs}, {name}: {size / whole:.0f} steps/s, {whole:.2f} s: {phases}", flush=True)
    return runs


def steps_per_iteration(model: PPO) -> int:
    """
    :param model: The model
    :return: transitions in a rollout
    """
    return model.n_steps * model.n_envs


def summarise(runs: dict[str, list[dict[str, float]]], size: int) -> dict[str, Any]:
    """
    :param runs: From :func:`measure_speed`
    :param size: Transitions in a rollout
    :return: medians over the iterations of each schedule; with both, median, least and largest ratio within a pair
    """
    summary: dict[str, Any] = {}
    wholes = {name: [sum(seconds.values()) for seconds in run] for name, run in runs.items()}
    for name, run in runs.items():
        whole = statistics.median(wholes[name])
        phases = {phase: statistics.median(seconds[phase] for seconds in run) for phase in PHASES}
        summary[name] = {"steps_per_s": size / whole, "whole": whole, "phases": phases}
    if len(runs) == 2:
        ratios = [naive / ours for ours, naive in zip(wholes["ours"], wholes["naive"], strict=True)]
        summary["speed_ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return summary


def _row(label: str, values: list[float], wholes: list[float] | None, digits: int, speed: bool = False) -> str:
    """One line of the table: for each schedule a value and its share, then how many times better the first is."""
    cells = [label]
    for i, value in enumerate(values):
        cells += [f"{value:.{digits}f}", "" if wholes is None else f"{100 * value / wholes[i]:.0f} %"]
    if len(values) == 2:
        better, worse = values if speed else values[::-1]
        cells.append(f"{better / worse:.2f}" if worse > 0 else "")
    return f"| {' | '.join(cells)} |"


def table(summary: dict[str, Any], memory: dict[str, dict[str, int]]) -> str:
    """
    :param summary: From :func:`summarise`
    :param memory: Peaks in bytes by schedule
    :return: a Markdown table
    """
    names = [name for name in SCHEDULES if name in summary]
    heads = ["median of an iteration", *(head for name in names for head in (f"{name}, s", "share"))]
    heads += ["naive / ours"] * (len(names) == 2)
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    wholes = [summary[name]["whole"] for name in names]
    for phase in PHASES:
        lines.append(_row(phase, [summary[name]["phases"][phase] for name in names], wholes, 3))
    lines.append(_row("**whole**", wholes, wholes, 3))
    lines.append(_row("**steps/s** (ratio ours / naive)", [summary[name]["steps_per_s"] for name in names], None, 0, True))
    for kind in memory.get("ours", {}):
        peaks = [memory[name][kind] / 2**20 for name in names]
        lines.append(_row(f"peak memory, {kind}, MiB", peaks, None, 0))
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
    parser.add_argument("--algo", choices=("ppo", *ALGO_KEYS), default="ppo_snd")
    parser.add_argument("--env", default="MontezumaRevengeNoFrameskip-v4", help="id with an entry in hyperparams/")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n-envs", type=int, help=f"{entry}, 128")
    parser.add_argument("--n-steps", type=int, help=f"{entry}, 128")
    parser.add_argument("--batch-size", type=int, help=f"{entry}, 512")
    parser.add_argument("--n-epochs", type=int, help=f"{entry}, 4")
    parser.add_argument("--pairs", type=int, default=5, help="counted iterations of each schedule")
    parser.add_argument("--no-naive", action="store_true", help="measure the package alone")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="PyTorch's threads; by default as many as it chooses")
    parser.add_argument("--json", type=Path, help="file to write all numbers to")
    parser.add_argument("--memory-of", choices=SCHEDULES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.pairs < 1:
        parser.error("--pairs must be 1 at least.")
    return args


def main(argv: list[str]) -> None:
    """
    Measure, print a table, write the numbers.

    :param argv: The command line
    """
    args = parse_arguments(argv)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # tells of other programs at work
    register()
    keep_freed_memory()  # for the whole process, so for both schedules
    if args.threads is not None:
        th.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        if args.memory_of is not None:
            print(json.dumps(measure_memory(args.memory_of, args, folder)))
            return
        names = ["ours"] if args.no_naive else list(SCHEDULES)
        memory = {} if args.no_memory else {name: memory_in_child(name, argv) for name in names}
        schedules = {name: SCHEDULES[name](args, folder) for name in names}
        runs = measure_speed(schedules, args.pairs)
        for schedule in schedules.values():
            schedule.close()
    model = schedules["ours"].model
    summary = summarise(runs, steps_per_iteration(model))
    names_of_settings = ("n_envs", "n_steps", "batch_size", "n_epochs")
    settings = {key: value for key, value in vars(args).items() if key not in ("json", "memory_of")}
    settings.update({name: getattr(model, name) for name in names_of_settings})
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(model.device),
        "load_average_at_start": load,
        "settings": settings,
        "summary": summary,
        "peak_memory_bytes": memory,
        "seconds_of_each_iteration": runs,
    }
    print("\n" + table(summary, memory))
    if "speed_ratio" in summary:
        ratio = summary["speed_ratio"]
        print(
            f"\nSpeed, ours / naive: median {ratio['median']:.2f}, from {ratio['min']:.2f} to {ratio['max']:.2f}"
            f" over {args.pairs} pairs."
        )
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
