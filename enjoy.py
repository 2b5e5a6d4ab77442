"""Watch a trained agent: ``python enjoy.py --algo ppo_snd --env MontezumaRevengeNoFrameskip-v4``."""

import sys

try:
    from sb3_snd.zoo.enjoy import enjoy
except ImportError as error:
    sys.exit(f"enjoy.py: {error}")

if __name__ == "__main__":
    enjoy()
