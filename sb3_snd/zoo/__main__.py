"""
``python -m sb3_snd.zoo COMMAND ...``: run a command of the Zoo, by default ``train``, with this package's
algo keys.

Knows the modules of rl_zoo3 and the Hugging Face packages that they call. Must not know how a run is trained.
"""

import contextlib
import importlib
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sb3_snd.common.extras import require, require_or_exit

if __name__ == "__main__":  # before the imports that need rl_zoo3
    sys.argv[0] = "sb3_snd.zoo"  # the name in messages
    require_or_exit("rl_zoo3", "zoo")

# isort: split
from sb3_snd.zoo.command_line import Options, one_sentence, replaced
from sb3_snd.zoo.enjoy import enjoy, own_statistics
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


@contextlib.contextmanager
def mended_hub() -> Iterator[None]:
    """
    Make the Zoo's scripts work with the installed Hugging Face packages, within this context. In these
    packages ``generate_metadata`` has another name and a missing file raises another error. Model cards name
    this package's commands, which know its algo keys.
    """
    import huggingface_sb3
    from huggingface_hub import errors, repocard
    from requests import HTTPError

    # As an attribute, the name is a function
    hub: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    load, save = huggingface_sb3.load_from_hub, repocard.metadata_save
    if not hasattr(hub, "generate_metadata"):
        hub.generate_metadata = lambda *args: hub._generate_metadata(*args).to_dict()

    def load_from_hub(repo_id: str, filename: str) -> str:
        try:
            return load(repo_id, filename)
        except errors.EntryNotFoundError as error:
            if filename == "vec_normalize.pkl":  # optional: the Zoo catches this error
                raise HTTPError(str(error)) from error
            raise ValueError(f"{filename} of {repo_id} could not be loaded: {str(error).splitlines()[0]}") from error

    def metadata_save(local_path: Path, data: dict[str, Any]) -> None:
        card = local_path.read_text(encoding="utf-8").replace("python -m rl_zoo3.", "python -m sb3_snd.zoo ")
        local_path.write_text(card.replace("pip install rl_zoo3", 'pip install "sb3-snd[all]"'), encoding="utf-8")
        save(local_path, data)

    with replaced([(huggingface_sb3, "load_from_hub", load_from_hub), (repocard, "metadata_save", metadata_save)]):
        yield


#: command of the Zoo -> function that runs it, called with the command's name
COMMANDS: dict[str, Callable[[str], None]] = {
    "train": lambda _: train(),
    "enjoy": lambda _: enjoy(),
    **dict.fromkeys(("record_video", "push_to_hub", "load_from_hub"), run_script),
    **dict.fromkeys(("plot_train", "plot_from_file", "all_plots"), plot),
}

if __name__ == "__main__":
    main()
