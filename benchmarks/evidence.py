"""
The first learning curves of the paper: what is published at 5 to 24 million steps, one run after the other, each as far as the
time goes. Called again it goes on from the checkpoints. Needs no RL Zoo, so that a bare host can run it; the report reads its
logs:

    python benchmarks/evidence.py --out results/gpu --minutes 9
    python -m sb3_snd.report results/gpu/logs --out results/gpu/report
"""

import argparse
import signal
import sys
import tarfile
import time
from pathlib import Path

import torch as th
from schedules import NOT_OF_THE_MODEL, make_env, read_entry
from stable_baselines3.common.callbacks import BaseCallback

from sb3_snd import PPOSND, ExplorationLogger
from sb3_snd.callbacks import StreamMonitor
from sb3_snd.checkpoints import RunCheckpoint, StopRequest, find_checkpoint, load_run, save_whole

#: environment, algo key, steps, and the published mean rewards there
RUNS = (
    ("procgen-jumper-v0", "ppo_snd_vic", 9_000_000, "6.5 at 5M, 9.7 at 9M"),
    ("procgen-jumper-v0", "ppo_rnd", 9_000_000, "0"),
    ("procgen-coinrun-v0", "ppo_snd_std", 8_000_000, "9.6 at 8M"),
    ("procgen-caveflyer-v0", "ppo_snd_vic", 15_000_000, "3.4 at 8M, 7.3 at 10M, 10.3 at 15M"),
    ("MontezumaRevengeNoFrameskip-v4", "ppo_snd_vic", 24_000_000, "3.3 at 8M, 7.5 at 24M"),
)


class Deadline(BaseCallback):
    """
    Asks the run to stop when the time is over.

    :param stop: What is asked
    :param end: In seconds, as ``time.time``
    """

    def __init__(self, stop: StopRequest, end: float) -> None:
        super().__init__()
        self.stop, self.end = stop, end

    def _on_step(self) -> bool:
        if time.time() > self.end and self.stop.received is None:
            self.stop.received = signal.SIGTERM
        return True


def go_on(args: argparse.Namespace, env_id: str, algo: str, n_steps: int, stop: StopRequest, end: float) -> PPOSND:
    """
    :param args: Of the command line
    :param env_id: Gymnasium id
    :param algo: Algo key
    :param n_steps: Steps of the whole run
    :param stop: Asks it to stop
    :param end: When it has to
    :return: the model, after these steps or as far as the time went
    """
    folder = args.out / "logs" / algo / f"{env_id}_1"
    folder.mkdir(parents=True, exist_ok=True)
    entry = read_entry(algo, env_id)
    sizes = {name: getattr(args, name) or entry[name] for name in ("n_envs", "n_steps", "batch_size")}
    env = make_env(entry, env_id, sizes.pop("n_envs"), args.seed)
    identity = {"algo": algo, "environment": env_id, "seed": args.seed}
    path, refused = find_checkpoint(folder, identity)
    print(*refused, sep="\n", end="")
    resumed = None
    if path is None:
        kwargs = {name: value for name, value in {**entry, **sizes}.items() if name not in NOT_OF_THE_MODEL}
        model = PPOSND(env=env, seed=args.seed, device=args.device, cuda_graphs=args.cuda_graphs, **kwargs)
    else:
        loaded, resumed, _ = load_run(path, PPOSND, env, args.seed, device=args.device)
        assert isinstance(loaded, PPOSND)
        model = loaded
    callbacks: list[BaseCallback] = [StreamMonitor(folder, env_id, append=path is not None), ExplorationLogger()]
    callbacks.append(Deadline(stop, end))
    callbacks.append(RunCheckpoint(folder, args.save_freq, callbacks, identity, stop, resumed))
    model.learn(max(0, n_steps - model.num_timesteps), callback=callbacks, reset_num_timesteps=path is None)
    if model.num_timesteps >= n_steps:
        save_whole(model, folder / f"{env_id}.zip")
    env.close()
    return model


def pack(out: Path) -> None:
    """
    :param out: Gets ``curves.tar.xz`` with the CSV files of all runs
    """
    with tarfile.open(out / "curves.tar.xz", "w:xz") as archive:
        for path in sorted((out / "logs").rglob("*.csv")):
            archive.add(path, path.relative_to(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--minutes", type=float, default=9.0, help="after which the run in progress is put aside")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-freq", type=int, default=500_000, help="steps between two checkpoints")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--steps", type=int, help="of each run, instead of its own")
    for name in ("n_envs", "n_steps", "batch_size"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the entry's")
    args = parser.parse_args()
    device = th.cuda.get_device_name() if th.cuda.is_available() else "a CPU"
    print(f"{device}, Python {sys.version.split()[0]}, torch {th.__version__}, seed {args.seed}")
    end = time.time() + 60 * args.minutes
    with StopRequest() as stop:
        for env_id, algo, n_steps, published in RUNS:
            start = time.time()
            model = go_on(args, env_id, algo, args.steps or n_steps, stop, end)
            rewards = [episode["r"] for episode in model.ep_info_buffer or ()]
            mean = sum(rewards) / len(rewards) if rewards else float("nan")
            print(
                f"{env_id} {algo}: {model.num_timesteps:,} steps, {time.time() - start:.0f} s, score of the last"
                f" {len(rewards)} episodes {mean:.2f} (published reward {published})"
            )
            pack(args.out)
            if stop.received is not None:
                break


if __name__ == "__main__":
    main()
