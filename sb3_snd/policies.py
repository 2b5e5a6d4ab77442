"""The policies under the name that YAML files use, such as ``sb3_snd.policies.CnnPolicy``."""

from sb3_snd.ppo_snd.policies import CnnPolicy, GridCNN, GridPolicy, MlpPolicy, MultiInputPolicy, StreamActorCriticPolicy

__all__ = ["CnnPolicy", "GridCNN", "GridPolicy", "MlpPolicy", "MultiInputPolicy", "StreamActorCriticPolicy"]
