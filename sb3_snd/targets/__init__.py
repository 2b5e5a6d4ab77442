"""Target models by name. A new one needs one file, one class and one line here, or :func:`register` in your
own package.
"""

from sb3_snd.common.torch_layers import snd_convs
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.targets.base import Target
from sb3_snd.targets.bt import BTTarget
from sb3_snd.targets.check import check_target
from sb3_snd.targets.rnd import RNDTarget
from sb3_snd.targets.std import STDTarget
from sb3_snd.targets.v import VTarget
from sb3_snd.targets.vic import VICTarget
from sb3_snd.targets.vinv import VINVTarget

TARGETS: dict[str, type[Target]] = {
    "v": VTarget,
    "std": STDTarget,
    "vic": VICTarget,
    "rnd": RNDTarget,
    "bt": BTTarget,
    "vinv": VINVTarget,
}


def register(name: str, target_class: type[Target]) -> None:
    """
    Register a custom target model under a name, for ``snd=name`` and for ``snd: name`` in YAML files
    (``sb3-snd train --gym-packages your_module`` imports the module that registers it).

    :param name: A new name
    :param target_class: The class; :func:`check_target` tells whether it will work
    :raises ValueError: if it is not a subclass of ``Target``, or if the name already stands for another class
    """
    if not (isinstance(target_class, type) and issubclass(target_class, Target)):
        raise ValueError(f"{target_class!r} must be a subclass of sb3_snd.targets.Target.")
    if TARGETS.get(name, target_class) is not target_class:
        raise ValueError(f"The name {name!r} already stands for {TARGETS[name].__name__}: choose another.")
    TARGETS[name] = target_class


__all__ = [
    "TARGETS",
    "BTTarget",
    "RNDTarget",
    "STDTarget",
    "Target",
    "Transitions",
    "VICTarget",
    "VINVTarget",
    "VTarget",
    "check_target",
    "register",
    "snd_convs",
]
