"""
Environments as Stable-Baselines3 takes them: the emulators' own vector environments and the wrappers beside them.

Game names may stand in this room. It must not know any network, novelty or algorithm.
"""

from sb3_snd.envs.atari import AtariVecEnv, AtariWrapper, VecPositiveReward, make_atari_env

__all__ = ["AtariVecEnv", "AtariWrapper", "VecPositiveReward", "make_atari_env"]
