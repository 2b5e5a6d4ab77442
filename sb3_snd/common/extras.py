"""Import of packages that only an extra installs.

Knows how an extra is installed, but not what any module does with the package.
"""

import contextlib
import importlib
import sys
from pathlib import Path
from types import ModuleType

# Procgen needs gym. Stable-Baselines3 imports gym if it is installed, and gym prints a deprecation notice on
# each import
with contextlib.suppress(ImportError):
    importlib.import_module("gym_notices.notices").notices.clear()


def require(module: str, extra: str) -> ModuleType:
    """
    Import a package that the core of sb3-snd does not need.

    :param module: Import name of the package
    :param extra: Extra of sb3-snd that installs it
    :return: the imported module
    :raises ImportError: if the import fails; the message names the extra
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'The package {module} could not be imported: run `pip install "sb3-snd[{extra}]"`.') from error


def require_or_exit(module: str, extra: str) -> None:
    """
    Import a package as :func:`require` does, for scripts: if this fails, the process exits with one sentence
    and no traceback.

    :param module: Import name of the package
    :param extra: Extra of sb3-snd that installs it
    """
    try:
        require(module, extra)
    except ImportError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
