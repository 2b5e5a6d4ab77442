"""Intrinsic rewards by name. A new one needs one file, one class and one line here, or :func:`register` in your
own package.

Knows the rewards by name, but not what they compute. SND's target models have names of their own.
"""

from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.counts import Counts
from sb3_snd.rewards.disagreement import Disagreement
from sb3_snd.rewards.e3b import E3B
from sb3_snd.rewards.icm import ICM
from sb3_snd.rewards.ngu import NGU
from sb3_snd.rewards.noveld import NovelD
from sb3_snd.rewards.re3 import RE3
from sb3_snd.rewards.ride import RIDE
from sb3_snd.rewards.rnd_openai import RND
from sb3_snd.rewards.sp import SP
from sb3_snd.targets import TARGETS

REWARDS: dict[str, type[IntrinsicReward]] = {}


def register(name: str, reward_class: type[IntrinsicReward]) -> None:
    """
    Register an intrinsic reward under a name, for ``snd=name`` and for ``snd: name`` in YAML files
    (``sb3-snd train --gym-packages your_module`` imports the module that registers it).

    :param name: A new name
    :param reward_class: The class; :func:`~sb3_snd.rewards.check_reward` tells whether it will work
    :raises ValueError: if it is not a subclass of ``IntrinsicReward``, or if the name already stands for
        another class or for a target model
    """
    if not (isinstance(reward_class, type) and issubclass(reward_class, IntrinsicReward)):
        raise ValueError(f"{reward_class!r} must be a subclass of sb3_snd.rewards.IntrinsicReward.")
    taken = REWARDS.get(name) or TARGETS.get(name)
    if taken not in (None, reward_class):
        raise ValueError(f"The name {name!r} already stands for {taken.__name__}: choose another.")
    REWARDS[name] = reward_class
    reward_class.registered_name = name


_BUILT_IN: dict[str, type[IntrinsicReward]] = {
    "counts": Counts,
    "disagreement": Disagreement,
    "e3b": E3B,
    "icm": ICM,
    "ngu": NGU,
    "noveld": NovelD,
    "re3": RE3,
    "ride": RIDE,
    "rnd_openai": RND,
    "sp": SP,
}
for _name, _reward_class in _BUILT_IN.items():
    register(_name, _reward_class)
