"""The console command: what it calls, what it prints, and what it says to a name that it does not know."""

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch as th

from sb3_snd import cli
from sb3_snd.common.processors import processor_name
from sb3_snd.common.versions import find_versions
from sb3_snd.zoo.__main__ import COMMANDS as ZOO_COMMANDS


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sb3-snd", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    cli.main()


@pytest.fixture
def called(monkeypatch):
    """Command lines of the tools, in place of which a list is filled."""
    found = []
    for command in cli.COMMANDS.values():
        module = SimpleNamespace(main=lambda name=command.module: found.append((name, *sys.argv)))
        monkeypatch.setitem(sys.modules, command.module, module)
    return found


@pytest.mark.parametrize(
    ("name", "module", "own"),
    [
        ("train", "zoo", ["train"]),
        ("enjoy", "zoo", ["enjoy"]),
        ("report", "report", []),
        ("analyze", "analyze", []),
        ("sweep", "sweep", []),
        ("evidence", "evidence", []),
        ("push", "zoo", ["push_to_hub"]),
        ("load", "zoo", ["load_from_hub"]),
        ("video", "zoo", ["record_video"]),
        ("plot_train", "zoo", ["plot_train"]),
    ],
)
def test_each_word_calls_its_tool(name, module, own, called, monkeypatch):
    call(monkeypatch, name, "--algo", "ppo")
    assert called == [(f"sb3_snd.{module}.__main__", f"sb3-snd {name}", *own, "--algo", "ppo")]


def test_modules_of_the_current_folder_are_found_and_hide_nothing(called, tmp_path, monkeypatch):
    """As for --gym-packages. A script's own folder is the first on the path, the current one is not there."""
    (tmp_path / "levels_of_mine.py").touch()
    (tmp_path / "numpy.py").touch()
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "train")
    assert importlib.util.find_spec("levels_of_mine").origin == str(tmp_path / "levels_of_mine.py")
    assert importlib.machinery.PathFinder.find_spec("numpy", sys.path).origin != str(tmp_path / "numpy.py")
    assert called


def test_the_zoos_commands_all_have_a_word():
    words = {command.arguments[0] for command in cli.COMMANDS.values() if command.module == "sb3_snd.zoo.__main__"}
    assert words == set(ZOO_COMMANDS) >= {"train", "all_plots"}
    assert all(callable(importlib.import_module(command.module).main) for command in cli.COMMANDS.values())


@pytest.mark.parametrize("script", ["train", "enjoy"])
def test_the_scripts_are_the_same(script, called, monkeypatch):
    import runpy

    path = Path(__file__).parent.parent / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--algo", "ppo"])
    runpy.run_path(str(path), run_name="__main__")
    assert called == [("sb3_snd.zoo.__main__", str(path), script, "--algo", "ppo")]


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_has_one_line_a_command(arguments, monkeypatch, capsys):
    call(monkeypatch, *arguments)
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if re.match(r"  \w+  +\w", line)]
    assert listed == list(cli.COMMANDS) and listed[:3] == ["train", "enjoy", "report"]
    script = f'{lines[-1]}; complete -p sb3-snd; compgen -W "train report enjoy" r'
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    completion, name = result.stdout.splitlines()
    assert "train enjoy report analyze" in completion and name == "report"


@pytest.mark.parametrize("name", ["trian", "--algo", ""])
def test_an_unknown_command_lists_the_known(name, called, monkeypatch):
    with pytest.raises(SystemExit, match=rf"^sb3-snd: unknown command '{name}': choose from train, enjoy, .*, all_plots\.$"):
        call(monkeypatch, name)
    assert called == []


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_snd.sweep.__main__", None)
    with pytest.raises(SystemExit, match=r"^sb3-snd sweep: .*sb3_snd.sweep.__main__.*"):
        call(monkeypatch, "sweep")


def test_versions(monkeypatch, capsys):
    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    call(monkeypatch, "--version")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["sb3-snd", "Python", "torch", "stable_baselines3", "ale_py", "rl_zoo3", "minigrid", "CPU", "CUDA"]
    assert lines["torch"] == version("torch") and lines["Python"] == sys.version.split()[0] and lines["CUDA"] == "no device"
    fast = th.cpu._is_avx512_bf16_supported() or th.cpu._is_amx_tile_supported()
    assert lines["CPU"].endswith(f"nets compute in {'bfloat16' if fast else 'float32'}")
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    monkeypatch.setattr(th.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(th.cuda, "is_bf16_supported", lambda **_: True)
    assert cli.format_versions().splitlines()[-1].split(maxsplit=1) == ["CUDA", "Some GPU, nets compute in bfloat16"]


def test_a_package_that_is_not_installed():
    assert find_versions("no_such_package", "pytest") == {
        "Python": sys.version.split()[0],
        "no_such_package": "not installed",
        "pytest": pytest.__version__,
    }


def test_name_of_the_processor(tmp_path, monkeypatch):
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert processor_name(tmp_path) == "riscv64, 3 cores"
    cores = "processor\t: 0\nmodel name\t: Fast 9000: Turbo\n\nprocessor\t: 1\nmodel name\t: Other\n"
    (tmp_path / "proc" / "cpuinfo").write_text(cores)
    assert processor_name(tmp_path) == "Fast 9000: Turbo, 3 cores"
