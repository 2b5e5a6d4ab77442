"""Reports on runs: ``sb3-snd report logs/``.

Knows log files and published figures. Must not know any network or environment.
"""
