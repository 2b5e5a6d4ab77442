"""Self-supervised Network Distillation for Stable-Baselines3."""

from pathlib import Path

import sb3_snd.common.extras  # before Stable-Baselines3

# isort: split
import sb3_snd.envs  # noqa: F401  # registers Gymnasium ids
from sb3_snd.callbacks import EtaProposal, SNDCallback
from sb3_snd.ppo_snd import PPOSND
from sb3_snd.rewards import SND
from sb3_snd.runs.exploration_logger import ExplorationLogger
from sb3_snd.wrappers import VecIntrinsicReward

__version__ = (Path(__file__).parent / "version.txt").read_text().strip()

__all__ = ["PPOSND", "SND", "EtaProposal", "ExplorationLogger", "SNDCallback", "VecIntrinsicReward"]
