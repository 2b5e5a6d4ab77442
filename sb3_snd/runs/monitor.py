"""``StreamMonitor``: the log of a run's episodes, with extrinsic and intrinsic returns.

Knows SB3's callbacks and the wrapper's infos, but no net.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize, unwrap_vec_wrapper

from sb3_snd.common.type_aliases import EXTRINSIC_REWARD_KEY, INTRINSIC_REWARD_KEY
from sb3_snd.wrappers import VecIntrinsicReward


class ContinuedCSV(CSVOutputFormat):
    """
    Variant of SB3's CSV log that appends to an existing file instead of overwriting it.

    :param filename: The file, which is created if it does not exist
    """

    def __init__(self, filename: str) -> None:
        if not Path(filename).exists():
            Path(filename).touch()
        self.file = open(filename, "r+")  # noqa: SIM115
        self.separator, self.quotechar = ",", '"'
        self.keys = [key for key in self.file.readline().strip().split(",") if key]
        self.file.seek(0, 2)


class StreamMonitor(BaseCallback):
    """
    Write ``monitor.csv`` as SB3's ``Monitor`` does, with two more columns.

    - ``r`` is the environment's own score.
    - ``r_ext`` is the return of the rewards that the learner saw, before ``VecNormalize`` scaled them.
    - ``r_int`` is the intrinsic return.
    - ``l`` counts the agent's steps.

    Values recorded by the logger are written to ``progress.csv`` in the same folder. They include
    ``time/episodes``, the number of finished episodes, as in SB3's off-policy algorithms. It tells in which
    rollout each episode ended.

    :param folder: Existing folder of the run
    :param env_id: Environment id for the file's header
    :param append: Whether to append to existing files
    """

    def __init__(self, folder: str | Path, env_id: str, append: bool = False) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.env_id = env_id
        self.append = append
        self._returns = np.zeros((0, 2))
        self._lengths = np.zeros(0, dtype=np.int64)
        self._start = 0.0
        self._n_episodes = 0  # number of episodes in the file
        #: normalises extrinsic rewards, below the intrinsic reward
        self._normalizer: VecNormalize | None = None
        self._writer: ResultsWriter | None = None
        self._progress: CSVOutputFormat | None = None

    def _on_training_start(self) -> None:
        assert self.model.env is not None
        wrapper = unwrap_vec_wrapper(self.model.env, VecIntrinsicReward)
        self._normalizer = unwrap_vec_normalize(self.model.env if wrapper is None else wrapper.venv)
        if self._writer is None or self._progress is None:  # training may be continued
            n_envs = self.training_env.num_envs
            # Otherwise a checkpoint has restored those of unfinished episodes
            if len(self._lengths) != n_envs:
                self._returns, self._lengths = np.zeros((n_envs, 2)), np.zeros(n_envs, dtype=np.int64)
            monitor, progress = self.folder / "monitor.csv", self.folder / "progress.csv"
            goes_on = self.append and monitor.exists()
            if goes_on:
                with open(monitor) as file:
                    self._start = json.loads(file.readline()[1:])["t_start"]
            else:
                self._start = time.time()
            self._writer = ResultsWriter(
                str(monitor),
                header={"t_start": self._start, "env_id": self.env_id},
                extra_keys=("r_ext", "r_int"),
                override_existing=not goes_on,
            )
            self._progress = ContinuedCSV(str(progress)) if goes_on else CSVOutputFormat(str(progress))
            self._count_episodes()
        if self._progress not in self.logger.output_formats:
            self.logger.output_formats.append(self._progress)

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        if infos and EXTRINSIC_REWARD_KEY in infos[0]:
            rewards = np.array([(info[EXTRINSIC_REWARD_KEY], info[INTRINSIC_REWARD_KEY]) for info in infos])
        else:
            rewards = np.stack([self.locals["rewards"].reshape(-1), np.zeros(len(infos))], axis=1)
        if self._normalizer is not None:
            rewards[:, 0] = self._normalizer.get_original_reward()
        self._returns += rewards  # (n_envs, 2)
        self._lengths += 1
        for idx in np.flatnonzero(self.locals["dones"]):
            extrinsic, intrinsic = self._returns[idx]
            assert self._writer is not None
            self._writer.write_row(
                {
                    "r": float(infos[idx].get("episode", {"r": extrinsic})["r"]),
                    "l": int(self._lengths[idx]),
                    "t": round(time.time() - self._start, 6),
                    "r_ext": round(extrinsic, 6),
                    "r_int": round(intrinsic, 6),
                }
            )
            self._returns[idx], self._lengths[idx] = 0, 0
            self._n_episodes += 1
        return True

    def _on_rollout_end(self) -> None:
        self.logger.record("time/episodes", self._n_episodes, exclude="tensorboard")

    def get_run_state(self) -> dict[str, Any]:
        """
        Return what a checkpoint between two rollouts must hold: the unfinished episodes.

        :return: attribute name -> value
        """
        # Left out: the start of the run and the number of episodes, which are read from the file
        return {"_returns": self._returns, "_lengths": self._lengths}

    def set_run_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state that :meth:`get_run_state` returned.

        :param state: Attribute name -> value
        """
        vars(self).update(state)

    def on_logs_truncated(self) -> None:
        """Move to the new end of both files, which were truncated while they were open."""
        for file in (self._writer and self._writer.file_handler, self._progress and self._progress.file):
            if file:
                file.seek(0, 2)
        self._count_episodes()

    def _count_episodes(self) -> None:
        with open(self.folder / "monitor.csv", "rb") as file:
            self._n_episodes = sum(1 for _ in file) - 2  # except the header and the column names

    def on_new_episodes(self) -> None:
        """Forget the unfinished episodes, which a checkpoint could not restore."""
        self._returns[:], self._lengths[:] = 0, 0
