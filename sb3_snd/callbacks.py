"""``SNDCallback`` for unmodified SB3 algorithms, and ``EtaProposal``, which proposes a scale for the bonus.

Knows SB3's callbacks and the wrapper, but no algorithm of its own.
"""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import unwrap_vec_normalize, unwrap_vec_wrapper
from stable_baselines3.her import HerReplayBuffer

from sb3_snd.common.validation import BOOL, NAME, PATH, VERBOSE, integer, positive, validate
from sb3_snd.rewards.recompute import RecomputedReplayBuffer, recompute_rewards
from sb3_snd.rewards.replay import end_interrupted_episodes, sample_transitions
from sb3_snd.rewards.rollout import check_rollout
from sb3_snd.rewards.statistics import PROPOSED_MEAN
from sb3_snd.rewards.training import MINIBATCH, RewardTrainer
from sb3_snd.rewards.warm_up import warm_up
from sb3_snd.wrappers import VecIntrinsicReward, VecRewardStreams

RULES = {
    "save_path": PATH,
    "save_freq": integer(0),
    "name_prefix": NAME,
    "restore": PATH,
    "verbose": VERBOSE,
    "recompute": BOOL,
}
PROPOSAL_RULES = {"n_rollouts": integer(1), "mean": positive(1)}


class SNDCallback(BaseCallback):
    """
    Train, log and save the reward of a :class:`~sb3_snd.wrappers.VecIntrinsicReward` beside an unmodified
    algorithm, and let the wrapper reward steps for as long as the algorithm learns.

    On-policy algorithms (PPO, A2C, and those of sb3-contrib): The nets are trained with ``n_epochs`` passes
    over each complete rollout. This runs before the algorithm's own update; the order does not matter, as
    neither uses the other's networks.

    Off-policy algorithms (DQN, SAC, ...): The nets are trained on as many transitions, drawn from the replay
    buffer, as were collected, times ``n_epochs``. The bonus is the one computed when the transition was
    collected, unless ``recompute`` is True. With ``optimize_memory_usage=True`` the
    last transition of an episode is never drawn, since the buffer does not keep its successor.

    :param save_path: Folder for the nets, ``<name_prefix>_<steps>_steps.snd.pth`` and, at the end of training,
        ``<name_prefix>.snd.pth``; None means that nothing is saved
    :param save_freq: Number of calls of ``env.step`` between two saves, as in SB3's ``CheckpointCallback``; 0
        means only at the end
    :param name_prefix: Common prefix of the files
    :param restore: File of an earlier run from which to continue
    :param verbose: 0 for no output, 2 to report each save
    :param recompute: Whether to compute the bonus anew when a transition is replayed, with the present nets,
        statistics and weights. The replay buffer then holds the extrinsic rewards, as infos have them, so wrappers
        that change rewards must be below ``VecIntrinsicReward``; ``VecNormalize`` stays above. This needs an
        off-policy algorithm whose buffer is SB3's ``ReplayBuffer`` or ``DictReplayBuffer``, and a reward without a
        memory of the episode
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
        recompute: bool = False,
    ) -> None:
        given = dict(save_path=save_path, save_freq=save_freq, name_prefix=name_prefix, restore=restore, verbose=verbose)
        verbose = validate({**given, "recompute": recompute}, RULES)["verbose"]
        super().__init__(verbose)
        self.recompute = recompute
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
        if isinstance(wrapper, VecRewardStreams):
            raise ValueError(f"{name} trains its own SND: remove SNDCallback, or use it with an unmodified algorithm.")
        if isinstance(self.model, OnPolicyAlgorithm):
            if wrapper.snd.trainer is not None:
                check_rollout(self.model.n_steps * self.model.n_envs)
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
        if isinstance(self.model, OffPolicyAlgorithm):
            self._prepare_replay_buffer(self.model, wrapper)
        elif self.recompute:
            raise ValueError(f"recompute=True needs a replay buffer, and {name} has none: omit it.")
        wrapper.training = False  # in case other code has set it
        self.wrapper, self.snd = wrapper, wrapper.snd
        if self.restore is not None:
            self.snd.load(self.restore)
            self.restore = None  # so that a continued training does not load it again
        if self.save_path is not None:
            self.save_path.mkdir(parents=True, exist_ok=True)

    def _prepare_replay_buffer(self, model: OffPolicyAlgorithm, wrapper: VecIntrinsicReward) -> None:
        assert model.replay_buffer is not None
        if self.recompute:
            model.replay_buffer = recompute_rewards(model.replay_buffer, wrapper.snd, lambda: wrapper.coefs)
        elif isinstance(model.replay_buffer, RecomputedReplayBuffer):
            raise ValueError(
                "The replay buffer holds rewards without their bonus, which an SNDCallback(recompute=True) has left out:"
                " use recompute=True again."
            )

    def get_run_state(self) -> dict[str, Any]:
        """
        Return what a checkpoint between two rollouts must hold, in addition to nets and wrapper.

        :return: attribute name -> value
        """
        # Left out: how many transitions are still to be replayed, as replay buffers are in no checkpoint
        return {"n_calls": self.n_calls}

    def set_run_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state that :meth:`get_run_state` returned.

        :param state: Attribute name -> value
        """
        vars(self).update(state)

    def _on_training_start(self) -> None:
        assert self.wrapper is not None
        if self.wrapper.training:
            raise ValueError("Two SNDCallbacks would train the same nets: remove one of them.")
        self.wrapper.train_during(self._learn_call())
        if warm_up(self.snd, self.wrapper.venv):
            self._reset_environment()
        self._seen = self.num_timesteps
        if isinstance(self.model, OffPolicyAlgorithm):
            end_interrupted_episodes(self.model)

    def _reset_environment(self) -> None:
        """Reset the environment as SB3 does before a training."""
        model = self.model
        assert model.env is not None
        model._last_obs = model.env.reset()  # type: ignore[assignment]
        model._last_episode_starts = np.ones(model.n_envs, dtype=bool)
        if (normalize := model.get_vec_normalize_env()) is not None:
            model._last_original_obs = normalize.get_original_obs()

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
        if isinstance(self.model, OnPolicyAlgorithm) and self.snd.trainer is not None:
            self.wrapper.start_recording(self.model.n_steps)

    def _on_step(self) -> bool:
        if self.save_path is not None and self.save_freq > 0 and self.n_calls % self.save_freq == 0:
            self._save(f"{self.name_prefix}_{self.num_timesteps}_steps")
        return True

    def _on_rollout_end(self) -> None:
        assert self.wrapper is not None
        self._set_progress()
        trainer = self.snd.trainer
        if isinstance(self.model, OffPolicyAlgorithm):
            self._train_from_replay_buffer(self.model, trainer)
        else:
            self._log({} if trainer is None else trainer.train_on_rollout(self.wrapper.pop_rollout()))

    def _train_from_replay_buffer(self, model: OffPolicyAlgorithm, trainer: RewardTrainer | None) -> None:
        """Train on as many transitions as were collected. A reward without nets is logged as often."""
        self._untrained += (1 if trainer is None else trainer.n_epochs) * (self.num_timesteps - self._seen)
        self._seen = self.num_timesteps
        batch_size = (trainer and trainer.batch_size) or MINIBATCH
        while self._untrained >= batch_size:
            self._untrained -= batch_size
            if trainer is None:
                self._log({})
                continue
            transitions = sample_transitions(model, batch_size)
            if transitions is not None:
                self._log(trainer.train_on_batch(self.snd.transitions(*transitions)))

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


