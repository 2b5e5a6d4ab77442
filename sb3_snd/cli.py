"""The console command ``sb3-snd``: one word for each tool of this package.

Knows where each tool is. Must not import any of them before it is called, so that the core can print help and
a missing extra costs only the tools that need it.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch as th

import sb3_snd
from sb3_snd.common.precision import resolve_precision
from sb3_snd.common.processors import processor_name
from sb3_snd.common.versions import find_versions


class Command(NamedTuple):
    """A tool that can be called by name."""

    summary: str
    module: str  # its function ``main`` reads the command line
    arguments: tuple[str, ...] = ()  # put before those of the user


ZOO = "sb3_snd.zoo.__main__"
COMMANDS = {
    "train": Command("train an agent", ZOO, ("train",)),
    "enjoy": Command("watch a trained agent, or record it with --record", ZOO, ("enjoy",)),
    "report": Command("draw learning curves and tables of all runs in log folders", "sb3_snd.report.__main__"),
    "analyze": Command("compare the feature spaces of trained models", "sb3_snd.analyze.__main__"),
    "sweep": Command("train many runs in parallel, on one machine or a cluster", "sb3_snd.sweep.__main__"),
    "evidence": Command("train a queue of long runs, one after the other", "sb3_snd.evidence.__main__"),
    "push": Command("upload a trained agent to the Hugging Face Hub", ZOO, ("push_to_hub",)),
    "load": Command("download a trained agent from the Hugging Face Hub", ZOO, ("load_from_hub",)),
    "video": Command("record a video of a trained agent", ZOO, ("record_video",)),
    "plot_train": Command("plot the training of one agent", ZOO, ("plot_train",)),
    "plot_from_file": Command("plot what all_plots has saved", ZOO, ("plot_from_file",)),
    "all_plots": Command("plot evaluations of several algorithms", ZOO, ("all_plots",)),
}


def main() -> None:
    """Run the command that is the first argument of the command line, or print help or versions."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(format_help())
    elif name == "--version":
        print(format_versions())
    elif name not in COMMANDS:
        sys.exit(f"sb3-snd: unknown command {name!r}: choose from {', '.join(COMMANDS)}.")
    else:
        sys.argv[:2] = [f"sb3-snd {name}"]  # the name in messages
        sys.path.append(os.getcwd())  # so that --gym-packages finds the user's modules, as with python -m
        run(name)


def run(name: str) -> None:
    """
    Run a command with the arguments of the command line. If its package is missing, the process exits with one
    sentence.

    :param name: Name of the command
    """
    command = COMMANDS[name]
    sys.argv[1:1] = command.arguments
    try:
        tool = importlib.import_module(command.module)
    except ImportError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    tool.main()


def format_help() -> str:
    """
    Format the list of commands.

    :return: text with one line per command
    """
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "usage: sb3-snd COMMAND ...",
            "",
            f"{sb3_snd.__doc__}",
            "",
            *(f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()),
            "",
            "sb3-snd COMMAND --help lists the options of a command, and sb3-snd --version the installed versions.",
            "Bash completes the names of commands after this line:",
            f"  complete -o default -W '{' '.join(COMMANDS)}' sb3-snd",
        ]
    )


def format_versions() -> str:
    """
    Format the versions of this package and of those that matter to it, and what its nets compute in.

    :return: text with one line per package and processor
    """
    packages = find_versions("torch", "stable_baselines3", "ale_py", "rl_zoo3", "minigrid")
    lines = {"sb3-snd": sb3_snd.__version__, **packages, "CPU": _format_processor(processor_name(), "cpu")}
    lines["CUDA"] = _format_processor(th.cuda.get_device_name(), "cuda") if th.cuda.is_available() else "no device"
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in lines.items())


def _format_processor(name: str, device: str) -> str:
    return f"{name}, nets compute in {resolve_precision('auto', th.device(device))}"
