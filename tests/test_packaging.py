"""What an installed copy holds: every file of the packages that is no bytecode."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_file_is_packaged():
    packaged = set()
    for name in SETTINGS["packages"]:
        folder = ROOT / name.replace(".", "/")
        for pattern in ("*.py", *SETTINGS["package-data"].get(name, ())):
            packaged.update(path for path in folder.glob(pattern) if path.is_file())
    there = {
        path
        for root in ("advisor", "trainer", "app")
        for path in (ROOT / root).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert there - packaged == set()


def test_folders_with_data_are_packages_by_name():
    """setuptools warns of the others, and may leave them out one day."""
    names = set(SETTINGS["packages"])
    for package, patterns in SETTINGS["package-data"].items():
        assert package in names
        for pattern in patterns:
            folder = pattern.rpartition("/")[0]
            assert not folder.isidentifier(), f"{package}.{folder} is no package of its own"
