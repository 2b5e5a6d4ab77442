"""``SNDCallback`` for unmodified SB3 algorithms, and ``StreamMonitor``, which writes both returns of each
episode.

Knows SB3's callbacks and the wrapper, but no algorithm of its own.
"""

import json
import sys
import time
from pathlib import Path
from types import FrameType

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize, unwrap_vec_wrapper
from stable_baselines3.her import HerReplayBuffer

from sb3_snd.arguments import NAME, PATH, VERBOSE, checked, whole
from sb3_snd.replay_pairs import end_interrupted_episodes, sample_pairs
from sb3_snd.snd import MINIBATCH
from sb3_snd.type_aliases import EXTRINSIC_REWARD_KEY, INTRINSIC_REWARD_KEY
from sb3_snd.wrappers import VecIntrinsicReward

ARGUMENTS = {"save_path": PATH, "save_freq": whole(0), "name_prefix": NAME, "restore": PATH, "verbose": VERBOSE}


class SNDCallback(BaseCallback):
    """
    Train, log and save the ``SND`` of a :class:`~sb3_snd.wrappers.VecIntrinsicReward` beside an unmodified
    algorithm, and let the wrapper reward steps for as long as the algorithm learns.

    On-policy algorithms (PPO, A2C, and those of sb3-contrib): The nets are trained with ``SND.n_epochs`` passes
    over each complete rollout. This runs before the algorithm's own update; the order does not matter, as
    neither uses the other's networks.

    Off-policy algorithms (DQN, SAC, ...): The nets are trained on as many transitions, drawn from the replay
    buffer, as were collected, times ``SND.n_epochs``. The bonus is the one computed when the transition was
    collected; it is not recomputed when the transition is replayed. With ``optimize_memory_usage=True`` the
    last transition of an episode is never drawn, since the buffer does not keep its successor.

    :param save_path: Folder for the nets, ``<name_prefix>_<steps>_steps.snd.pth`` and, at the end of training,
        ``<name_prefix>.snd.pth``; None means that nothing is saved
    :param save_freq: Number of calls of ``env.step`` between two saves, as in SB3's ``CheckpointCallback``; 0
        means only at the end
    :param name_prefix: Common prefix of the files
    :param restore: File of an earlier run from which to continue
    :param verbose: 0 for no output, 2 to report each save
    :raises ValueError: for a value out of its range. When training begins: if the environment has no intrinsic
        reward, if the algorithm has neither a rollout buffer nor a replay buffer or has one that computes
        rewards itself, or if the rollout is a single transition. During training: if
        ``optimize_memory_usage=True`` leaves no transition whose successor is known
    """

    def __init__(
        self,
        save_path: str | Path | None = None,
        save_freq: int = 0,
        name_prefix: str = "rl_model",
        restore: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        given = dict(save_path=save_path, save_freq=save_freq, name_prefix=name_prefix, restore=restore, verbose=verbose)
        verbose = checked(given, ARGUMENTS)["verbose"]
        super().__init__(verbose)
        self.save_path = None if save_path is None else Path(save_path)
        self.save_freq = save_freq
        self.name_prefix = name_prefix
        self.restore = restore
        self.wrapper: VecIntrinsicReward | None = None
        self._untrained = 0  # number of transitions on which the nets have yet to be trained
        self._seen = 0

    def _init_callback(self) -> None:
        assert self.model.env is not None
        wrapper = unwrap_vec_wrapper(self.model.env, VecIntrinsicReward)
        if wrapper is None:
            raise ValueError("SNDCallback found no intrinsic reward: wrap the environment in VecIntrinsicReward first.")
        name = type(self.model).__name__
        if wrapper.rewards == "streams" and hasattr(self.model, "snd"):
            raise ValueError(f"{name} trains its own SND: remove SNDCallback, or use it with an unmodified algorithm.")
        if wrapper.rewards == "streams":
            raise ValueError(f"rewards='streams' is for PPOSND, but {name} needs one reward: use rewards='combined'.")
        if isinstance(self.model, OnPolicyAlgorithm):
            wrapper.snd.minibatch_size(self.model.n_steps * self.model.n_envs)
        elif not isinstance(self.model, OffPolicyAlgorithm):
            raise ValueError(
                f"SNDCallback trains from a rollout buffer or replay buffer, and {name} never fills one:"
                " use an algorithm such as PPO, A2C, DQN or SAC."
            )
        elif isinstance(self.model.replay_buffer, HerReplayBuffer):
            raise ValueError("HerReplayBuffer computes rewards itself and would drop the intrinsic one: use DictReplayBuffer.")
        elif (normalize := unwrap_vec_normalize(wrapper.venv)) and normalize is self.model.get_vec_normalize_env():
            raise ValueError(
                f"{name} stores the rewards from below VecNormalize, which lack the intrinsic reward:"
                " wrap in VecIntrinsicReward first, in VecNormalize last."
            )
        wrapper.training = False  # in case other code has set it
        self.wrapper, self.snd = wrapper, wrapper.snd
        if self.restore is not None:
            self.snd.load(self.restore)
            self.restore = None  # so that a continued training does not load it again
        if self.save_path is not None:
            self.save_path.mkdir(parents=True, exist_ok=True)

    def _on_training_start(self) -> None:
        assert self.wrapper is not None
        if self.wrapper.training:
            raise ValueError("Two SNDCallbacks would train the same nets: remove one of them.")
        self.wrapper.train_during(self._learn_call())
        self._seen = self.num_timesteps
        if isinstance(self.model, OffPolicyAlgorithm):
            end_interrupted_episodes(self.model)

    @staticmethod
    def _learn_call() -> FrameType:
        """Return the frame of the call of ``learn`` that has called the callbacks."""
        call: FrameType | None = sys._getframe()
        while call is not None and call.f_code.co_name in ("_learn_call", "_on_training_start", "on_training_start"):
            call = call.f_back
        assert call is not None
        return call

    def _set_progress(self) -> None:
        assert self.wrapper is not None
        self.wrapper.set_progress(1.0 - self.num_timesteps / self.model._total_timesteps)

    def _on_rollout_start(self) -> None:
        assert self.wrapper is not None
        self._set_progress()
        if isinstance(self.model, OnPolicyAlgorithm):
            self.wrapper.start_recording(self.model.n_steps)

    def _on_step(self) -> bool:
        if self.save_path is not None and self.save_freq > 0 and self.n_calls % self.save_freq == 0:
            self._save(f"{self.name_prefix}_{self.num_timesteps}_steps")
        return True

    def _on_rollout_end(self) -> None:
        assert self.wrapper is not None
        self._set_progress()
        if isinstance(self.model, OnPolicyAlgorithm):
            self._log(self.snd.train_on_rollout(self.wrapper.pop_rollout()))
            return
        self._untrained += self.snd.n_epochs * (self.num_timesteps - self._seen)
        self._seen = self.num_timesteps
        batch_size = self.snd.batch_size or MINIBATCH
        assert isinstance(self.model, OffPolicyAlgorithm) and self.model.replay_buffer is not None
        while self._untrained >= batch_size:
            self._untrained -= batch_size
            pairs = sample_pairs(self.model.replay_buffer, batch_size)
            if pairs is not None:
                self._log(self.snd.train_on_pairs(*pairs))

    def _log(self, losses: dict[str, float]) -> None:
        assert self.wrapper is not None
        for name, value in self.wrapper.pop_statistics().items():
            self.logger.record(f"rollout/{name}", value)
        for name, value in losses.items():
            self.logger.record(f"snd/{name}", value)

    def _on_training_end(self) -> None:
        if self.wrapper is None:  # the Zoo calls this even if training did not start because of an error
            return
        self.wrapper.training = False
        if self.save_path is not None:
            self._save(self.name_prefix)

    def _save(self, name: str) -> None:
        assert self.save_path is not None
        path = self.save_path / f"{name}.snd.pth"
        self.snd.save(path)
        if self.verbose >= 2:
            print(f"Saving SND to {path}")


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
        self._normalizer: VecNormalize | None = None  # normalises extrinsic rewards, below the intrinsic reward
        self._writer: ResultsWriter | None = None
        self._progress: CSVOutputFormat | None = None

    def _on_training_start(self) -> None:
        assert self.model.env is not None
        wrapper = unwrap_vec_wrapper(self.model.env, VecIntrinsicReward)
        self._normalizer = unwrap_vec_normalize(self.model.env if wrapper is None else wrapper.venv)
        if self._writer is None or self._progress is None:  # training may be continued
            n_envs = self.training_env.num_envs
            if len(self._lengths) != n_envs:  # otherwise a checkpoint has restored those of unfinished episodes
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

    def on_logs_cut(self) -> None:
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
