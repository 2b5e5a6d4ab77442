"""
``make demo``: compare PPO with and without a bonus in MountainCar, which is always the same, and in MiniGrid's DoorKey,
which is new in each episode. The runs are those of ``sb3-snd train``, with the entries of ``hyperparams/``. Results are a
picture and a table. Finished runs are kept, so that an interrupted demo can be resumed.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from sb3_snd.common.extras import require_or_exit
from sb3_snd.common.processors import available_cpus
from sb3_snd.sweep.job import is_finished

ROOT = Path(__file__).parent.parent
NAMES = {
    "ppo": "PPO",
    "ppo_snd_vic": "PPO + SND-VIC",
    "ppo_snd_e3b": "PPO + SND-VIC × E3B",
    "ppo_counts": "PPO + counts on a map",
}
KEYS = {
    "MountainCarContinuous-v0": ["ppo", "ppo_snd_vic"],
    "MiniGrid-DoorKey-8x8-v0": ["ppo", "ppo_snd_vic", "ppo_snd_e3b", "ppo_counts"],
}
N_BINS = 30


def train(folder: Path, params: list[str], key: str, env_id: str, seed: int, n_steps: int) -> Path:
    """Train a run unless it is already finished; return its folder."""
    logs = folder / f"{n_steps}_steps" / f"seed_{seed}"
    run = logs / key / f"{env_id}_1"
    if not is_finished(run, n_steps):
        from sb3_snd.zoo.train import train as train_agent  # here, so that only the processes of the pool import it

        shutil.rmtree(run, ignore_errors=True)  # left by an interrupted run
        options = ["--algo", key, "--env", env_id, "--seed", seed, "-n", n_steps, "-f", logs]
        options += ["-params", *params] if params else []
        sys.argv = ["train.py", *map(str, options), "--num-threads", "1", "--device", "cpu", "--verbose", "0"]
        with contextlib.redirect_stdout(io.StringIO()):
            train_agent()
        if not is_finished(run, n_steps):
            raise KeyboardInterrupt  # the Zoo caught it and saved an unfinished model
    return run


def binned_scores(folder: Path, n_steps: int, n_bins: int) -> np.ndarray:
    """
    Compute the mean scores in equal parts of a run.

    :param folder: Folder of a run, with ``monitor.csv``
    :param n_steps: Length of the run in steps
    :param n_bins: Number of equal parts to divide the run into
    :return: mean score of the episodes that ended in each part, ``(n_bins,)``; NaN if there were none
    """
    from stable_baselines3.common.monitor import load_results

    episodes = load_results(str(folder))
    if episodes.empty:
        return np.full(n_bins, np.nan)
    part = np.minimum(episodes["l"].cumsum().to_numpy() * n_bins // n_steps, n_bins - 1)
    counts = np.bincount(part, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return np.bincount(part, weights=episodes["r"].to_numpy(), minlength=n_bins) / counts


def plot_comparison(panels: Mapping[str, Mapping[str, Sequence[np.ndarray]]], n_steps: Mapping[str, int], path: Path) -> None:
    """
    Draw one panel per environment with one line per algorithm: the mean over its runs, with a band of one
    standard deviation. Parts in which no episode ended are interpolated.

    :param panels: environment -> algorithm -> scores of each run, ``(n_bins,)`` each, see
        :func:`binned_scores`
    :param n_steps: environment -> length of its runs in steps
    :param path: Path of the picture
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    axes: Any = figure.subplots(1, len(panels), squeeze=False)
    for axis, (env_id, algorithms) in zip(axes[0], panels.items(), strict=True):
        for name, runs in algorithms.items():
            steps = (np.arange(len(runs[0])) + 0.5) * n_steps[env_id] / len(runs[0])
            scores = np.stack([_without_gaps(run) for run in runs])  # (n_runs, n_bins)
            mean, std = scores.mean(axis=0), scores.std(axis=0)
            (line,) = axis.plot(steps, mean, label=f"{name} ({len(runs)} runs)")
            axis.fill_between(steps, mean - std, mean + std, alpha=0.2, color=line.get_color())
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set(title=env_id, xlabel="environment steps", ylabel="score of an episode")
        axis.legend()
    figure.savefig(path, dpi=120)


def _without_gaps(scores: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(~np.isnan(scores))
    return np.interp(np.arange(len(scores)), known, scores[known]) if len(known) > 0 else scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", nargs="+", default=list(KEYS))
    parser.add_argument("--algo", nargs="+", help="algo keys (default: those that the task can show)")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs of each algorithm")
    parser.add_argument("-n", "--n-timesteps", type=int, help="number of steps of a run (default: that of the YAML entry)")
    parser.add_argument("-f", "--folder", type=Path, default=Path("logs/demo"))
    parser.add_argument(
        "-params", "--hyperparams", nargs="+", default=[], help="override those of the entries; use another -f for such runs"
    )
    parser.add_argument("--jobs", type=int, default=available_cpus(), help="number of parallel runs, with one thread each")
    args = parser.parse_args()
    packages = {"rl_zoo3": "zoo", "matplotlib": "plots", "pandas": "plots"}
    if any(env_id.startswith("MiniGrid-") for env_id in args.env):
        packages["minigrid"] = "minigrid"
    for package, extra in packages.items():
        require_or_exit(package, extra)
    import yaml

    entries = yaml.safe_load((ROOT / "hyperparams" / "ppo.yml").read_text())
    n_steps = {env_id: args.n_timesteps or int(entries[env_id]["n_timesteps"]) for env_id in args.env}
    keys = {env_id: args.algo or KEYS.get(env_id, ["ppo", "ppo_snd_vic"]) for env_id in args.env}
    jobs = [(key, env_id, seed, n_steps[env_id]) for env_id in args.env for seed in range(args.seeds) for key in keys[env_id]]
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
        for key in keys[env_id]:
            folders = [runs[key, env_id, seed] for seed in range(args.seeds)]
            name = NAMES.get(key, key)
            panels[env_id][name] = [binned_scores(folder, n_steps[env_id], N_BINS) for folder in folders]
            last = np.array([binned_scores(folder, n_steps[env_id], 5)[-1] for folder in folders])
            each = ", ".join(f"{score:.2f}" for score in last)
            lines.append(f"| {env_id} | {name} | {last.mean():.2f} ± {last.std():.2f} | {each} |")
    plot_comparison(panels, n_steps, args.folder / "demo.png")
    (args.folder / "demo.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"picture: {args.folder / 'demo.png'}")


if __name__ == "__main__":
    main()
