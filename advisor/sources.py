"""Which files hold the rows: a file, a glob, a directory or an id of the Hub becomes local files.

Files of a directory or of the Hub are training, validation or test rows by their names, as
`datasets` reads them. Touches disk; the Hub for its ids alone.
"""

import glob
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from advisor import demo, hub, row_sampling
from advisor.errors import InputError, words
from advisor.file_formats import SUFFIXES, Format, format_of, plain_file, reading, split_name
from advisor.locale import Message

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words of names, most of `datasets`' own (datasets 5.2, `data_files.SPLIT_KEYWORDS`)."""
_NO_DATA = {
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "license.txt",
    "requirements.txt",
}
"""Files beside the data that end like data."""


@dataclass(frozen=True)
class LocalFile:
    """A data file on this disk."""

    path: Path

    @property
    def name(self) -> str:
        """As sentences call it."""
        return str(self.path)

    @property
    def size(self) -> int:
        """In bytes, as stored."""
        return self.path.stat().st_size

    @property
    def stamp(self) -> str:
        """Another one when the content changes."""
        stat = self.path.stat()
        return f"{self.path.absolute()} {stat.st_size} {stat.st_mtime_ns}"

    def open(self) -> BinaryIO:
        """The stored bytes."""
        return self.path.open("rb")

    def fetch(self, field: str) -> Path:  # noqa: ARG002 - as of a file on the Hub
        """The file itself."""
        return self.path


DataFile = LocalFile | hub.RemoteFile


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of one split, unpacked and of one format, ready to be read."""

    name: str
    """As sentences call the whole: the path or id that was given."""
    format: Format
    files: tuple[Path, ...]
    names: tuple[str, ...]
    """As sentences call each file."""
    origins: tuple[Path | None, ...]
    """Where the row at fault is looked for; None: this cannot be."""
    num_rows: int | None = None
    """Of the whole, where the files hold a sample."""
    is_counted: bool = True
    """False: num_rows is an estimate."""
    findings: tuple[Message, ...] = ()

    @property
    def is_sample(self) -> bool:
        """Whether the files hold a part of the rows."""
        return self.num_rows is not None

    def short_name(self, i: int) -> str:
        """The name of a file without that of the directory it was found in."""
        name = self.names[i]
        inside = name.removeprefix(f"{self.name}/")
        return inside if inside != name else Path(name).name


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The files of a place by split."""

    splits: Mapping[str, Sequence[DataFile]]
    findings: tuple[Message, ...] = ()


def find_sources(
    place: str, validation: str | None, *, sample: bool
) -> tuple[Source, Source | None, tuple[Message, ...]]:
    """The training rows' source, the evaluation rows' (None: split some off), and findings.

    Args:
        place: "demo", a file, a glob, a directory, or an id of the Hub.
        validation: the same for the evaluation rows; its own validation split, or all of it.
        sample: large files may be replaced by a part of their rows.

    Raises:
        InputError: nothing there, no data among it, or not to be read.
    """
    found = _find(place, "data")
    findings = found.findings
    train = _source(place, found.splits["train"], "data", sample=sample)
    if validation is not None:
        other = _find(validation, "validation")
        findings += other.findings
        named = hub.is_data_id(validation) and hub.parse_data_id(validation).split
        order = ("train",) if named else ("validation", "test", "train")
        files = next(other.splits[split] for split in order if other.splits.get(split))
        evaluation = _source(validation, files, "validation", sample=sample)
    elif found.splits.get("validation"):
        evaluation = _source(place, found.splits["validation"], "data", sample=sample)
        findings += (Message(id="data.validation_split", params={"name": place}),)
    else:
        evaluation = None
    if validation is None and found.splits.get("test"):
        findings += (Message(id="data.test_split", params={"name": place}),)
    parts = [source for source in (train, evaluation) if source is not None]
    return train, evaluation, findings + tuple(m for source in parts for m in source.findings)


def stamp(place: str) -> tuple[str, ...]:
    """Changes when files of a place do; of the Hub's it is the id alone."""
    path = demo.resolve(place, "data")
    if path.is_dir():
        files: Iterable[Path] = sorted(f for f in path.rglob("*") if f.is_file())
    elif path.is_file():
        files = [path]
    else:
        files = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
    return tuple(LocalFile(file).stamp for file in files if file.is_file())


def _find(place: str, field: str) -> _Found:
    if hub.is_data_id(place):
        return _on_the_hub(hub.parse_data_id(place), field)
    path = demo.resolve(place, "data")
    with reading(path, field):
        if path.is_dir():
            return _in_directory(path, field)
        if not path.exists() and glob.has_magic(str(path)):
            names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
            files = [Path(name) for name in names if Path(name).is_file()]
            if not files:
                raise InputError("sources.no_match", path=path, field=field)
            return _Found(splits={"train": [LocalFile(file) for file in files]})
    return _Found(splits={"train": [LocalFile(path)]})


