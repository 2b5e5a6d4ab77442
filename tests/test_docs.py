"""
Every block of code in README and docs is run, or at least checked: Python in order in one namespace a page, commands with
their flags, algo keys, environments and files. The text is the reader's; the fixtures make it short.
"""

import contextlib
import functools
import importlib
import inspect
import io
import re
import shlex
import sys
from pathlib import Path

import gymnasium as gym
import matplotlib
import pytest
import rl_zoo3
import yaml
from stable_baselines3.common import env_util
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.ppo import PPO

import sb3_snd
from sb3_snd import cli, policies
from sb3_snd.rewards import REWARDS
from sb3_snd.targets import TARGETS
from sb3_snd.zoo.algo_keys import config_path
from sb3_snd.zoo.hyperparams import register

matplotlib.use("Agg")
ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)])
BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
#: languages of blocks that are neither Python nor commands: output, settings (read as YAML), citations
OTHERS = {"text", "yaml", "bibtex"}
PACKAGES = {"torch", "umap-learn", "sb3-contrib"}  # that a reader is told to install, beside this one


def blocks(path, language):
    return [match["text"] for match in BLOCK.finditer(path.read_text()) if match["language"].strip() == language]


def name_of(path):
    return str(path.relative_to(ROOT))


def pages_with(language):
    return [pytest.param(path, id=name_of(path)) for path in PAGES if blocks(path, language)]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A folder of the page's own, and the registries as they were."""
    monkeypatch.chdir(tmp_path)
    before = dict(TARGETS), dict(REWARDS), dict(gym.registry)
    yield
    for registry, entries in zip((TARGETS, REWARDS, gym.registry), before, strict=True):
        registry.clear()
        registry.update(entries)


def at_most(most, learn):
    def short_learn(self, total_timesteps, *args, **kwargs):
        return learn(self, min(total_timesteps, most), *args, **kwargs)

    return short_learn


@pytest.fixture
def short(monkeypatch):
    """Two environments, rollouts of sixteen steps, one epoch, and one rollout."""
    make_vec_env, begin, begin_ppo = env_util.make_vec_env, OnPolicyAlgorithm.__init__, PPO.__init__

    def make(env_id, n_envs=1, *args, **kwargs):
        return make_vec_env(env_id, min(n_envs, 2), *args, **kwargs)

    def init(self, *args, n_steps, **kwargs):
        begin(self, *args, n_steps=min(n_steps, 16), **kwargs)

    @functools.wraps(begin_ppo)
    def init_ppo(self, *args, **kwargs):
        begin_ppo(self, *args, **{**kwargs, "n_epochs": 1, "batch_size": 16})

    monkeypatch.setattr(env_util, "make_vec_env", make)
    monkeypatch.setattr(OnPolicyAlgorithm, "__init__", init)
    monkeypatch.setattr(PPO, "__init__", init_ppo)
    for algorithm, most in ((OnPolicyAlgorithm, 32), (OffPolicyAlgorithm, 128)):
        monkeypatch.setattr(algorithm, "learn", at_most(most, algorithm.learn))


