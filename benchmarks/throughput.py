"""
Steps per second of a whole training iteration, by phase, beside the naive schedule, stock PPO and others; peak memory.

``python benchmarks/throughput.py --algo ppo_snd`` builds the model of the YAML entry and times its own
``collect_rollouts`` and ``train``. It only measures: nothing here makes anything faster. See README.md beside this file.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch as th
from schedule_clock import PHASES
from schedules import ALGO_KEYS, SCHEDULES

from sb3_snd.common.memory import keep_freed_memory

PACKAGES = ("sb3-snd", "torch", "stable-baselines3", "ale-py", "gymnasium", "numpy")


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


def work(connection: Connection, name: str, args: argparse.Namespace, schedules: dict[str, Any]) -> None:
    """
    One schedule in a process of its own: warm up, say what it is, and measure an iteration for each message.

    :param connection: To the process that asks; None ends the work, and the peaks of memory are the last answer
    :param name: Of the schedule
    :param args: Of the command line
    :param schedules: What makes a schedule of these arguments, by name
    """
    if args.threads is not None:
        th.set_num_threads(args.threads)
    if args.keep_freed_memory:
        keep_freed_memory()
    schedule = schedules[name](args)
    schedule.warm_up()
    model = schedule.model
    sizes = {size: getattr(model, size) for size in ("n_envs", "n_steps", "batch_size", "n_epochs")}
    if name == "ours" and args.cuda_graphs and model.device.type == "cuda" and not all(schedule.recorded.values()):
        sys.exit(f"throughput.py: not everything was recorded: {schedule.recorded}.")
    connection.send({"machine": describe_machine(model.device), "sizes": sizes, "recorded": schedule.recorded})
    with contextlib.suppress(EOFError):  # another schedule failed
        while connection.recv() is not None:
            connection.send(schedule.measure())
    peaks = {"host": peak_host_memory()}
    if model.device.type == "cuda":
        peaks["device"] = th.cuda.max_memory_allocated(model.device)
        peaks["device, reserved"] = th.cuda.max_memory_reserved(model.device)  # with what recordings keep
    schedule.close()
    with contextlib.suppress(BrokenPipeError):
        connection.send(peaks)


class Worker:
    """
    A schedule at work in another process, so that neither memory nor the allocator's settings are shared.

    :param name: Of the schedule
    :param args: Of the command line
    :param schedules: What makes a schedule of these arguments, by name
    """

    def __init__(self, name: str, args: argparse.Namespace, schedules: dict[str, Any] = SCHEDULES) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, name, args, schedules), daemon=True)
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


Runs = dict[str, list[dict[str, float]]]


def measure_speed(workers: dict[str, Worker], n_rounds: int, deadline: float = math.inf) -> Iterator[Runs]:
    """
    Alternate the schedules, so that a drift of the machine's speed meets all; every second round goes the other way.

    :param workers: By the schedule's name
    :param n_rounds: Iterations of each
    :param deadline: Of ``time.monotonic``, after which no further round begins
    :return: after each round, seconds by phase of each iteration so far
    """
    runs: Runs = {name: [] for name in workers}
    for index in range(n_rounds):
        if index > 0 and time.monotonic() > deadline:
            break
        order = list(workers) if index % 2 == 0 else list(workers)[::-1]
        for name in order:
            spent = workers[name].measure()
            runs[name].append(spent)
            whole = sum(spent.values())
            phases = ", ".join(f"{phase} {value:.2f}" for phase, value in spent.items() if value)
            print(f"{index + 1}/{n_rounds}, {name}: {whole:.2f} s: {phases}", flush=True)
        yield runs


def summarise(runs: Runs, size: int) -> dict[str, Any]:
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
        if not any(row["phases"][phase] for row in summary.values()):
            continue
        add(f"{phase}, s", [f"{row['phases'][phase]:.1f}" for row in summary.values()])
    add("**whole**, s", [f"{row['whole']:.1f}" for row in summary.values()])
    add("**steps/s**", [f"{row['steps_per_s']:.0f}" for row in summary.values()])
    ratios = [row["ours_is_faster"] for row in summary.values()]
    add("ours is faster by", [f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" for ratio in ratios])
    for kind in memory["ours"]:
        add(f"peak memory, {kind}, GB", [f"{memory[name][kind] / 1e9:.2f}" for name in summary])
    return "\n".join(lines)


def questions(summary: dict[str, Any]) -> dict[str, float]:
    """
    :param summary: From :func:`summarise`
    :return: what follows from the medians of the schedules that were measured
    """
    answers, whole = {}, {name: row["whole"] for name, row in summary.items()}
    if "emulators" in whole and "nets" in whole:
        answers["whole loop against the larger of emulators and nets alone"] = whole["ours"] / max(
            whole["emulators"], whole["nets"]
        )
    if "one-stream" in whole:
        answers["whole loop against one stream without SND"] = whole["ours"] / whole["one-stream"]
        rollouts = [summary[name]["phases"]["rollout"] for name in ("ours", "one-stream")]
        if all(rollouts):
            answers["share of the rollout that novelty adds"] = 1 - rollouts[1] / rollouts[0]
    return answers


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
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no round later than this after the start")
    parser.add_argument("--coarse", action="store_true", help="rollout and updates only: the device is waited for less often")
    parser.add_argument(
        "--against", choices=[name for name in SCHEDULES if name != "ours"], nargs="*", default=["naive", "stock"]
    )
    parser.add_argument("--precision", help=f"of the package; {entry}, auto")
    parser.add_argument("--cuda-graphs", action="store_true", help="the package's argument of that name")
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
    deadline = time.monotonic() + args.seconds
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # tells of other programs at work
    workers = {}
    for name in ["ours", *dict.fromkeys(args.against)]:
        print(f"warm-up, {name}", flush=True)
        workers[name] = Worker(name, args)
    about = workers["ours"].about
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": about["machine"],
        "recorded": about["recorded"],
        "load_average_at_start": load,
        "settings": {**{key: value for key, value in vars(args).items() if key != "json"}, **about["sizes"]},
    }

    def write() -> None:
        if args.json is not None:
            args.json.write_text(json.dumps(report, indent=2) + "\n")

    for runs in measure_speed(workers, args.rounds, deadline):
        summary = summarise(runs, about["sizes"]["n_steps"] * about["sizes"]["n_envs"])
        answers = questions(summary)
        report.update(summary=summary, questions=answers, seconds_of_each_iteration=runs)
        write()  # so that a host that ends the program keeps the rounds that are done
    report["peak_memory_bytes"] = memory = {name: worker.close() for name, worker in workers.items()}
    write()
    print("\n" + table(summary, memory))
    for question, answer in answers.items():
        print(f"{question}: {answer:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
