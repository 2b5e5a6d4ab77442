"""Run ``train.py`` many times on one machine or a cluster: see ``python -m sb3_snd.sweep --help``."""
