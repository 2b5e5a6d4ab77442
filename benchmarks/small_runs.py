"""
A short training of every Procgen environment of the paper with every model, through ``train.py`` as a user types it; ends
in a Markdown table. The nets and the environments are the paper's, rollouts are smaller.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sb3_snd.common.extras import require_or_exit

ROOT = Path(__file__).parent.parent
KEYS = ["ppo", "ppo_rnd", "ppo_snd_v", "ppo_snd_std", "ppo_snd_vic"]
ENVS = [f"procgen-{game}-v0" for game in ("caveflyer", "coinrun", "jumper", "climber")]


def cell(row: dict[str, str], name: str) -> str:
    return f"{float(row[name]):.3g}" if row.get(name) else "–"


def train(key: str, env_id: str, n_steps: int, folder: Path) -> str:
    """:return: the table's row"""
    sizes = ["-params", "n_envs:32", "n_steps:32", "batch_size:256", "n_epochs:1"]
    command = [
        sys.executable,
        "train.py",
        "--algo",
        key,
        "--env",
        env_id,
        "-n",
        str(n_steps),
        "-f",
        str(folder),
        "--seed",
        "0",
    ]
    start = time.time()
    subprocess.run([*command, *sizes], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    seconds = time.time() - start
    run = folder / key / f"{env_id}_1"
    with open(run / "progress.csv") as file:
        first, *_, last = rows = list(csv.DictReader(file))
    episodes = len((run / "monitor.csv").read_text().splitlines()) - 2
    novelty = " → ".join(cell(row, "rollout/novelty_mean") for row in (first, last))
    figures = [cell(last, name) for name in ("rollout/intrinsic_reward_mean", "snd/loss", "train/value_loss", "time/fps")]
    return " | ".join([f"| {env_id}", key, str(len(rows)), str(episodes), novelty, *figures, f"{seconds:.0f} s |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", nargs="+", default=ENVS)
    parser.add_argument("--algo", nargs="+", default=KEYS)
    parser.add_argument("-n", "--n-timesteps", type=int, default=4096)
    args = parser.parse_args()
    header = (
        "environment|model|rollouts|episodes|novelty, first → last|intrinsic reward|SND loss|value loss|steps/s|wall clock"
    )
    print(f"| {header.replace('|', ' | ')} |\n|{'---|' * (header.count('|') + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        for env_id in args.env:
            for key in args.algo:
                print(train(key, env_id, args.n_timesteps, Path(folder)), flush=True)


if __name__ == "__main__":
    require_or_exit("rl_zoo3", "zoo")
    main()
