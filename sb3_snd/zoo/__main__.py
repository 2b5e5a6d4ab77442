"""
``python -m sb3_snd.zoo COMMAND ...``: run a command of the Zoo, by default ``train``, with this package's
algo keys. The console command ``sb3-snd`` calls these commands, too.

Knows the modules of rl_zoo3. Must not know how a run is trained.
"""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from sb3_snd.common.extras import require, require_or_exit

if __name__ == "__main__":  # before the imports that need rl_zoo3
    sys.argv[0] = "sb3_snd.zoo"  # the name in messages
    require_or_exit("rl_zoo3", "zoo")

# isort: split
from sb3_snd.zoo.command_line import Options, one_sentence, replaced
from sb3_snd.zoo.enjoy import enjoy, own_statistics
from sb3_snd.zoo.hub import mended_hub
from sb3_snd.zoo.hyperparams import register
from sb3_snd.zoo.train import train


def main() -> None:
    """Run the command that is the first argument of the command line, or ``train`` if that is a flag."""
    command = "train"
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        command = sys.argv.pop(1)
    if command not in COMMANDS:
        sys.exit(f"{Path(sys.argv[0]).name}: unknown command {command!r}: choose from {', '.join(COMMANDS)}.")
    COMMANDS[command](command)


def run_script(name: str) -> None:
    """
    Run a command of the Zoo that is a module without a main function.

    :param name: Name of the module
    """
    require_or_exit("requests", "zoo")  # for the same reason as in enjoy
    register()
    arguments = sys.argv[1:]
    if name == "record_video":
        arguments = ["--folder", "logs", *arguments]  # same default as in enjoy
    with one_sentence(Options()), replaced([(sys, "argv", [sys.argv[0], *arguments])]), own_statistics(), mended_hub():
        if name == "record_video":
            require("moviepy", "zoo")
        runpy.run_module(f"rl_zoo3.{name}", run_name="__main__")


def plot(name: str) -> None:
    """
    Run a plot command of the Zoo.

    :param name: Name of the function in ``rl_zoo3.plots``
    """
    with one_sentence(Options()):
        getattr(require("rl_zoo3.plots", "plots"), name)()


#: command of the Zoo -> function that runs it, called with the command's name
COMMANDS: dict[str, Callable[[str], None]] = {
    "train": lambda _: train(),
    "enjoy": lambda _: enjoy(),
    **dict.fromkeys(("record_video", "push_to_hub", "load_from_hub"), run_script),
    **dict.fromkeys(("plot_train", "plot_from_file", "all_plots"), plot),
}

if __name__ == "__main__":
    main()
