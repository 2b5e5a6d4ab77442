"""
Every command where only the core is installed: it works, or ends in one sentence that names the extra.

All distributions that Stable-Baselines3 and PyTorch do not require are hidden from a process, which forks for each command.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SENTENCE = '{}: The package {} could not be imported: run `pip install "sb3-snd[{}]"`.'
#: commands that only print
PRINTED = ["-m sb3_snd", "-m sb3_snd --version", "-m sb3_snd report --help", "-m sb3_snd sweep --help"]
#: command -> the package and the extra that it names; None: it does with the core
COMMANDS = {
    "train.py --algo ppo_snd --env CartPole-v1": ("rl_zoo3", "zoo"),
    "enjoy.py --algo ppo_snd --env CartPole-v1": ("rl_zoo3", "zoo"),
    "-m sb3_snd train --algo ppo_snd --env CartPole-v1": ("rl_zoo3", "zoo"),
    "-m sb3_snd push": ("rl_zoo3", "zoo"),
    "-m sb3_snd plot_train": ("rl_zoo3", "zoo"),
    "-m sb3_snd report logs": ("matplotlib", "plots"),
    "-m sb3_snd evidence --status": ("yaml", "zoo"),
    "-m sb3_snd.zoo --algo ppo_snd --env CartPole-v1": ("rl_zoo3", "zoo"),
    "-m sb3_snd.zoo train": ("rl_zoo3", "zoo"),
    "-m sb3_snd.zoo record_video": ("rl_zoo3", "zoo"),
    "-m sb3_snd.analyze setup.py": ("rl_zoo3", "zoo"),
    "-m sb3_snd.evidence": ("yaml", "zoo"),
    "-m sb3_snd.report logs": ("matplotlib", "plots"),
    "-m sb3_snd.sweep --algos ppo --envs CartPole-v1": ("ray", "sweep"),
    "examples/demo.py": ("rl_zoo3", "zoo"),
    "examples/masked_actions.py": ("sb3_contrib", "zoo"),
    "examples/novelty_along_an_episode.py model.zip CartPole-v1": ("matplotlib", "plots"),
    "examples/own_environment.py": None,
    "examples/own_reward.py": None,
    "examples/own_target.py": None,
    "examples/two_streams_atari.py": ("ale_py", "atari"),
    "benchmarks/check_cuda.py": ("yaml", "zoo"),
    "benchmarks/profile_update.py": ("yaml", "zoo"),
    "benchmarks/report_study.py": ("tqdm", "plots"),
    "benchmarks/rewards.py": ("yaml", "zoo"),
    "benchmarks/scaling.py": ("yaml", "zoo"),
    "benchmarks/schedules.py": ("yaml", "zoo"),
    "benchmarks/small_runs.py": ("rl_zoo3", "zoo"),
    "benchmarks/small_tasks.py": ("yaml", "zoo"),
    "benchmarks/soak.py": ("rl_zoo3", "zoo"),
    "benchmarks/throughput.py": ("yaml", "zoo"),
}

PROGRAM = """
import json, os, runpy, sys, tempfile, traceback

hidden, commands = json.loads(sys.stdin.read())

class Blind:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Blind, sys.meta_path)
import stable_baselines3, torch, sb3_snd
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

def learn(*args, **kwargs):
    sys.exit("it learns")

OnPolicyAlgorithm.learn = learn
results = {}
for command in commands:
    with tempfile.TemporaryFile("w+") as output:
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
            words = command.split()
            try:
                if words[0] == "-m":
                    sys.argv = words[1:]
                    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
                else:
                    sys.argv = words
                    sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
                    runpy.run_path(words[0], run_name="__main__")
            except SystemExit as end:
                print(end)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(0)
        os.waitpid(pid, 0)
        output.seek(0)
        results[command] = output.read()
json.dump(results, sys.stdout)
"""


def core():
    """:return: the distributions that the core needs, and what they need"""
    found, wanted = set(), ["stable-baselines3", "torch"]
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found:
            continue
        try:
            requirements = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        wanted += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def import_names(distribution):
    """As importlib.metadata.packages_distributions from Python 3.11 on."""
    declared = (distribution.read_text("top_level.txt") or "").split()
    files = [path for path in distribution.files or [] if path.suffix == ".py"]
    return {*declared} or {path.parts[0] if len(path.parts) > 1 else path.stem for path in files}


def hidden_packages():
    kept = {*core(), "sb3-snd"}
    distributions = [*importlib.metadata.distributions()]
    needed = [each for each in distributions if canonicalize_name(each.metadata["Name"]) in kept]
    return sorted(set().union(*map(import_names, distributions)) - set().union(*map(import_names, needed)))


@pytest.fixture(scope="module")
def printed():
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    question = json.dumps([hidden_packages(), [*COMMANDS, *PRINTED]])
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, input=question, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_what_is_hidden():
    hidden = set(hidden_packages())
    assert {
        "yaml",
        "rl_zoo3",
        "matplotlib",
        "pandas",
        "tqdm",
        "rich",
        "ray",
        "optuna",
        "ale_py",
        "cv2",
        "sb3_contrib",
    } <= hidden
    assert not {"torch", "numpy", "gymnasium", "stable_baselines3", "cloudpickle", "sb3_snd"} & hidden


def test_every_command_is_here():
    scripts = {
        str(path.relative_to(ROOT)) for folder in ("", "examples", "benchmarks") for path in (ROOT / folder).glob("*.py")
    }
    scripts |= {f"sb3_snd.{path.parent.name}" for path in (ROOT / "sb3_snd").glob("*/__main__.py")}
    scripts -= {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("schedule_*.py")}  # of schedules.py
    tried = {word for command in COMMANDS for word in command.split()}
    assert scripts - tried == set() and "setup.py" in scripts


@pytest.mark.parametrize("command", COMMANDS)
def test_the_extra_is_named(command, printed):
    words, names = command.split(), COMMANDS[command]
    lines = printed[command].strip().splitlines()
    if names is None:
        assert lines[-1] == "it learns" and "Traceback" not in printed[command]
        return
    assert lines == [SENTENCE.format(program(words), *names)]


def program(words):
    """:return: how a command calls itself"""
    if words[0] != "-m":
        return Path(words[0]).name
    package, _, tool = words[1].partition(".")
    assert package == "sb3_snd"
    return words[1] if tool == "zoo" else f"sb3-snd {tool or words[2]}"


def test_versions_and_help_of_the_core(printed):
    import stable_baselines3

    versions = dict(line.split(maxsplit=1) for line in printed["-m sb3_snd --version"].splitlines())
    assert versions["sb3-snd"] == (ROOT / "sb3_snd" / "version.txt").read_text().strip()
    assert (versions["torch"], versions["stable_baselines3"]) == (
        importlib.metadata.version("torch"),
        stable_baselines3.__version__,
    )
    assert {versions[name] for name in ("ale_py", "rl_zoo3", "minigrid")} == {"not installed"}
    assert "  analyze  " in printed["-m sb3_snd"] and "usage: sb3-snd COMMAND" in printed["-m sb3_snd"]
    assert "usage: sb3-snd report [-h]" in printed["-m sb3_snd report --help"]
    assert "usage: sb3-snd sweep [-h]" in printed["-m sb3_snd sweep --help"]
