"""``EtaProposal``: a short training that ends with a proposal for ``eta``, the scale of the intrinsic reward.

Knows SB3's callbacks and the wrapper's statistics, but no network or algorithm.
"""

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import unwrap_vec_wrapper

from sb3_snd.arguments import checked, positive, whole
from sb3_snd.wrappers import PROPOSED_MEAN, VecIntrinsicReward

ARGUMENTS = {"n_rollouts": whole(1), "mean": positive(1)}


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
        plain = checked({"n_rollouts": n_rollouts, "mean": mean}, ARGUMENTS)
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
        self._n_before = self._wrapper.n_rollouts

    def _on_step(self) -> bool:
        assert self._wrapper is not None
        if self._wrapper.n_rollouts - self._n_before < self.n_rollouts:
            return True
        proposed = self._wrapper.proposed_eta
        if proposed is None:
            print("EtaProposal: novelty is 0, so no eta gives an intrinsic reward: choose another target.")
        else:
            self.eta = proposed * self.mean / PROPOSED_MEAN
            print(f"EtaProposal: eta={self.eta:.2g} gives intrinsic rewards of {self.mean:g} on average.")
        return False
