"""
``make demo``: compare PPO with and without SND-VIC on two sparse control tasks, with five seeds each, the
entries of ``hyperparams/`` and ``train.py``. It writes a picture and a table. Finished runs are kept, so that
an interrupted demo can be resumed.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from sb3_snd.common.extras import require_or_exit
from sb3_snd.common.processors import available_cpus
from sb3_snd.runs.learning_curve import binned_scores, plot_comparison
from sb3_snd.sweep.runs import finished

ROOT = Path(__file__).parent.parent
KEYS = {"ppo": "PPO", "ppo_snd_vic": "PPO + SND-VIC"}
N_BINS = 30


def train(folder: Path, params: list[str], key: str, env_id: str, seed: int, n_steps: int) -> Path:
    """Train a run unless it is already finished; return its folder."""
    logs = folder / f"{n_steps}_steps" / f"seed_{seed}"
    run = logs / key / f"{env_id}_1"
    if not finished(run, n_steps):
        from sb3_snd import zoo  # here, so that only the processes of the pool import it

        shutil.rmtree(run, ignore_errors=True)  # left by an interrupted run
        options = ["--algo", key, "--env", env_id, "--seed", seed, "-n", n_steps, "-f", logs]
        options += ["-params", *params] if params else []
        sys.argv = ["train.py", *map(str, options), "--num-threads", "1", "--device", "cpu", "--verbose", "0"]
        with contextlib.redirect_stdout(io.StringIO()):
            zoo.train()
        if not finished(run, n_steps):
            raise KeyboardInterrupt  # the Zoo caught it and saved an unfinished model
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", nargs="+", default=["MountainCarContinuous-v0", "MountainCar-v0"])
    parser.add_argument("--algo", nargs="+", default=list(KEYS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("-n", "--n-timesteps", type=int, help="number of steps of a run (default: that of the YAML entry)")
    parser.add_argument("-f", "--folder", type=Path, default=Path("logs/demo"))
    parser.add_argument(
        "-params", "--hyperparams", nargs="+", default=[], help="override those of the entries; use another -f for such runs"
    )
    parser.add_argument("--jobs", type=int, default=available_cpus(), help="number of parallel runs, with one thread each")
    args = parser.parse_args()
    for package, extra in (("rl_zoo3", "zoo"), ("matplotlib", "plots"), ("pandas", "plots")):
        require_or_exit(package, extra)
    import yaml

    entries = yaml.safe_load((ROOT / "hyperparams" / "ppo.yml").read_text())
    n_steps = {env_id: args.n_timesteps or int(entries[env_id]["n_timesteps"]) for env_id in args.env}
    jobs = [(key, env_id, seed, n_steps[env_id]) for env_id in args.env for seed in range(args.seeds) for key in args.algo]
    runs = {}
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(train, args.folder, args.hyperparams, *job): job for job in jobs}
        for future in as_completed(futures):
            runs[futures[future][:3]] = future.result()
            print(f"{len(runs):>3} of {len(jobs)} runs", end="\r" if len(runs) < len(jobs) else "\n", flush=True)

    panels: dict[str, dict[str, list[np.ndarray]]] = {}
    lines = ["| environment | algorithm | score of the last fifth, mean ± std over runs | each run |", "|---|---|---|---|"]
    for env_id in args.env:
        panels[env_id] = {}
        for key in args.algo:
            folders = [runs[key, env_id, seed] for seed in range(args.seeds)]
            name = KEYS.get(key, key)
            panels[env_id][name] = [binned_scores(folder, n_steps[env_id], N_BINS) for folder in folders]
            last = np.array([binned_scores(folder, n_steps[env_id], 5)[-1] for folder in folders])
            each = ", ".join(f"{score:.1f}" for score in last)
            lines.append(f"| {env_id} | {name} | {last.mean():.1f} ± {last.std():.1f} | {each} |")
    plot_comparison(panels, n_steps, args.folder / "demo.png")
    (args.folder / "demo.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"picture: {args.folder / 'demo.png'}")


if __name__ == "__main__":
    main()
