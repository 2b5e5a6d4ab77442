"""
Import of the packages that only an extra installs.

Knows how an extra is installed. Must not know what any room does with the package.
"""

import contextlib
import importlib
import sys
from pathlib import Path
from types import ModuleType

# Procgen needs gym, of which Stable-Baselines3 imports what it finds, and gym prints its obituary whenever it is imported
with contextlib.suppress(ImportError):
    importlib.import_module("gym_notices.notices").notices.clear()


def require(module: str, extra: str) -> ModuleType:
    """
    Import a package that the core of sb3-snd does without.

    :param module: Name of the package as it is imported
    :param extra: The extra of sb3-snd that installs it
    :return: The imported module
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'The package {module} could not be imported: run `pip install "sb3-snd[{extra}]"`.') from error


def require_or_exit(module: str, extra: str) -> None:
    """
    Import a package as :func:`require` does, in a script: the process ends in the sentence, without a traceback.

    :param module: Name of the package as it is imported
    :param extra: The extra of sb3-snd that installs it
    """
    try:
        require(module, extra)
    except ImportError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
