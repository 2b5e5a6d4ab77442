"""Scores of runs, read from monitor files."""

import subprocess
import sys

import numpy as np

from sb3_snd import zoo
from sb3_snd.runs.learning_curve import binned_scores, plot_comparison

HEADER = '#{"t_start": 0.0, "env_id": "None"}\nr,l,t\n'


def test_scores_of_equal_parts_by_hand(tmp_path):
    """Episodes of 10 steps with scores 1, 3, 5, 7 in a run of 80 steps: they end at steps 10, 20, 30, 40."""
    (tmp_path / "monitor.csv").write_text(HEADER + "".join(f"{score},10,{score}\n" for score in (1, 3, 5, 7)))
    np.testing.assert_array_equal(binned_scores(tmp_path, 80, 4), [1, 4, 7, np.nan])
    np.testing.assert_array_equal(binned_scores(tmp_path, 40, 1), [4])


def test_a_run_without_a_finished_episode(tmp_path):
    (tmp_path / "monitor.csv").write_text(HEADER)
    scores = binned_scores(tmp_path, 80, 4)
    np.testing.assert_array_equal(scores, [np.nan] * 4)
    plot_comparison({"Some-v0": {"PPO": [scores], "SND": [np.array([1, np.nan, 3, 4])]}}, {"Some-v0": 80}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 0


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
            zoo.train()
    plain = ["-a", "ppo_snd_vic", "ppo_rnd", "-e", "MountainCar-v0", "-f", tmp_path / "logs"]
    table = zoo_plot("all_plots", *plain, "-print", "-o", tmp_path / "all")
    assert f"MountainCar-v0-PPO_SND_VIC-{tmp_path / 'logs'}: 2" in table and "lines 2" in table
    (row,) = [line for line in table.splitlines() if line.startswith("|MountainCar-v0|")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["-200 +/- 0", "-200 +/- 0"]
    shown = zoo_plot("plot_from_file", "-i", tmp_path / "all.pkl", "-l", "VIC", "RND", "-o", tmp_path / "curves.svg")
    assert "-200 +/- 0" in shown and "lines 4" in shown  # two curves, and two error bars on bars
    assert "<svg" in (tmp_path / "curves.svg").read_text()