class EtaProposal(BaseCallback):
    """
    End the training after some rollouts, and print the ``eta`` that would have given the intrinsic rewards of
    the last one a certain mean. The rollouts before it let the nets learn: a fresh learner's novelty may be a
    hundred times that of the same learner a little later.

    Use it beside :class:`~sb3_snd.callbacks.SNDCallback`, or with ``PPOSND``.

    :param n_rollouts: Number of rollouts; for off-policy algorithms, number of times that SND's nets are
        trained
    :param mean: Desired mean intrinsic reward. Rewards of 0.03 per step add up to an intrinsic return of 3 with
        a discount factor of 0.99
    :raises ValueError: for a value out of its range, or, when training begins, if the environment has no
        intrinsic reward
    """

    def __init__(self, n_rollouts: int = 5, mean: float = PROPOSED_MEAN) -> None:
        plain = validate({"n_rollouts": n_rollouts, "mean": mean}, PROPOSAL_RULES)
        super().__init__()
        self.n_rollouts, self.mean = plain["n_rollouts"], plain["mean"]
        #: the proposal, once it has been made; None if novelty is 0
        self.eta: float | None = None
        self._wrapper: VecIntrinsicReward | None = None
        self._n_before = 0

    def _init_callback(self) -> None:
        assert self.model.env is not None
        self._wrapper = unwrap_vec_wrapper(self.model.env, VecIntrinsicReward)
        if self._wrapper is None:
            raise ValueError("EtaProposal found no intrinsic reward: use PPOSND, or VecIntrinsicReward with SNDCallback.")
        self._n_before = self._wrapper.scorer.statistics.n_rollouts

    def get_run_state(self) -> dict[str, Any]:
        """
        Return what a checkpoint between two rollouts must hold.

        :return: attribute name -> value
        """
        return {"eta": self.eta, "_n_before": self._n_before}

    def set_run_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state that :meth:`get_run_state` returned.

        :param state: Attribute name -> value
        """
        vars(self).update(state)

    def _on_step(self) -> bool:
        assert self._wrapper is not None
        if self._wrapper.scorer.statistics.n_rollouts - self._n_before < self.n_rollouts:
            return True
        proposed = self._wrapper.scorer.statistics.proposed_eta
        if proposed is None:
            print("EtaProposal: novelty is 0, so no eta gives an intrinsic reward: choose another target.")
        else:
            self.eta = proposed * self.mean / PROPOSED_MEAN
            print(f"EtaProposal: eta={self.eta:.2g} gives intrinsic rewards of {self.mean:g} on average.")
        return False
