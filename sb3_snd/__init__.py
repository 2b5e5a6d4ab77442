"""Self-supervised Network Distillation for Stable-Baselines3."""

from pathlib import Path

from sb3_snd.snd import SND

__version__ = (Path(__file__).parent / "version.txt").read_text().strip()

__all__ = ["SND"]
