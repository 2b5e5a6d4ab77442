"""The queue of long runs that shows the paper's curves: ``sb3-snd evidence``.

Knows the paper's experiments, as lines of ``evidence.yml``. Must not know how a run is trained.
"""
