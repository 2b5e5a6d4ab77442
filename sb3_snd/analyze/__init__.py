"""Analysis of feature spaces: ``sb3-snd analyze MODEL.zip``.

Knows models and their environments. Must not train anything.
"""
