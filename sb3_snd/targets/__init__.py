"""Target models by name; a new one is one file, one class and one line here."""

from sb3_snd.targets.base import Target
from sb3_snd.targets.rnd import RNDTarget
from sb3_snd.targets.std import STDTarget
from sb3_snd.targets.v import VTarget
from sb3_snd.targets.vic import VICTarget

TARGETS: dict[str, type[Target]] = {
    "v": VTarget,
    "std": STDTarget,
    "vic": VICTarget,
    "rnd": RNDTarget,
}

__all__ = ["TARGETS", "RNDTarget", "STDTarget", "Target", "VICTarget", "VTarget"]
