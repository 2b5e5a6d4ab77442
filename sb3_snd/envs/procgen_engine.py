"""
Properties of Procgen's engine, and checks of its options.

Knows the games of Procgen (arXiv 1912.01588), their modes, time limits and options. Must not know how to step
them.
"""

import inspect
import struct
import sys
from typing import Any

from sb3_snd.common.extras import require

GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"),
    *("heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
#: distribution mode -> games that support it
MODES = {
    "easy": GAMES,
    "hard": GAMES,
    "extreme": ("chaser", "dodgeball", "leaper", "starpilot"),
    "memory": ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"),
    "exploration": ("caveflyer", "climber", "coinrun", "heist", "jumper", "leaper", "maze", "ninja"),
}
#: game -> number of steps after which the engine ends an episode; 1000 for all other games
TIME_LIMITS = {"bigfish": 6000, "bossfight": 4000, "leaper": 500, "maze": 500, "plunder": 4000}


def time_limit(game: str, distribution_mode: str) -> int:
    """
    Look up the time limit of a game.

    :param game: Name of the game
    :param distribution_mode: Distribution mode of the game
    :return: number of steps after which the engine ends an episode
    """
    return 2000 if (game, distribution_mode) == ("jumper", "memory") else TIME_LIMITS.get(game, 1000)


def agent_position(state: bytes) -> tuple[float, float]:
    """
    Read the position of the agent from the engine's saved state. The agent is the first of the entities in
    it, which follow numbers of four bytes and strings preceded by their lengths.

    :param state: State of one game, from the engine's ``get_state``
    :return: x and y in units of the level's squares
    """

    def skip_string(place: int) -> int:
        (length,) = struct.unpack_from("<i", state, place)
        return place + 4 + length

    place = skip_string(4)  # version; name of the game
    place += 4 * (9 + 3 + 5)  # options; further options; range of levels
    for _ in range(2):  # random generators: whether they are seeded; their state
        place = skip_string(place + 4)
    place += 4 * (3 + 7 + 1 + 4)  # last step; action, time, levels, episodes; last reward; defaults, clock
    place += 4 * 2  # size of the grid; number of entities
    return struct.unpack_from("<2f", state, place)


def engine_class() -> Any:
    """
    Import the engine.

    :return: ``procgen.ProcgenGym3Env``
    :raises ImportError: if it is not installed; the message says how to install it
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
    Check the options of an engine, which ends the process if one is invalid.

    :param game: Name of the game
    :param distribution_mode: Requested distribution mode
    :param options: Requested options, name -> value
    :raises ValueError: if a value is invalid; the message says what is allowed
    """
    if not (isinstance(distribution_mode, str) and distribution_mode in MODES):
        raise ValueError(f"There is no distribution_mode {distribution_mode!r}: choose from {', '.join(MODES)}.")
    if game not in MODES[distribution_mode]:
        modes = ", ".join(mode for mode, games in MODES.items() if game in games)
        raise ValueError(f"{game} has no distribution_mode {distribution_mode!r}: choose from {modes}.")
    engine = engine_class()
    parameters = {**inspect.signature(engine.__base__).parameters, **inspect.signature(engine).parameters}
    defaults = {name: parameter.default for name, parameter in parameters.items() if isinstance(parameter.default, int)}
    del defaults["debug"]  # only supported by an engine that is compiled on import
    for name, value in options.items():
        if name not in defaults:
            raise ValueError(f"Procgen has no option {name!r}: choose from {', '.join(sorted(defaults))}.")
        if distribution_mode == "exploration" and name in ("num_levels", "start_level"):
            raise ValueError(
                f"{name}={value!r} is not supported with distribution_mode='exploration',"
                " which has one fixed level: remove it, or choose distribution_mode='easy' or 'hard'."
            )
        if type(value) is not type(defaults[name]) or not 0 <= value < 2**31:
            kind = "True or False" if isinstance(defaults[name], bool) else "an integer from 0 to 2**31 - 1"
            raise ValueError(f"{name}={value!r} must be {kind}.")
    if options.get("start_level", 0) + options.get("num_levels", 0) >= 2**31:
        raise ValueError("start_level + num_levels must be < 2**31: choose a smaller start_level or num_levels.")
