"""The nets and the novelty that SND-VIC, SND-STD, SND-BT and SND-VINV share.

Pecháč, Chovanec, Farkaš: Self-supervised network distillation, arXiv 2302.11563, and the released program.
Knows no loss.
"""

import torch as th

from sb3_snd.common.torch_layers import snd_convs
from sb3_snd.common.validation import MAX_WIDTH, integer, validate
from sb3_snd.targets.base import Target

RULES = {"target_width": integer(1, MAX_WIDTH), "learner_width": integer(1, MAX_WIDTH)}


class SharedNetsTarget(Target):
    """
    Base class of these targets.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Size of the feature space
    :param target_width: Channels of the target's last convolution: 128 for Atari, 64 for Procgen
    :param learner_width: Channels of the learner's last convolution
    """

    gain = 0.5

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        features_dim: int | None = None,
        target_width: int = 128,
        learner_width: int = 128,
    ) -> None:
        validate({"target_width": target_width, "learner_width": learner_width}, RULES)
        # The constructor of Target builds the encoder from these, which the other targets have as class
        # attributes
        self.convs, self.learner_convs = snd_convs(target_width), snd_convs(learner_width)
        super().__init__(frame_shape, features_dim)

    def novelty(self, prediction: th.Tensor, features: th.Tensor) -> th.Tensor:
        """Return the mean of (\\|p - z\\| + 1e-8)², ``(n,)``. The small number is the reference's."""
        return ((prediction - features).abs() + 1e-8).square().mean(dim=1)