@pytest.mark.filterwarnings("ignore")  # a single rollout says little about a bonus
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("path", pages_with("python"))
def test_python_runs(path, monkeypatch):
    """In a module of its own, so that classes can be found and pickled."""
    module = type(sys)("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for number, text in enumerate(blocks(path, "python"), 1):
        exec(compile(text, f"{name_of(path)}, Python block {number}", "exec"), vars(module))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_block_is_left_out(path):
    """Each block says its language, and those of Sphinx are not code."""
    text = path.read_text()
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(BLOCK.findall(text))
    languages = [match["language"].strip() for match in BLOCK.finditer(text)]
    assert [name for name in languages if name not in {"python", "bash", *OTHERS} and not name.startswith("{")] == []


@pytest.mark.parametrize("path", pages_with("yaml"))
def test_settings_are_yaml(path):
    """Names of this package in them can be imported."""
    for text in blocks(path, "yaml"):
        assert yaml.safe_load(text)
        for name in re.findall(r"\bsb3_snd(?:\.\w+)+", text):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def commands(path):
    """:return: words of each command, without comments"""
    for text in blocks(path, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                yield words[: words.index("&&")]
                words = words[words.index("&&") + 1 :]
            if words:
                yield words


@functools.cache
def flags_of(command):
    """:return: all flags that the help of a command of ours lists"""
    printed, before = io.StringIO(), sys.argv
    sys.argv = ["sb3-snd", command, "--help"]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main()
    finally:
        sys.argv = before
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", printed.getvalue()))


def after(words, *flags):
    """:return: all words between one of the flags and the next flag"""
    found, taking = [], False
    for word in words:
        if word == "--" or re.match(r"--?[a-zA-Z]", word):
            taking = word in flags
        elif taking:
            found.append(word)
    return found


def check_environment(env_id, algo):
    """It is registered, and the algo has settings for it, in our file or the Zoo's."""
    import ale_py  # noqa: F401
    import minigrid  # noqa: F401

    assert env_id in gym.registry, env_id
    folder = Path(rl_zoo3.__file__).parent / "hyperparams"
    files = [config_path(algo), folder / f"{algo}.yml"]
    entries = {key for file in files if file.is_file() for key in yaml.safe_load(file.read_text())}
    assert env_id in entries or ("atari" in entries and ("NoFrameskip" in env_id or env_id.startswith("ALE/"))), (algo, env_id)


def check_ours(command, arguments):
    """All flags exist, and algo keys, environments and files of this repository, too."""
    assert command in cli.COMMANDS, command
    register()
    own, _, passed_on = " ".join(arguments).partition(" -- ")
    used = {word for word in own.split() if re.match(r"--?[a-zA-Z]", word)}
    assert used <= flags_of(command), used - flags_of(command)
    assert {word for word in passed_on.split() if word.startswith("-")} <= flags_of("train")
    algos = after(arguments, "--algo", "--algos", "-a", "--algo-name")
    assert set(algos) <= set(rl_zoo3.ALGOS), algos
    for env_id in after(arguments, "--env", "--envs", "-e"):
        for algo in algos:
            check_environment(env_id, algo)
    for word in arguments:
        assert not word.startswith(("results/", "examples/", "benchmarks/")) or (ROOT / word).exists(), word


def check_pip(arguments):
    """Extras are those of ``setup.py``."""
    assert arguments[0] == "install", arguments
    known = set(re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE)) | {"all"}
    for word in (word for word in arguments[1:] if not word.startswith(("-", "http"))):
        name, _, extras = word.rstrip("]").partition("[")
        assert name in {"sb3-snd", "."} | PACKAGES, word
        assert set(filter(None, extras.split(","))) <= known, word


def check(words):
    """Check a command by its program. A program that is not known here fails."""
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program == "sb3-snd":
        if arguments not in (["--version"], ["--help"]):
            check_ours(arguments[0], arguments[1:])
    elif program in ("python", "python3"):
        if arguments[0] == "-m" and arguments[1].startswith("rl_zoo3.plots."):
            check_ours(arguments[1].rpartition(".")[2], arguments[2:])
        elif arguments[0] == "-m" and arguments[1].startswith("sb3_snd"):
            rest = arguments[2:]
            name = rest.pop(0) if arguments[1] in ("sb3_snd", "sb3_snd.zoo") else arguments[1].removeprefix("sb3_snd.")
            check_ours({"record_video": "video", "push_to_hub": "push", "load_from_hub": "load"}.get(name, name), rest)
        elif arguments[0] in ("train.py", "enjoy.py"):
            check_ours(arguments[0].removesuffix(".py"), arguments[1:])
        else:
            assert arguments[0].endswith(".py") and (ROOT / arguments[0]).is_file(), words
            shown = (ROOT / arguments[0]).read_text()
            assert all(word in shown for word in arguments[1:] if word.startswith("--")), words
    elif program == "pip":
        check_pip(arguments)
    elif program == "make":
        targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets, words
        if arguments[1:]:
            assert arguments[1].startswith("ARGS=") and {"-n", "--seed"} >= set(re.findall(r"--?[a-z]+", arguments[1])), words
    elif program == "tar":
        assert (ROOT / arguments[-1]).is_file(), words
    elif program == "ray":
        assert arguments[0] == "up" and (ROOT / arguments[1]).is_file(), words
    else:
        assert program in ("git", "cd", "tensorboard"), words


@pytest.mark.parametrize("path", pages_with("bash"))
def test_commands_exist(path):
    for words in commands(path):
        check(words)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("sb3-snd train --algo ppo_snd --env MountainCar-v0 --sed 1", "sed"),
        ("sb3-snd train --algo ppo_sdn --env MountainCar-v0", "ppo_sdn"),
        ("sb3-snd train --algo ppo_snd --env MountainCar-v9", "MountainCar-v9"),
        ("sb3-snd train --algo ppo_snd --env CartPole-v1", "CartPole-v1"),
        ("sb3-snd analyze results/nothing.zip", "nothing"),
        ("sb3-snd dance", "dance"),
        ('pip install "sb3-snd[everything]"', "everything"),
        ("make coffee", "coffee"),
        ("rm -r logs", "rm"),
    ],
)
def test_a_wrong_command_is_found(line, wrong):
    with pytest.raises(AssertionError, match=wrong):
        check(shlex.split(line))


