"""
The RL Zoo with this package's algo keys, YAML files and environments, for ``sb3-snd`` and
``python -m sb3_snd.zoo COMMAND``.

Imports nothing, so that the command can name the extra in one sentence if rl_zoo3 is missing.
"""
