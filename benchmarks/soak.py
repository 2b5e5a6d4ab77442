"""
Half an hour of small training with random faults: environments' workers killed, checkpoints truncated, SIGTERM and SIGKILL, a
disk that is full. Every run goes on by ``--resume``; at its end it has to have all its transitions, once each, and the memory
of a long run must not grow.

    python benchmarks/soak.py --minutes 30
"""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from report_study import resident_size

from sb3_snd.common.extras import require_or_exit

ROOT = Path(__file__).parent.parent
ENV_ID = "DeepSea-v0"
N_ENVS, N_STEPS = 4, 32
ROLLOUT = N_ENVS * N_STEPS
KINDS = ("SIGTERM", "SIGKILL", "worker killed", "checkpoint truncated", "disk full")


def command(logs: Path, n_steps: int, *more: str) -> list[str]:
    """:return: the run of the folder, as far as that step"""
    options = ["--algo", "ppo_snd_v", "--env", ENV_ID, "-n", n_steps, "--seed", 0, "-f", logs, "--save-freq", ROLLOUT]
    sizes = [f"n_envs:{N_ENVS}", f"n_steps:{N_STEPS}", "batch_size:64", "n_epochs:1"]
    program = [sys.executable, "-W", "ignore", str(ROOT / "train.py"), *map(str, options), "--num-threads", "1", "--resume"]
    return [*program, *more, "-params", *sizes]


def children(pid: int) -> list[int]:
    """:return: process numbers"""
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def steps_of(logs: Path) -> int:
    """:return: steps of the newest checkpoint"""
    found = [int(path.stem.split("_")[2]) for path in logs.rglob("rl_model_*_steps.zip")]
    return max(found, default=0)


def fault(kind: str, logs: Path, n_steps: int, rng: random.Random) -> bool:
    """
    :param kind: One of ``KINDS``
    :param logs: Log folder of the run
    :param n_steps: Of the whole run
    :param rng: Draws the moment
    :return: whether it happened before the run was over
    """
    if kind == "checkpoint truncated":
        newest = max(logs.rglob("rl_model_*_steps.zip"), key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            return False
        os.truncate(newest, rng.randrange(newest.stat().st_size))
        return True
    # A file may get as large as a few kilobytes: the next checkpoint does not fit
    limit = (
        ["bash", "-c", f'ulimit -f {rng.randrange(16, 64)}; trap "" XFSZ; exec "$@"', "train"] if kind == "disk full" else []
    )
    more = ["--vec-env", "subproc"] if kind == "worker killed" else []
    process = subprocess.Popen([*limit, *command(logs, n_steps, *more)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start, before = time.time(), steps_of(logs)
    while process.poll() is None and steps_of(logs) <= before and kind != "disk full":
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 3))
    if process.poll() is None:
        if kind == "worker killed":
            os.kill(rng.choice(children(process.pid) or [process.pid]), signal.SIGKILL)
        elif kind != "disk full":
            process.send_signal(signal.Signals[kind])
    code = process.wait(timeout=max(1.0, start + 180 - time.time()))  # a hang is a failure
    return code != 0


def lost(logs: Path, n_steps: int) -> int:
    """:return: how many transitions are missing in or twice in the monitor file and the log, of a run that is over"""
    (monitor,) = logs.rglob("monitor.csv")
    rows = list(csv.DictReader(monitor.read_text().splitlines()[1:]))
    (progress,) = logs.rglob("progress.csv")
    logged = [int(row["time/total_timesteps"]) for row in csv.DictReader(progress.read_text().splitlines())]
    expected = list(range(ROLLOUT, n_steps + 1, ROLLOUT))
    open_steps = n_steps - sum(int(row["l"]) for row in rows)  # of the episodes under way
    return (
        len(set(expected) ^ set(logged)) * ROLLOUT
        + (len(logged) - len(set(logged))) * ROLLOUT
        + max(0, open_steps - N_ENVS * 10, -open_steps)
    )


def memory_growth(logs: Path, seconds: float) -> float:
    """:return: growth of the resident size of a run that nobody disturbs, after the first third, relative"""
    process = subprocess.Popen(command(logs, 10**8), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sizes, end = [], time.time() + seconds
    while time.time() < end and process.poll() is None:
        sizes.append(resident_size(process.pid))
        time.sleep(0.5)
    process.terminate()
    process.wait(60)
    third = len(sizes) // 3
    middle, last = sorted(sizes[third : 2 * third]), sorted(sizes[2 * third :])
    return last[len(last) // 2] / middle[len(middle) // 2] - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-n", "--n-timesteps", type=int, default=200 * ROLLOUT, help="of a run")
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args()
    rng, end = random.Random(args.seed), time.time() + 60 * args.minutes
    survived: Counter[str] = Counter()
    n_lost, n_runs = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        growth = memory_growth(Path(folder) / "long", 60 * args.minutes / 5)
        while time.time() < end:
            logs, n_runs = Path(folder) / str(n_runs), n_runs + 1
            for kind in rng.sample(KINDS, len(KINDS)):
                survived[kind] += fault(kind, logs, args.n_timesteps, rng)
            subprocess.run(command(logs, args.n_timesteps), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            n_lost += lost(logs, args.n_timesteps)
            print(f"{n_runs} runs, faults survived {dict(survived)}, transitions lost {n_lost}", flush=True)
    figures = {"runs": n_runs, "survived": survived, "lost": n_lost, "memory_growth": growth, "minutes": args.minutes}
    print(f"memory growth after warm-up {growth:+.2%}")
    if args.json is not None:
        args.json.write_text(json.dumps({**figures, "seed": args.seed}, indent=1) + "\n")


if __name__ == "__main__":
    require_or_exit("rl_zoo3", "zoo")
    main()
