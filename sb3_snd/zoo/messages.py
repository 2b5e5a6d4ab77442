"""What a run tells the user: how long a full run would take, and where its results are.

Knows the files of a run. Must not know any manager.
"""

import time
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import LoadMonitorResultsError

from sb3_snd.runs.learning_curve import plot_learning_curve


class FullRunTime(BaseCallback):
    """
    On a CPU, print once, after the first update, how long a full run would take with the current settings.

    :param full_timesteps: Number of steps in the YAML entry
    """

    def __init__(self, full_timesteps: int) -> None:
        super().__init__()
        self.full_timesteps = full_timesteps
        self._first_step = 0
        self._started_at: float | None = None  # time of the first rollout
        self._announced = False

    def _on_rollout_start(self) -> None:
        if self._started_at is None:
            self._started_at, self._first_step = time.time(), self.num_timesteps
        elif not self._announced and self.model.device.type == "cpu":
            speed = (self.num_timesteps - self._first_step) / (time.time() - self._started_at)
            days = self.full_timesteps / speed / 86400
            print(
                f"At {speed:.0f} steps/s on this CPU, a full run of {self.full_timesteps:,} steps with these settings"
                f" takes about {days:.1f} days."
            )
            self._announced = True

    def _on_step(self) -> bool:
        return True


def print_results(folder: Path, env_name: str, tensorboard: str | None) -> None:
    """
    Draw the learning curve of a run and print the paths of all results.

    :param folder: Folder of the run
    :param env_name: Name of the environment in file names
    :param tensorboard: Folder of the TensorBoard log
    """
    try:
        curve: Path | str = plot_learning_curve(folder)
    except (ImportError, OSError, LoadMonitorResultsError) as error:  # a picture must not make a long run fail
        curve = f"could not be drawn: {error}"
    results = {
        "model": folder / f"{env_name}.zip",
        "monitor file": folder / "monitor.csv",
        "TensorBoard log": tensorboard,
        "learning curve": curve,
    }
    for name, place in results.items():
        print(f"{name + ':':<17}{place}")
