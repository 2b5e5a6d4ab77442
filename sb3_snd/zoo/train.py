"""The command ``train``: ``rl_zoo3.train`` with this package's algo keys, YAML files and environments.

Reads the command line once and hands it to the manager. Must not know how a run is made.
"""

import argparse
import functools
import signal
import sys
from collections.abc import Sequence

from sb3_snd.common.extras import require

require("rl_zoo3", "zoo")

# isort: split
import rl_zoo3.train

from sb3_snd.common.memory import keep_freed_memory
from sb3_snd.envs import require_package
from sb3_snd.zoo.command_line import Options, one_sentence, own_parser, replaced
from sb3_snd.zoo.hyperparams import register
from sb3_snd.zoo.manager import SNDExperimentManager


def train() -> None:
    """
    Run ``rl_zoo3.train`` with this package's algo keys, YAML files and environments. There is no evaluation
    by default.

    The additional flag ``--resume`` continues from the newest checkpoint of the same algo, environment and
    seed in the log folder. Without a checkpoint it starts the run. ``-n`` is the total number of steps.
    SIGTERM and SIGINT end the run after the current step and save a checkpoint.
    """
    register()
    options, arguments = read_options(sys.argv[1:])
    keep_freed_memory()  # here and not in PPOSND only, so that PPO benefits, too
    manager = functools.partial(SNDExperimentManager, options=options)
    changes = [(sys, "argv", [sys.argv[0], *arguments]), (rl_zoo3.train, "ExperimentManager", manager)]
    with one_sentence(options), options.stop, replaced(changes):
        require_package(options.env_id)
        rl_zoo3.train.train()
    if options.stop.received == signal.SIGTERM:
        sys.exit(128 + signal.SIGTERM)


def read_options(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """
    Read the command line of ``train``.

    :param arguments: Arguments of the command line
    :return: options; arguments for ``rl_zoo3.train``
    """
    resume = {"action": "store_true", "help": "resume the newest run of the same algo, environment and seed, if there is one"}
    own, shared = own_parser(arguments, resume=resume), argparse.ArgumentParser(add_help=False)
    shared.add_argument("--env", default="")
    shared.add_argument("--seed")
    shared.add_argument("--vec-env")
    shared.add_argument("--verbose", type=int, default=1)
    known, left = own.parse_known_args(arguments)
    shared.parse_known_args(left, namespace=known)  # the Zoo parses them again
    options = Options(
        env_id=known.env,
        verbose=known.verbose,
        native=known.vec_env is None,
        resume=known.resume,
        seed_given=known.seed is not None,
    )
    return options, ["--eval-freq", "-1", *left]  # first, so that the user's own value overrides it
