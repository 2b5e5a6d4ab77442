"""``SNDCallback`` for unmodified SB3 algorithms, and ``StreamMonitor``, which writes both returns of each episode.

Knows SB3's callbacks and the wrapper; no algorithm of its own.
"""

import time
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize, unwrap_vec_wrapper

from sb3_snd.snd import check_minibatch
from sb3_snd.type_aliases import EXTRINSIC_REWARD_KEY, INTRINSIC_REWARD_KEY, Rollout
from sb3_snd.wrappers import VecIntrinsicReward


class SNDCallback(BaseCallback):
    """
    Trains, logs and saves the ``SND`` of a :class:`~sb3_snd.wrappers.VecIntrinsicReward` beside an unmodified
    on-policy algorithm: one pass over each rollout, when it is complete. That is before the algorithm's own update, which
    changes nothing: neither reads the other's nets.

    :param save_path: Folder for the nets, ``<name_prefix>_<steps>_steps.snd.pth`` and, at the end of training,
        ``<name_prefix>.snd.pth``; None: nothing is saved
    :param save_freq: Calls of ``env.step`` between two saves, as for SB3's ``CheckpointCallback``; 0: only at the end
    :param name_prefix: Common prefix of the files
    :param restore: File of an earlier run to continue from
    :param verbose: 0 for no output, 2 to tell of each save
    :raises ValueError: when training begins, if the environment has no intrinsic reward or observations normalised
        after it, the algorithm no rollout buffer, or the minibatch does not divide the rollout
    """

    def __init__(
        self,
        save_path: str | Path | None = None,
        save_freq: int = 0,
        name_prefix: str = "rl_model",
        restore: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.save_path = None if save_path is None else Path(save_path)
        self.save_freq = save_freq
        self.name_prefix = name_prefix
        self.restore = restore
        self._terminal_observations: dict[int, np.ndarray] = {}
        self._row = 0

    def _init_callback(self) -> None:
        wrapper = unwrap_vec_wrapper(self.training_env, VecIntrinsicReward)
        if wrapper is None:
            raise ValueError("SNDCallback found no intrinsic reward: wrap the environment in VecIntrinsicReward first.")
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise ValueError(
                f"SNDCallback trains from a rollout buffer, which {type(self.model).__name__} does not have:"
                " use an on-policy algorithm such as PPO or A2C."
            )
        self.wrapper, self.snd = wrapper, wrapper.snd
        env = self.training_env
        while env is not wrapper:
            assert isinstance(env, VecEnvWrapper)
            if isinstance(env, VecNormalize) and env.norm_obs:
                raise ValueError(
                    "VecNormalize around VecIntrinsicReward would train SND on other observations than those it rates:"
                    " wrap in VecNormalize first, in VecIntrinsicReward last."
                )
            env = env.venv
        check_minibatch(self.snd.batch_size, self.model.n_steps * self.model.n_envs, "SND's batch_size")
        if self.restore is not None:
            self.snd.load(self.restore)
            self.restore = None  # once, not again when training continues
        if self.save_path is not None:
            self.save_path.mkdir(parents=True, exist_ok=True)

    def _on_rollout_start(self) -> None:
        self._terminal_observations, self._row = {}, 0

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        for idx in np.flatnonzero(self.locals["dones"]):
            terminal_obs = infos[idx].get("terminal_observation")
            if terminal_obs is None:  # no successor is known: s_t stands for it
                terminal_obs = self.model._last_obs[idx]  # type: ignore[index, call-overload]
            self._terminal_observations[self._row + int(idx)] = np.array(terminal_obs)
        self._row += self.training_env.num_envs
        if self.save_path is not None and self.save_freq > 0 and self.n_calls % self.save_freq == 0:
            self._save(f"{self.name_prefix}_{self.num_timesteps}_steps")
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, OnPolicyAlgorithm)
        rollout = Rollout(self.model.rollout_buffer.observations, self.locals["new_obs"], self._terminal_observations)
        for name, value in self.wrapper.pop_statistics().items():
            self.logger.record(f"rollout/{name}", value)
        for name, value in self.snd.train_on_rollout(rollout).items():
            self.logger.record(f"snd/{name}", value)

    def _on_training_end(self) -> None:
        if self.save_path is not None:
            self._save(self.name_prefix)

    def _save(self, name: str) -> None:
        assert self.save_path is not None
        path = self.save_path / f"{name}.snd.pth"
        self.snd.save(path)
        if self.verbose >= 2:
            print(f"Saving SND to {path}")


class StreamMonitor(BaseCallback):
    """
    Writes ``monitor.csv`` as SB3's ``Monitor`` does, with two more columns: ``r`` is the environment's own score,
    ``r_ext`` the return of the rewards the learner saw, ``r_int`` the intrinsic return. ``l`` counts the agent's steps.
    What the logger records goes to ``progress.csv`` beside it.

    :param folder: Existing folder of the run
    :param env_id: Written to the file's header
    """

    def __init__(self, folder: str | Path, env_id: str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.env_id = env_id
        self._returns = np.zeros((0, 2))
        self._lengths = np.zeros(0, dtype=np.int64)
        self._start = 0.0
        self._writer: ResultsWriter | None = None
        self._progress: CSVOutputFormat | None = None

    def _on_training_start(self) -> None:
        if self._writer is None or self._progress is None:  # training may be continued
            n_envs = self.training_env.num_envs
            self._returns, self._lengths = np.zeros((n_envs, 2)), np.zeros(n_envs, dtype=np.int64)
            self._start = time.time()
            self._writer = ResultsWriter(
                str(self.folder / "monitor.csv"),
                header={"t_start": self._start, "env_id": self.env_id},
                extra_keys=("r_ext", "r_int"),
            )
            self._progress = CSVOutputFormat(str(self.folder / "progress.csv"))
        if self._progress not in self.logger.output_formats:
            self.logger.output_formats.append(self._progress)

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        if infos and EXTRINSIC_REWARD_KEY in infos[0]:
            rewards = np.array([(info[EXTRINSIC_REWARD_KEY], info[INTRINSIC_REWARD_KEY]) for info in infos])
        else:
            rewards = np.stack([self.locals["rewards"].reshape(-1), np.zeros(len(infos))], axis=1)
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
        return True