def _in_directory(path: Path, field: str) -> _Found:
    if (path / "dataset_dict.json").is_file():
        inside = sorted(f.parent for f in path.glob("*/state.json"))
        splits: dict[str, list[DataFile]] = {}
        for split in inside:
            splits.setdefault(_split_of(split.name) or "train", []).append(LocalFile(split))
        if "train" not in splits:
            raise InputError("sources.no_train", path=path, field=field)
        return _Found(splits=splits)
    if (path / "state.json").is_file():
        return _Found(splits={"train": [LocalFile(path)]})
    names = {}
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path).as_posix()
        hidden = any(part.startswith((".", "_")) for part in PurePosixPath(relative).parts)
        if not hidden and file.is_file():
            names[relative] = file
    groups, findings = _by_split(names, str(path), field)
    return _Found(
        splits={
            split: [LocalFile(names[name]) for name in group] for split, group in groups.items()
        },
        findings=findings,
    )


def _by_split(
    names: Iterable[str], place: str, field: str
) -> tuple[dict[str, list[str]], tuple[Message, ...]]:
    """Names of data files of the commonest format by split, and what is left out."""
    data = [n for n in names if split_name(n)[0] and PurePosixPath(n).name.lower() not in _NO_DATA]
    if not data:
        suffixes = tuple(SUFFIXES)
        raise InputError("sources.no_data", path=place, suffixes=suffixes, field=field)
    common = Counter(_family(name) for name in data).most_common(1)[0][0]
    kept = [name for name in data if _family(name) == common]
    left = [name for name in data if _family(name) != common]
    for split_of in (_split_of_folder, _split_of_file):
        splits: dict[str, list[str]] = {}
        for name in kept:
            split = split_of(name)
            if split is None:
                continue
            splits.setdefault(split, []).append(name)
        if splits:
            left += [name for name in kept if split_of(name) is None]
            break
    else:
        splits = {"train": kept}
    if "train" not in splits:
        raise InputError("sources.no_train", path=place, field=field)
    if not left:
        return splits, ()
    params = {"name": place, "count": len(left), "first": min(left)}
    return splits, (Message(id="data.files_left_out", params=params),)


def _family(name: str) -> str:
    """Formats that one reader reads together."""
    format_ = split_name(name)[0]
    return "json" if format_ == "jsonl" else str(format_)


def _split_of_folder(name: str) -> str | None:
    parts = PurePosixPath(name).parts[:-1]
    return next((split for part in parts if (split := _split_of(part))), None)


def _split_of_file(name: str) -> str | None:
    return _split_of(PurePosixPath(name).name)


def _split_of(part: str) -> str | None:
    found = re.split(r"[-._ 0-9]+", part.lower())
    return next((split for split, known in SPLITS.items() if set(known) & set(found)), None)


# --- the Hub ---------------------------------------------------------------------------------


def _on_the_hub(asked: hub.DataId, field: str) -> _Found:
    data = hub.find_data(asked.repo, asked.revision)
    config = _config(data, asked, field)
    names = _names_of_config(data, config)
    if names is None:
        inside = str(config.get("data_dir", "")) if config else ""
        below = [n for n in data.files if not inside or n.startswith(f"{inside}/")]
        names, findings = _by_split(below, asked.repo, field)
    else:
        findings = ()
    if asked.split is not None:
        if asked.split not in names:
            raise InputError(
                "sources.no_split",
                repo=asked.repo,
                split=asked.split,
                names=tuple(names),
                field=field,
            )
        names = {**names, "train": names[asked.split]}
        if asked.split in ("validation", "test"):
            del names[asked.split]
    if not names.get("train"):
        raise InputError("sources.no_train", path=asked.repo, field=field)

    def remote(name: str) -> hub.RemoteFile:
        return hub.RemoteFile(
            repo=data.repo, commit=data.commit, remote_path=name, size=data.files[name]
        )

    return _Found(
        splits={split: [remote(n) for n in group] for split, group in names.items()},
        findings=findings,
    )


def _config(data: hub.HubData, asked: hub.DataId, field: str) -> dict[str, Any] | None:
    """The configuration that was asked for, or the only or default one; None without any."""
    named = {str(c.get("config_name", "default")): c for c in data.configs}
    if asked.config is None:
        if len(named) <= 1:
            return next(iter(named.values()), None)
        default = [c for n, c in named.items() if c.get("default") is True or n == "default"]
        if default:
            return default[0]
    elif asked.config in named:
        return named[asked.config]
    elif asked.config == "default" and not named:
        return None
    if not named:
        raise InputError("sources.no_config", repo=asked.repo, config=asked.config, field=field)
    raise InputError(
        "sources.which_config",
        repo=asked.repo,
        got=words("sources.none") if asked.config is None else asked.config,
        names=tuple(named),
        field=field,
    )


