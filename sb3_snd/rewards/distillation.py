"""``RandomDistillation``: a fixed random net, and a net that is trained to predict its output.

Burda et al.: Exploration by random network distillation, arXiv 1810.12894. Knows prepared frames, but no bonus.
"""

from functools import partial

import torch as th
from torch import nn

from sb3_snd.common.torch_layers import DQN_CONVS, encoder, learner, orthogonal_
from sb3_snd.common.validation import MAX_WIDTH, integer, or_none

FEATURES_DIM = or_none(integer(1, MAX_WIDTH))  # rule of the argument


class RandomDistillation(nn.Module):
    """
    The nets of the authors' program: three convolutions and a linear layer, with two more linear layers in the
    predictor. Leaky ReLUs of slope 0.2 follow the convolutions, ReLUs stand between linear layers.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Number of features; by default 512 for images, as in the program, and 128 for vectors
    """

    def __init__(self, frame_shape: tuple[int, ...], features_dim: int | None = None) -> None:
        super().__init__()
        sizes = frame_shape, DQN_CONVS, features_dim or (512 if len(frame_shape) == 3 else 128)
        self.target = encoder(*sizes, partial(nn.LeakyReLU, 0.2))
        self.predictor = learner(*sizes, partial(nn.LeakyReLU, 0.2), nn.ReLU)
        orthogonal_(self, 2**0.5)
        self.target.requires_grad_(False)

    def forward(self, frames: th.Tensor) -> th.Tensor:
        """
        Compute the predictor's error.

        :param frames: Prepared frames, ``(n, *frame_shape)`` float32
        :return: prediction - target, ``(n, features_dim)`` float32
        """
        return self.predictor(frames) - self.target(frames)
