"""Plot a run from the files in its log folder.

Knows the columns of ``monitor.csv`` and ``progress.csv``. Must not know who writes them.
"""

from pathlib import Path

import numpy as np

from sb3_snd.common.extras import require


def plot_learning_curve(folder: Path) -> Path:
    """
    Draw score and intrinsic return of the finished episodes, and the mean novelty of each rollout.

    :param folder: Folder of a run, with ``monitor.csv`` and ``progress.csv``
    :return: path of the picture, ``learning_curve.png``
    :raises ImportError: if matplotlib or pandas is missing; the message names the extra
    """
    require("matplotlib", "plots")
    pandas = require("pandas", "plots")
    from matplotlib.figure import Figure
    from stable_baselines3.common.monitor import load_results
    from stable_baselines3.common.results_plotter import window_func

    episodes = load_results(str(folder))
    logged = (folder / "progress.csv").stat().st_size > 0  # it is empty if the run ended before its first log
    progress = pandas.read_csv(folder / "progress.csv") if logged else pandas.DataFrame()
    figure = Figure(figsize=(7, 8), layout="constrained")
    axes = figure.subplots(3)
    for axis, key, label in ((axes[0], "r", "score of an episode"), (axes[1], "r_int", "intrinsic return of an episode")):
        axis.set(xlabel="environment steps of finished episodes", ylabel=label)
        if episodes.empty:  # then the column may be missing, too
            axis.set_title("no episode has ended yet", fontsize="small")
            continue
        steps, values = episodes["l"].cumsum().to_numpy(), episodes[key].to_numpy()
        axis.plot(steps, values, ".", alpha=0.4, label="episodes")
        window = min(100, (len(values) + 1) // 2)
        axis.plot(*window_func(steps, values, window, np.mean), label=f"mean of {window}")
        axis.legend()
    if "rollout/novelty_mean" in progress:
        axes[2].plot(progress["time/total_timesteps"], progress["rollout/novelty_mean"], ".-")
    axes[2].set(ylabel="mean novelty of a rollout", xlabel="environment steps")
    figure.suptitle(folder.name)
    path = folder / "learning_curve.png"
    figure.savefig(path, dpi=120)
    return path
