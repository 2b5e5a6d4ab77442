"""Watch a trained agent: the same as ``sb3-snd enjoy``."""

from sb3_snd.cli import run

if __name__ == "__main__":
    run("enjoy")
