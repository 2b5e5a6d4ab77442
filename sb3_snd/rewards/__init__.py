"""Intrinsic rewards and their training."""

from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.check import check_reward
from sb3_snd.rewards.registry import REWARDS, register
from sb3_snd.rewards.rollout import Rollout, Step
from sb3_snd.rewards.snd import SND

__all__ = ["REWARDS", "SND", "IntrinsicReward", "Rollout", "Step", "check_reward", "register"]
