"""The Zoo's own tables and plots read our logs."""

import subprocess
import sys

from sb3_snd.zoo.train import train


def zoo_plot(module, *arguments):
    """Run one of rl_zoo3.plots as its command does, with a backend that shows nothing."""
    code = (
        "import sys, matplotlib; matplotlib.use('Agg')\n"
        "import matplotlib.pyplot as plt\n"
        f"from rl_zoo3.plots.{module} import {module}\n"
        "plt.show = lambda: print('lines', sum(len(axis.lines) for n in plt.get_fignums() for axis in plt.figure(n).axes))\n"
        f"{module}()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


def test_the_zoos_tables_and_plots_read_the_logs(tmp_path, monkeypatch):
    """
    Two runs of two models with evaluations: MountainCar's return is -200 in 200 steps short of the flag, which no agent
    reaches after 128 steps of training. (The Zoo needs two episodes an evaluation.)
    """
    sizes = ["-params", "n_envs:1", "n_steps:64", "batch_size:64", "n_epochs:1"]
    for key in ("ppo_snd_vic", "ppo_rnd"):
        for seed in (0, 1):
            options = ["--algo", key, "--env", "MountainCar-v0", "-n", 128, "--seed", seed, "-f", tmp_path / "logs"]
            options += ["--eval-freq", 64, "--eval-episodes", 2, "--verbose", 0]
            monkeypatch.setattr("sys.argv", ["train.py", *map(str, options), *sizes])
            train()
    plain = ["-a", "ppo_snd_vic", "ppo_rnd", "-e", "MountainCar-v0", "-f", tmp_path / "logs"]
    table = zoo_plot("all_plots", *plain, "-print", "-o", tmp_path / "all")
    assert f"MountainCar-v0-PPO_SND_VIC-{tmp_path / 'logs'}: 2" in table and "lines 2" in table
    (row,) = [line for line in table.splitlines() if line.startswith("|MountainCar-v0|")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["-200 +/- 0", "-200 +/- 0"]
    shown = zoo_plot("plot_from_file", "-i", tmp_path / "all.pkl", "-l", "VIC", "RND", "-o", tmp_path / "curves.svg")
    assert "-200 +/- 0" in shown and "lines 4" in shown  # two curves, and two error bars on bars
    assert "<svg" in (tmp_path / "curves.svg").read_text()
