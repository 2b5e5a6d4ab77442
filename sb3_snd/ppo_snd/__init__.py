"""PPO with two streams."""

from sb3_snd.ppo_snd.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_snd.ppo_snd.ppo_snd import PPOSND

__all__ = ["PPOSND", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
