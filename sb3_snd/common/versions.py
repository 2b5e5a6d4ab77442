"""Versions of installed packages. Knows package metadata only, so that nothing has to be imported."""

import importlib.metadata
import importlib.util
import platform

NOT_INSTALLED = "not installed"


def find_versions(*packages: str) -> dict[str, str]:
    """
    Find the versions of Python and of packages, without importing them.

    :param packages: Import names of packages whose distributions have the same name
    :return: name -> version, or ``"not installed"``; Python comes first
    """
    return {"Python": platform.python_version(), **{package: _find_version(package) for package in packages}}


def _find_version(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return NOT_INSTALLED
    return importlib.metadata.version(package)
