"""The house: imports go one way, game names stay in their room, and the core needs no extra."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "sb3_snd"
FLOORS = (
    {"common"},
    {"targets", "envs"},
    {"rewards"},
    {"wrappers"},
    {"callbacks", "ppo_snd"},
    {"policies", "runs"},
    {"zoo", "report"},
    {"sweep", "analyze"},
    {"evidence"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name and name.startswith("sb3_snd."))


def imported_rooms(path):
    names = (name.split(".")[1] for name in imported_modules(path))
    yield from (name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists())


def test_every_file_has_a_room():
    assert {room(path) for path in FILES} == {*FLOOR, "__init__"}


def test_a_room_imports_only_from_itself_and_from_lower_floors():
    edges = {(room(path), other) for path in FILES for other in imported_rooms(path) if room(path) != "__init__"}
    assert ("ppo_snd", "rewards") in edges
    assert [(a, b) for a, b in sorted(edges) if a != b and FLOOR[b] >= FLOOR[a]] == []


def test_what_is_common_serves_two_rooms_at_least():
    """Directly, or through other common files."""
    users = {}
    for path in FILES:
        for module in imported_modules(path):
            users.setdefault(module, set()).add(path)

    def rooms_of(path, seen):
        name = ".".join(("sb3_snd", *path.relative_to(PACKAGE).with_suffix("").parts))
        for user in users.get(name, set()) - seen:
            yield from rooms_of(user, {*seen, user}) if room(user) == "common" else [room(user)]

    common = [path for path in FILES if room(path) == "common" and path.name != "__init__.py"]
    assert {path.name: rooms for path in common if len(rooms := {*rooms_of(path, {path})}) < 2} == {}


def test_every_file_says_what_it_knows():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_game_names_stay_in_envs():
    """Docstrings may name the game that a default comes from; code may not."""
    for path in FILES:
        if room(path) != "envs":
            code = ast.unparse(_without_docstrings(ast.parse(path.read_text()))).lower()
            assert not [name for name in ("montezuma", "gravitar", "pitfall", "coinrun") if name in code], path


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]
    return tree


def test_core_imports_without_extras():
    """In a process where the extras' packages cannot be found."""
    code = (
        "import sys\n"
        "for name in ('ale_py', 'cv2', 'rl_zoo3', 'matplotlib', 'pandas', 'tensorboard', 'sb3_contrib', 'procgen'):\n"
        "    sys.modules[name] = None\n"
        "import sb3_snd, sb3_snd.envs\n"
        "from sb3_snd import PPOSND\n"
        "PPOSND('MlpPolicy', 'CartPole-v1', n_steps=64, device='cpu').learn(64)\n"
        "for call in (lambda: sb3_snd.envs.make_atari_env('PongNoFrameskip-v4'), lambda: __import__('sb3_snd.zoo.train')):\n"
        "    try:\n"
        "        call()\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        'The package ale_py could not be imported: run `pip install "sb3-snd[atari]"`.',
        'The package rl_zoo3 could not be imported: run `pip install "sb3-snd[zoo]"`.',
    ]
