"""What was measured of this machine once, kept under home; the worker measures (calibrate.py)."""

import json
from typing import Any

from advisor.home import cache_dir
from advisor.simulate.worker import Progress, Worker
from advisor.versions import installed

_REVISION = 2
"""Raised whenever calibrate.py measures another way, so that old files are made again."""


def measured(method: str, worker: Worker, on_progress: Progress | None) -> Any:
    """A measurement of this machine: from the cache, else made now.

    Keyed by the library versions and by how it is measured.
    """
    versions = "-".join(installed(p) or "" for p in ("torch", "transformers"))
    path = cache_dir() / f"{method}-{_REVISION}-{versions.replace('+', '_')}.json"
    if path.exists():
        return json.loads(path.read_text())
    value = worker.call(method, {}, on_progress=on_progress)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
    return value
