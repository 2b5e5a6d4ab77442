"""Analysis of feature spaces: ``python -m sb3_snd.analyze MODEL.zip``.

Knows models and their environments. Must not train anything.
"""
