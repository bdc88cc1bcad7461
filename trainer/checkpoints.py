"""Which checkpoints of a run are complete. Reads their files; the standard library only."""

import json
import zipfile
from pathlib import Path

from trainer import record


def newest_checkpoint(directory: Path) -> Path | None:
    """The complete checkpoint with most steps; one that was cut while it was written is none."""
    found = []
    for path in directory.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if number.isdigit() and _is_complete(path, int(number)):
            found.append((int(number), path))
    return max(found)[1] if found else None


def _is_complete(path: Path, step: int) -> bool:
    """Whether Trainer's last file is there, and each file as long as its format says.

    A killed process leaves the last file out. A machine that lost power may have any of them short.
    """
    state = record.read_object(path / "trainer_state.json")
    if state is None or state.get("global_step") != step:
        return False
    if (path / "checkpoint-is-incomplete.txt").exists():
        return False
    archives = (*path.glob("*.pt"), *path.glob("*.pth"), *path.glob("*.bin"))
    return all(map(_is_whole, path.glob("*.safetensors"))) and all(map(_is_archive, archives))


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file has the bytes its header promises: 8 of length, header, data."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                return False
            header = json.loads(file.read(length))
        ends = [e["data_offsets"][1] for name, e in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _is_archive(path: Path) -> bool:
    """Whether a file of torch.save ends as a zip file does; its directory is written last."""
    try:
        return zipfile.is_zipfile(path)
    except OSError:
        return False
