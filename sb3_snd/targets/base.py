"""What a target model is: the net that is distilled, what trains it, and how the distance to it is measured.

A new paper is one subclass in one file. It knows frames and features; no environment, no algorithm, no optimiser.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch as th
from torch import nn

from sb3_snd.arguments import WIDEST, checked, or_none, whole
from sb3_snd.torch_layers import Conv, encoder, learner, orthogonal_
from sb3_snd.type_aliases import Transitions


class Target(nn.Module, ABC):
    """
    Base of all target models. Subclasses name their layers and define :meth:`loss`.

    :param frame_shape: ``(C, H, W)`` of one frame, or ``(D,)`` of a vector observation
    :param features_dim: Size of the feature space, 512 for images and 128 for vectors by default
    """

    eta: ClassVar[float] = 1.0  #: scale of the intrinsic reward where nothing else is said
    convs: tuple[Conv, ...]
    learner_convs: tuple[Conv, ...]
    activation: ClassVar[type[nn.Module]] = nn.ReLU
    gain: ClassVar[float] = 1.0
    learner_gain: ClassVar[float] = 1.0

    def __init__(self, frame_shape: tuple[int, ...], features_dim: int | None = None) -> None:
        super().__init__()
        checked({"features_dim": features_dim}, {"features_dim": or_none(whole(1, WIDEST))})
        self.frame_shape = frame_shape
        #: whether :meth:`update_statistics` wants to be called
        self.keeps_statistics = type(self).update_statistics is not Target.update_statistics
        self.features_dim = features_dim or (512 if len(frame_shape) == 3 else 128)
        self.encoder = encoder(frame_shape, self.convs, self.features_dim, self.activation)
        orthogonal_(self.encoder, self.gain)

    def make_learner(self) -> nn.Module:
        """
        :return: a new learner of this target, ``(n, *frame_shape)`` -> ``(n, features_dim)``
        """
        net = learner(self.frame_shape, self.learner_convs, self.features_dim, self.activation)
        orthogonal_(net, self.learner_gain)
        return net

    def update_statistics(self, frames: th.Tensor) -> None:
        """
        Called once a step with what the environments show, before the step's novelty.

        :param frames: ``(n, *frame_shape)`` float32
        """

    def preprocess(self, frames: th.Tensor) -> th.Tensor:
        """
        :param frames: ``(n, *frame_shape)`` float32, images in [0, 1]
        :return: what target and learner see, of the same shape
        """
        return frames

    def forward(self, frames: th.Tensor) -> th.Tensor:
        """
        :param frames: Preprocessed, ``(n, *frame_shape)`` float32
        :return: features, ``(n, features_dim)``
        """
        return self.encoder(frames)

    def novelty(self, prediction: th.Tensor, features: th.Tensor) -> th.Tensor:
        """
        Mean squared distance (arXiv 2302.11563, eq. 2).

        :param prediction: The learner's features, ``(n, features_dim)``
        :param features: The target's, ``(n, features_dim)``
        :return: ``(n,)``
        """
        return (prediction - features).square().mean(dim=1)

    @abstractmethod
    def loss(self, batch: Transitions, learner: nn.Module) -> dict[str, th.Tensor]:
        """
        :param batch: Preprocessed transitions
        :param learner: The net that distils this target; its loss must not reach the target's weights
            (with ``PPOSND(cuda_graphs=True)`` the loss is recorded once: Python in it does not run at each call)
        :return: ``"loss"``, the scalar to minimise; ``"distill"`` and ``"target"``, its two parts (``"target"`` where
            something trains the target) and further terms to log; ``"features"``, the target's ``(B, features_dim)``
        """


def masked_mse(prediction: th.Tensor, features: th.Tensor, keep: th.Tensor) -> th.Tensor:
    """
    Mean squared distance over some of the entries.

    :param prediction: ``(B, D)``
    :param features: ``(B, D)``
    :param keep: ``(B, D)`` bool; an empty choice gives 0
    :return: scalar
    """
    assert prediction.shape == features.shape == keep.shape, (prediction.shape, features.shape, keep.shape)
    return ((prediction - features).square() * keep).sum() / keep.sum().clamp(min=1)
