"""Versions of what is installed. Reads package metadata once for each name."""

import importlib.metadata
from functools import cache


@cache
def installed(name: str) -> str | None:
    """Version of a distribution; None when it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
