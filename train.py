"""Train an agent through the RL Zoo: ``python train.py --algo ppo_snd --env MontezumaRevengeNoFrameskip-v4``."""

import sys

try:
    from sb3_snd.zoo.train import train
except ImportError as error:
    sys.exit(f"train.py: {error}")

if __name__ == "__main__":
    train()