def _names_of_config(
    data: hub.HubData, config: dict[str, Any] | None
) -> dict[str, list[str]] | None:
    """The files of each split as the data set's card lists them; None where it does not."""
    listed = config.get("data_files") if config else None
    if not config or not listed:
        return None
    if isinstance(listed, dict):
        pairs = [(str(split), patterns) for split, patterns in listed.items()]
    elif isinstance(listed, list) and all(isinstance(part, dict) for part in listed):
        pairs = [(str(part.get("split", "train")), part.get("path", ())) for part in listed]
    else:
        pairs = [("train", listed)]
    inside = str(config.get("data_dir") or "")
    result: dict[str, list[str]] = {}
    for split, patterns in pairs:
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            whole = f"{inside}/{pattern}" if inside else str(pattern)
            found = [n for n in data.files if fnmatch(n, whole) and split_name(n)[0]]
            result.setdefault(split, []).extend(sorted(found))
    return result


# --- files to be read ------------------------------------------------------------------------


def _source(name: str, files: Sequence[DataFile], field: str, *, sample: bool) -> Source:
    saved = [f for f in files if isinstance(f, LocalFile) and f.path.is_dir()]
    if saved:
        paths = tuple(f.path for f in saved)
        return Source(
            name=name, format="arrow", files=paths, names=tuple(map(str, paths)), origins=(None,)
        )
    files = [_present(file, field) for file in files]
    with reading(name, field):
        total = sum(file.size for file in files)
    if sample and total > row_sampling.LARGE_BYTES:
        return _sampled(name, files, total, field)
    plain = [plain_file(file.fetch(field), field) for file in files]
    formats = [format_of(path, field, file.name) for path, file in zip(plain, files, strict=True)]
    if len(set(formats)) > 1:
        raise InputError(
            "sources.mixed_formats", path=name, names=tuple(sorted(set(formats))), field=field
        )
    return Source(
        name=name,
        format=formats[0],
        files=tuple(plain),
        names=tuple(file.name for file in files),
        origins=tuple(plain),
    )


def _present(file: DataFile, field: str) -> DataFile:
    if isinstance(file, LocalFile):
        with reading(file.path, field):
            if not file.path.exists():
                raise InputError("rows.absent", path=file.path, field=field)
            if not file.path.is_file():
                raise InputError("rows.no_file", path=file.path, field=field)
    return file


def _sampled(name: str, files: Sequence[DataFile], total: int, field: str) -> Source:
    chosen = row_sampling.chosen(files)
    budget = row_sampling.budget_for(len(chosen))
    parts, formats = [], []
    for file in chosen:
        format_ = _format_of_large(file, field)
        parts.append(row_sampling.draw(file, format_, budget, field))
        formats.append(format_)
    if len(set(formats)) > 1:
        raise InputError(
            "sources.mixed_formats", path=name, names=tuple(sorted(set(formats))), field=field
        )
    seen = sum(file.size for file in chosen)
    num_rows = sum(part.num_rows for part in parts)
    is_counted = len(chosen) == len(files) and all(part.is_counted for part in parts)
    origins = tuple(
        part.file if part.is_start else file.path if isinstance(file, LocalFile) else None
        for part, file in zip(parts, chosen, strict=True)
    )
    params = {
        "name": name,
        "files": len(files),
        "total": total,
        "size": sum(part.file.stat().st_size for part in parts),
    }
    how = "data.sampled_some"
    if all(part.is_start for part in parts):
        how = "data.sampled_start"
    elif len(chosen) == len(files) and all(part.has_longest for part in parts):
        how = "data.sampled_file"
    return Source(
        name=name,
        format=formats[0],
        files=tuple(part.file for part in parts),
        names=tuple(file.name for file in chosen),
        origins=origins,
        num_rows=round(num_rows * total / max(seen, 1)),
        is_counted=is_counted,
        findings=(Message(id=how, params=params),),
    )


def _format_of_large(file: DataFile, field: str) -> Format:
    """Of its name, and of its first bytes where that is JSON."""
    format_, packed = split_name(file.name)
    if isinstance(file, LocalFile) and not packed:
        return format_of(file.path, field)
    if format_ is None:
        raise InputError("rows.suffix", suffixes=tuple(SUFFIXES), name=file.name, field=field)
    if format_ in ("json", "jsonl"):
        from advisor.file_formats import unpacking

        with reading(file.name, field), file.open() as raw, unpacking(raw, packed) as stream:
            start = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
        return "json" if start.startswith(b"[") else "jsonl"
    return format_
