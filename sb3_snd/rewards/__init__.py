"""Intrinsic rewards and their training."""

from sb3_snd.rewards.rollout import Rollout
from sb3_snd.rewards.snd import SND

__all__ = ["SND", "Rollout"]
