"""Reports on runs: ``python -m sb3_snd.report logs/``.

Knows log files and published figures. Must not know any network or environment.
"""
