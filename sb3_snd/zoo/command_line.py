"""What all commands have in common: their options, the form of their errors, and how the Zoo is made to use
our parts.

Knows ``sys.argv`` and exit codes. Must not know any manager, environment or file.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sb3_snd.runs.stop_request import StopRequest


@dataclass
class Options:
    """
    What a command and the Zoo's manager need to know of the command line beyond the arguments that the Zoo
    passes on.

    :param env_id: Gymnasium id
    :param verbose: Verbosity; from 2 on, errors keep their traceback
    :param native: Whether to use native vector environments, which is so unless ``--vec-env`` is given
    :param resume: Whether to resume the newest run of the same algo, environment and seed
    :param seed_given: Whether a seed is given; otherwise a run with any seed is resumed
    :param stop: Request to end the run
    :param began: Whether training has begun; set by the manager
    """

    env_id: str = ""
    verbose: int = 1
    native: bool = True
    resume: bool = False
    seed_given: bool = False
    stop: StopRequest = field(default_factory=StopRequest)
    began: bool = False


def own_parser(arguments: Sequence[str], **options: dict[str, Any]) -> argparse.ArgumentParser:
    """
    Make a parser of the options that a command has beside the Zoo's. If help is asked for, this prints its part of
    it: the Zoo's parser prints the other part and ends the process.

    :param arguments: Arguments of the command line
    :param options: name of an option -> arguments of ``add_argument``
    :return: parser without ``--help``
    """
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("options of this package; those of the RL Zoo follow")
    for name, kwargs in options.items():
        group.add_argument(f"--{name}", **kwargs)
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(parser.format_help())
    return parser


@contextlib.contextmanager
def one_sentence(options: Options) -> Iterator[None]:
    """
    Exit with the error's message instead of a traceback if an error is raised before training begins.

    :param options: Options of the command
    """
    try:
        yield
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        if options.began or options.verbose >= 2:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


@contextlib.contextmanager
def replaced(changes: Sequence[tuple[ModuleType, str, Any]]) -> Iterator[None]:
    """
    Replace attributes of modules within this context, for functions of the Zoo that have no argument for
    them.

    :param changes: module, name of the attribute, temporary value
    """
    before = [(module, name, vars(module)[name]) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
