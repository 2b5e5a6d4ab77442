"""Make the Zoo's commands for the Hugging Face Hub work, and write model cards that say how a model was made.

Knows the Hugging Face packages and what the Zoo uploads. Must not know any manager.
"""

import contextlib
import importlib
import json
import re
import shlex
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.monitor import LoadMonitorResultsError

import sb3_snd
from sb3_snd.common.versions import find_versions
from sb3_snd.runs.learning_curve import plot_learning_curve
from sb3_snd.zoo.command_line import replaced

#: module of rl_zoo3 -> command of ``sb3-snd`` if its name is another
WORDS = {"push_to_hub": "push", "load_from_hub": "load", "record_video": "video"}
#: saved argument of ``train`` -> flag
FLAGS = {"algo": "--algo", "env": "--env", "seed": "--seed", "n_timesteps": "-n", "conf_file": "--conf-file"}
#: packages whose errors mean that the Hub was not reached, or refused
NETWORK_PACKAGES = ("huggingface_hub", "httpx", "httpx2", "requests")
#: saved argument of ``train`` that is a dict -> flag
DICT_FLAGS = {"env_kwargs": "--env-kwargs", "hyperparams": "-params"}


@contextlib.contextmanager
def mended_hub() -> Iterator[None]:
    """
    Make the Zoo's scripts work with the installed Hugging Face packages, within this context. In these
    packages ``generate_metadata`` has another name and a missing file raises another error. Model cards are
    completed by :func:`complete_card`.

    :raises ValueError: if the Hub cannot be reached or refuses
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
        complete_card(local_path)
        save(local_path, data)

    with replaced([(huggingface_sb3, "load_from_hub", load_from_hub), (repocard, "metadata_save", metadata_save)]):
        try:
            yield
        except Exception as error:
            if isinstance(error, ValueError) or type(error).__module__.partition(".")[0] not in NETWORK_PACKAGES:
                raise  # a ValueError, such as that of a malformed name, says what to do
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the Hugging Face Hub could not be used ({reason}): check the connection, and log in by `hf auth login`."
            ) from error


def complete_card(path: Path) -> None:
    """
    Complete the Zoo's model card: a section with task, score, command, versions and learning curve, and this
    package's commands instead of the Zoo's, since they know its algo keys.

    :param path: Path of the card, beside the other files that the Zoo uploads
    """
    card = re.sub(
        r"python -m rl_zoo3\.(\w+)",
        lambda found: f"sb3-snd {WORDS.get(found[1], found[1])}",
        path.read_text(encoding="utf-8").replace("pip install rl_zoo3", 'pip install "sb3-snd[all]"'),
    )
    introduction, mark, rest = card.partition("\n## ")
    path.write_text(f"{introduction}\n{describe_model(path.parent)}{mark}{rest}", encoding="utf-8")


def describe_model(folder: Path) -> str:
    """
    Describe a model, and draw its learning curve if that is possible.

    :param folder: Folder with the files that the Zoo uploads; gets ``learning_curve.png``
    :return: section of the model card, Markdown
    """
    from huggingface_sb3 import EnvironmentName, ModelName

    args = yaml.load((folder / "args.yml").read_text(), Loader=yaml.UnsafeLoader)  # as the Zoo reads its own files
    name = ModelName(args["algo"], EnvironmentName(args["env"]))
    score = json.loads((folder / "results.json").read_text())
    n_steps = json.loads((folder / name / "data").read_text())["num_timesteps"]
    versions = {"sb3-snd": sb3_snd.__version__, **find_versions("torch", "stable_baselines3", "rl_zoo3", "gymnasium", "numpy")}
    actions = "deterministic" if score["is_deterministic"] else "sampled"
    lines = [
        "## This model",
        "",
        "| | |",
        "|---|---|",
        f"| Task | `{args['env']}` |",
        f"| Algorithm | `{args['algo']}` |",
        f"| Score | {score['mean_reward']:.2f} ± {score['std_reward']:.2f}, mean and standard deviation over"
        f" {score['n_eval_episodes']} episodes with {actions} actions |",
        f"| Trained for | {n_steps:,} steps |",
        f"| Uploaded with | {', '.join(f'{package} {version}' for package, version in versions.items())} |",
        "",
        "It was trained with:",
        "```bash",
        train_command(args),
        "```",
        "",
    ]
    if draw_curve(folder, str(name)):
        lines += ["![Learning curve](learning_curve.png)", ""]
    return "\n".join(lines)


def train_command(args: Mapping[str, Any]) -> str:
    """
    Assemble the command that trains a run again.

    :param args: Arguments that the Zoo saved with the run; the seed is one of them even if it was not given
    :return: line for a shell
    """
    words = ["sb3-snd", "train"]
    for name, flag in FLAGS.items():
        if args.get(name) not in (None, -1):  # the Zoo's defaults
            # The folder of a file says nothing to others
            words += [flag, Path(args[name]).name if name == "conf_file" else str(args[name])]
    if args.get("gym_packages"):
        words += ["--gym-packages", *args["gym_packages"]]
    for name, flag in DICT_FLAGS.items():
        if args.get(name):
            words += [flag, *(f"{key}:{value!r}" for key, value in args[name].items())]
    return shlex.join(words)


def draw_curve(folder: Path, name: str) -> bool:
    """
    Draw the learning curve from the log files that the Zoo uploads.

    :param folder: Folder with ``train_eval_metrics.zip``; gets ``learning_curve.png``
    :param name: Name of the model
    :return: whether it could be drawn
    """
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / name
        with zipfile.ZipFile(folder / "train_eval_metrics.zip") as archive:
            archive.extractall(run)
        try:
            curve = plot_learning_curve(run)
        # A package or a file is missing, or the log has no intrinsic return since it is not of this package
        except (ImportError, OSError, LoadMonitorResultsError, KeyError) as error:
            print(f"The model card has no learning curve: {error}")
            return False
        (folder / curve.name).write_bytes(curve.read_bytes())
    return True