SHORT = ("n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1")


def trainings():
    """
    :return: commands that only train, small tasks first; one is left out if its algo, its environment and all its flags
        are those of others
    """
    found = []
    for path in PAGES:
        for words in commands(path):
            words = words[1:] if words[0].endswith("python") else words
            arguments = words[1:] if words[0] == "train.py" else words[2:]
            if (words[0] == "train.py" or words[:2] == ["sb3-snd", "train"]) and not {"-optimize", "--storage"} & set(
                arguments
            ):
                (env_id,) = after(arguments, "--env")
                found.append((any(part in env_id for part in ("NoFrameskip", "ALE", "procgen")), name_of(path), arguments))
    seen, chosen = set(), []
    for _, name, arguments in sorted(found):
        known = {*after(arguments, "--algo", "--env"), *(word for word in arguments if word.startswith("-"))}
        if not known <= seen:
            seen |= known
            chosen.append(pytest.param(arguments, id=f"{name}: {' '.join(after(arguments, '--algo', '--env'))}"))
    return chosen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arguments", trainings())
def test_training_commands_run(arguments, tmp_path, monkeypatch):
    """With the reader's flags; a last ``-n`` and the sizes among ``-params`` make it one small rollout."""
    monkeypatch.setattr(REWARDS["rnd_openai"], "warm_up_steps", 2)  # instead of 128 random steps of each emulator
    arguments = list(arguments)
    if "-params" in arguments:
        place = arguments.index("-params") + 1
        end = next((i for i in range(place, len(arguments)) if arguments[i].startswith("-")), len(arguments))
        arguments[end:end] = SHORT
    else:
        arguments += ["-params", *SHORT]
    if "--eval-freq" in arguments:
        arguments += ["--eval-episodes", "1"]
    monkeypatch.setattr(sys, "argv", ["sb3-snd", "train", *arguments, "-n", "32", "--verbose", "0", "--num-threads", "1"])
    cli.main()
    (algo,), (env_id,) = after(arguments, "--algo"), after(arguments, "--env")
    assert list((tmp_path / "logs").rglob(f"{algo}/*/{env_id.replace('/', '-')}.zip")), "no model"


def public_objects():
    """:return: name -> class or function of all public modules, and methods and properties of the classes"""
    for module in (sb3_snd, sb3_snd.envs, policies, sb3_snd.rewards, sb3_snd.targets):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                own = {key: member for key, member in vars(value).items() if not key.startswith("_")}
                members = {key: getattr(member, "__func__", member) for key, member in own.items()}
                for key, member in members.items():
                    if inspect.isfunction(member) or isinstance(member, property):
                        yield f"{module.__name__}.{name}.{key}", getattr(value, key)


def test_public_objects_have_a_docstring():
    """A method may inherit that of the method that it overrides."""
    objects = dict(public_objects())
    assert "sb3_snd.PPOSND.learn" in objects
    assert [name for name, value in objects.items() if not inspect.getdoc(value)] == []


def test_the_plan_shows_all_folders():
    """The drawing of the house is code: it must follow the floors of the tests."""
    from test_structure import FLOORS

    text = (ROOT / "docs" / "pictures" / "house.svg").read_text()
    names = {name for floor in FLOORS for name in floor} - {"policies", "__main__"}
    assert {name for name in names if name not in text} == set()
