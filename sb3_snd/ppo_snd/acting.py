"""``Actor``: a policy's actions during a rollout, with as little work as possible.

Knows SB3's policies, but no environment or buffer.
"""

import math
from collections.abc import Iterator

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import TensorDict

from sb3_snd.common.cuda_graphs import Replay, Tensors, unchecked_distributions


class Actor:
    """
    Choose actions without gradients.

    PyTorch's distributions check their arguments at each call, which takes a fifth of the time of a small
    policy. On a CPU they check them here only if the log-probabilities are not finite or sampling fails, on
    other devices always.

    :param model: Model whose policy is used as it is at each call
    :param records: Whether to record the policy's forward pass as a CUDA graph, for observations that are tensors
    """

    def __init__(self, model: PPO, records: bool) -> None:
        self.model = model
        #: the recorded forward pass; None if it is not to be recorded
        self.replay = Replay(self._forward, self._state) if records else None

    @property
    def policy(self) -> ActorCriticPolicy:
        """The model's present policy."""
        return self.model.policy

    def _state(self) -> Iterator[th.Tensor]:
        yield from self.policy.parameters()
        yield from self.policy.buffers()

    def _forward(self, obs: th.Tensor) -> Tensors:
        with th.no_grad(), unchecked_distributions():
            return self.policy(obs)

    def begin_rollout(self) -> None:
        """Begin a rollout: the policy acts, and what is recorded is checked."""
        self.policy.set_training_mode(False)
        if self.replay is not None:
            self.replay.check()

    def act(self, obs: th.Tensor | TensorDict) -> Tensors:
        """
        Choose actions for a batch of observations.

        :param obs: ``(n_envs, *obs_shape)``, or a dict of these
        :return: actions, values ``(n_envs, S)`` and log-probabilities
        :raises ValueError: if parameters of the action distribution are NaN or invalid, with the message of
            PyTorch's distributions
        """
        if self.replay is not None and isinstance(obs, th.Tensor):
            return self.replay(obs)
        with th.no_grad():
            if self.model.device.type != "cpu":
                return self.policy(obs)
            try:
                with unchecked_distributions():
                    actions, values, log_probs = self.policy(obs)
            except (RuntimeError, ValueError):
                self.policy.get_distribution(obs)
                raise
            if not math.isfinite(log_probs.sum()):
                self.policy.get_distribution(obs).log_prob(actions)
            return actions, values, log_probs
