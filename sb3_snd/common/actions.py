"""``ActionCoder``: actions as vectors that nets read, and as distributions that nets predict.

Knows action spaces, but no net or reward.
"""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import make_proba_distribution
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from torch.nn import functional as F


class ActionCoder:
    """
    Encode actions of a space, and compare predictions with them.

    :param action_space: Action space that SB3 supports
    :param reader: Name of the class that reads the actions, for the error message
    :raises ValueError: if the action space is None
    """

    def __init__(self, action_space: spaces.Space | None, reader: str) -> None:
        if action_space is None:
            raise ValueError(f"{reader} reads actions: give it action_space=env.action_space.")
        self.space = action_space
        #: size of an encoded action, which is also the size of a prediction
        self.dim = int(get_flattened_obs_dim(action_space))

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """
        Encode actions, one-hot if they are discrete.

        :param actions: ``(B, *action_shape)``
        :return: ``(B, dim)`` float32
        """
        encoded = preprocess_obs(actions, self.space, normalize_images=False)
        assert isinstance(encoded, th.Tensor)
        return encoded.flatten(1)

    def prediction_loss(self, prediction: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        Compute the negative log-likelihood of actions, or the mean squared error if they are continuous.

        :param prediction: Logits, or continuous actions, ``(B, dim)``
        :param actions: ``(B, *action_shape)``
        :return: scalar, mean over the batch
        """
        if isinstance(self.space, spaces.Box):
            return F.mse_loss(prediction, actions.to(prediction.dtype).flatten(1))
        predicted = make_proba_distribution(self.space).proba_distribution(action_logits=prediction)
        return -predicted.log_prob(actions.to(prediction.dtype)).mean()
