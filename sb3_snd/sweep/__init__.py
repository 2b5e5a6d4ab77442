"""Run ``sb3-snd train`` many times on one machine or a cluster: see ``sb3-snd sweep --help``."""
