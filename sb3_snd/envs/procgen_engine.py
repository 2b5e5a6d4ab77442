"""
What Procgen's engine is, and what it can be asked for.

Knows the games of Procgen (arXiv 1912.01588), their modes, time limits and options. Must not know how they are stepped.
"""

import inspect
import struct
import sys
from typing import Any

from sb3_snd.extras import require

GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"),
    *("heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
#: distribution mode -> games that have it
MODES = {
    "easy": GAMES,
    "hard": GAMES,
    "extreme": ("chaser", "dodgeball", "leaper", "starpilot"),
    "memory": ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"),
    "exploration": ("caveflyer", "climber", "coinrun", "heist", "jumper", "leaper", "maze", "ninja"),
}
#: steps after which the engine ends an episode, where they are not 1000
TIME_LIMITS = {"bigfish": 6000, "bossfight": 4000, "leaper": 500, "maze": 500, "plunder": 4000}


def time_limit(game: str, distribution_mode: str) -> int:
    """
    :param game: Name of the game
    :param distribution_mode: Its mode
    :return: Number of steps after which the engine ends an episode
    """
    return 2000 if (game, distribution_mode) == ("jumper", "memory") else TIME_LIMITS.get(game, 1000)


def agent_position(state: bytes) -> tuple[float, float]:
    """
    Where the engine's saved state has the first of its entities, the agent: numbers of four bytes, and strings after their
    lengths.

    :param state: Of one game, from the engine's ``get_state``
    :return: x and y in units of the level's squares
    """

    def skip_string(place: int) -> int:
        (length,) = struct.unpack_from("<i", state, place)
        return place + 4 + length

    place = skip_string(4)  # version; name of the game
    place += 4 * (9 + 3 + 5)  # options, more options, range of levels
    for _ in range(2):  # random generators: whether they are seeded, what they are
        place = skip_string(place + 4)
    place += 4 * (3 + 7 + 1 + 4)  # last step; action, time, levels, episodes; last reward; defaults, clock
    place += 4 * 2  # size of the grid, number of entities
    return struct.unpack_from("<2f", state, place)


def engine_class() -> Any:
    """
    :return: ``procgen.ProcgenGym3Env``
    :raises ImportError: with the way to get it
    """
    try:
        return require("procgen", "procgen").ProcgenGym3Env
    except ImportError as error:
        if sys.version_info < (3, 13):
            raise
        version = ".".join(map(str, sys.version_info[:2]))
        raise ImportError(f"Procgen has no wheel for Python {version}: use Python 3.10 to 3.12.") from error


def check_options(game: str, distribution_mode: str, options: dict[str, Any]) -> None:
    """
    The engine ends the process over an option it does not like, so none of those may reach it.

    :param game: Name of the game
    :param distribution_mode: Asked for
    :param options: Asked for, by name
    :raises ValueError: in one sentence with the remedy
    """
    if not (isinstance(distribution_mode, str) and distribution_mode in MODES):
        raise ValueError(f"There is no distribution_mode {distribution_mode!r}: choose from {', '.join(MODES)}.")
    if game not in MODES[distribution_mode]:
        modes = ", ".join(mode for mode, games in MODES.items() if game in games)
        raise ValueError(f"{game} has no distribution_mode {distribution_mode!r}: choose from {modes}.")
    engine = engine_class()
    parameters = {**inspect.signature(engine.__base__).parameters, **inspect.signature(engine).parameters}
    defaults = {name: parameter.default for name, parameter in parameters.items() if isinstance(parameter.default, int)}
    del defaults["debug"]  # only for an engine that is compiled when it is imported
    for name, value in options.items():
        if name not in defaults:
            raise ValueError(f"Procgen has no option {name!r}: it takes {', '.join(sorted(defaults))}.")
        if distribution_mode == "exploration" and name in ("num_levels", "start_level"):
            raise ValueError(
                f"{name}={value!r} is not possible with distribution_mode='exploration', where the level is fixed:"
                " leave it out, or choose distribution_mode='easy' or 'hard'."
            )
        if type(value) is not type(defaults[name]) or not 0 <= value < 2**31:
            kind = "True or False" if isinstance(defaults[name], bool) else "a whole number from 0 to 2**31 - 1"
            raise ValueError(f"{name}={value!r} must be {kind}.")
    if options.get("start_level", 0) + options.get("num_levels", 0) >= 2**31:
        raise ValueError("There are 2**31 - 1 levels: choose a smaller start_level or num_levels.")
