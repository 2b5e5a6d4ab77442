"""
Time and memory of a report on a whole study: ten environments, five models, nine seeds, 10⁵ episodes each.

``python benchmarks/report_study.py`` makes up the logs in a temporary folder and runs ``python -m sb3_snd.report`` on them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from sb3_snd.common.extras import require_or_exit

ATARI = ("MontezumaRevenge", "Gravitar", "Venture", "PrivateEye", "Pitfall", "Solaris")
PROCGEN = ("caveflyer", "coinrun", "jumper", "climber")
ENVS = [*(f"{game}NoFrameskip-v4" for game in ATARI), *(f"procgen-{game}-v0" for game in PROCGEN)]
ALGOS = ("ppo", "ppo_rnd", "ppo_snd_v", "ppo_snd_std", "ppo_snd_vic")


def write_logs(folder: Path, n_seeds: int, n_episodes: int) -> None:
    """
    :param folder: Where to; runs of one environment share the same file on the disk
    :param n_seeds: Runs of each model in each environment
    :param n_episodes: Episodes of a run
    """
    random = np.random.default_rng(0)
    for env_id in ENVS:
        columns = {
            "r": random.integers(0, 9, n_episodes) * 100.0,
            "l": random.integers(200, 2000, n_episodes),
            "t": np.arange(n_episodes) * 0.1,
            "r_ext": random.integers(0, 9, n_episodes).astype(float),
            "r_int": random.random(n_episodes) * 10,
        }
        lines = [f"{r},{n},{t:.6f},{e},{i:.6f}" for r, n, t, e, i in zip(*columns.values(), strict=True)]
        header = json.dumps({"t_start": 0.0, "env_id": env_id})
        first: Path | None = None
        for algo in ALGOS:
            for seed in range(1, n_seeds + 1):
                run = folder / algo / f"{env_id}_{seed}"
                run.mkdir(parents=True)
                path = run / "monitor.csv"
                if first is None:
                    path.write_text(f"#{header}\n{','.join(columns)}\n" + "\n".join(lines) + "\n")
                    first = path
                else:
                    path.hardlink_to(first)


def resident_size(pid: int) -> int:
    """
    :param pid: A process
    :return: bytes that it and its children hold, shared pages counted in each
    """
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
        own = int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    except (OSError, IndexError):  # it has just ended
        return 0
    return own + sum(map(resident_size, children))


def main() -> None:
    """Make up the logs, report on them, print seconds and the largest memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--episodes", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        write_logs(logs, args.seeds, args.episodes)
        start, sizes = time.perf_counter(), [0]
        process = subprocess.Popen([sys.executable, "-m", "sb3_snd.report", logs, "--out", Path(folder) / "report"])

        def watch() -> None:
            while process.poll() is None:
                sizes.append(resident_size(process.pid))
                time.sleep(0.05)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        watcher.join()
        if code != 0:
            sys.exit(code)
        seconds = time.perf_counter() - start
        n_runs = len(ENVS) * len(ALGOS) * args.seeds
        print(f"{n_runs} runs of {args.episodes:,} episodes: {seconds:.1f} s, {max(sizes) / 1e9:.2f} GB at most")


if __name__ == "__main__":
    require_or_exit("tqdm", "plots")
    main()
