"""Interface of a target model: the net to distil, its own training, and the distance to it.

A new paper is one subclass in one file. It knows frames and features, but no environment, algorithm or
optimiser.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_snd.common.torch_layers import Conv, encoder, learner, orthogonal_
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import MAX_WIDTH, integer, or_none, validate


class Target(nn.Module, ABC):
    """
    Base class of all target models. Subclasses define their layers and :meth:`loss`.

    :param frame_shape: Shape of one frame, ``(C, H, W)``, or of a vector observation, ``(D,)``
    :param features_dim: Size of the feature space; by default 512 for images and 128 for vectors
    """

    eta: ClassVar[float] = 1.0  #: default scale of the intrinsic reward
    #: whether :meth:`update_statistics` must be called; True for every subclass that overrides it
    keeps_statistics: bool = False
    #: whether the loss reads actions; the constructor then takes ``action_space``, too
    reads_actions: ClassVar[bool] = False
    convs: tuple[Conv, ...]
    learner_convs: tuple[Conv, ...]
    activation: ClassVar[type[nn.Module]] = nn.ReLU
    gain: ClassVar[float] = 1.0
    learner_gain: ClassVar[float] = 1.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.keeps_statistics = cls.keeps_statistics or "update_statistics" in vars(cls)

    def __init__(self, frame_shape: tuple[int, ...], features_dim: int | None = None) -> None:
        super().__init__()
        validate({"features_dim": features_dim}, {"features_dim": or_none(integer(1, MAX_WIDTH))})
        self.frame_shape = frame_shape
        self.features_dim = features_dim or (512 if len(frame_shape) == 3 else 128)
        self.encoder = encoder(frame_shape, self.convs, self.features_dim, self.activation)
        orthogonal_(self.encoder, self.gain)

    def make_learner(self) -> nn.Module:
        """
        Create a learner of this target.

        :return: a new net, ``(n, *frame_shape)`` -> ``(n, features_dim)``
        """
        net = learner(self.frame_shape, self.learner_convs, self.features_dim, self.activation)
        orthogonal_(net, self.learner_gain)
        return net

    def update_statistics(self, frames: th.Tensor) -> None:
        """
        Update running statistics. This is called once per step with the current frames, before the step's
        novelty is computed.

        :param frames: ``(n, *frame_shape)`` float32
        """

    def preprocess(self, frames: th.Tensor) -> th.Tensor:
        """
        Prepare frames for target and learner.

        :param frames: ``(n, *frame_shape)`` float32, images in [0, 1]
        :return: input of target and learner, of the same shape
        """
        return frames

    def forward(self, frames: th.Tensor) -> th.Tensor:
        """
        Compute the target's features.

        :param frames: Preprocessed frames, ``(n, *frame_shape)`` float32
        :return: features, ``(n, features_dim)``
        """
        return self.encoder(frames)

    def novelty(self, prediction: th.Tensor, features: th.Tensor) -> th.Tensor:
        """
        Compute the mean squared distance (arXiv 2302.11563, eq. 2).

        :param prediction: The learner's features, ``(n, features_dim)``
        :param features: The target's features, ``(n, features_dim)``
        :return: novelty, ``(n,)``
        """
        return (prediction - features).square().mean(dim=1)

    @abstractmethod
    def loss(self, batch: Transitions, learner: nn.Module) -> dict[str, th.Tensor]:
        """
        Compute the loss of a minibatch.

        :param batch: Preprocessed transitions
        :param learner: The net that distils this target. Its loss must not reach the target's weights. With
            ``PPOSND(cuda_graphs=True)`` the loss is recorded once, so its Python code does not run at each
            call
        :return: ``"loss"``, the scalar to minimise; ``"distill"`` and ``"target"``, its two parts
            (``"target"`` only if the target is trained); further terms to log; ``"features"``, the target's
            features ``(B, features_dim)``
        """


def masked_mse(prediction: th.Tensor, features: th.Tensor, keep: th.Tensor) -> th.Tensor:
    """
    Compute the mean squared distance over selected entries.

    :param prediction: ``(B, D)``
    :param features: ``(B, D)``
    :param keep: Selected entries, ``(B, D)`` bool; an empty selection gives 0
    :return: scalar
    """
    assert prediction.shape == features.shape == keep.shape, (prediction.shape, features.shape, keep.shape)
    return ((prediction - features).square() * keep).sum() / keep.sum().clamp(min=1)
