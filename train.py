"""Train an agent: the same as ``sb3-snd train``."""

from sb3_snd.cli import run

if __name__ == "__main__":
    run("train")
