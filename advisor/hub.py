"""Models and data by their id on the Hugging Face Hub. The only room that reaches the network.

A model's description takes its config, tokenizer and what the Hub says of its weights; the trainer
takes the weights too. What was described once is answered from the cache while the Hub is away. The
token is the environment's or the Hub's own store's, read by huggingface_hub alone.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from advisor.errors import InputError, words
from advisor.file_formats import split_name
from advisor.home import cache_dir

TIMEOUT_SECONDS = 15
_DESCRIBED_BY = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""Config and tokenizer: small files at the top of a model's repository."""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_ID = re.compile(
    r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)"
    r"(@(?P<revision>[\w./-]+))?(:(?P<config>[\w.-]*))?(:(?P<split>[\w.-]*))?"
)


_MODEL_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """What is known of a model's repository."""

    directory: Path
    """Config and tokenizer, on this disk."""
    commit: str
    weights: dict[str, int] = field(default_factory=dict)
    """Bytes of each weight file, first the ones from_pretrained loads."""
    parameters: dict[str, int] = field(default_factory=dict)
    """Numbers of each safetensors dtype."""


@dataclass(frozen=True, kw_only=True)
class DataId:
    """Which rows of which data set."""

    repo: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A data file on the Hub."""

    repo: str
    commit: str
    remote_path: str
    size: int
    path: None = None
    """Not on this disk."""

    @property
    def name(self) -> str:
        """As sentences call it."""
        return f"{self.repo}/{self.remote_path}"

    @property
    def stamp(self) -> str:
        """Another one when the content changes."""
        return f"{self.repo}@{self.commit}/{self.remote_path}"

    def open(self) -> BinaryIO:
        """The bytes, fetched in ranges as they are read."""
        from huggingface_hub import HfFileSystem

        with _as_input_error("dataset", self.repo, "data"):
            where = f"datasets/{self.repo}@{self.commit}/{self.remote_path}"
            return HfFileSystem().open(where, "rb")  # type: ignore[return-value]

    def fetch(self, field_: str) -> Path:
        """The whole file, in the Hub's cache on this disk."""
        from huggingface_hub import hf_hub_download

        with _as_input_error("dataset", self.repo, field_), _quiet():
            found = hf_hub_download(
                self.repo,
                self.remote_path,
                repo_type="dataset",
                revision=self.commit,
                etag_timeout=TIMEOUT_SECONDS,
            )
        return Path(found)


@dataclass(frozen=True, kw_only=True)
class HubData:
    """The files of a data set's repository, and what its card says of them."""

    repo: str
    commit: str
    files: dict[str, int]
    """Bytes of each, by path."""
    configs: tuple[dict[str, Any], ...] = ()


def is_model_id(text: str) -> bool:
    """Whether a user means a model on the Hub: owner/name[@revision], no such path on this disk."""
    return _names_nothing_here(text) and _MODEL_ID.fullmatch(text) is not None


def parse_model_id(text: str) -> tuple[str, str | None]:
    """Repository and revision of an id that `is_model_id` knows."""
    found = _MODEL_ID.fullmatch(text)
    assert found is not None
    return found["repo"], found["revision"]


def with_revision(name: str, revision: str | None) -> str:
    """A model's name with the revision beside it, where it is an id; paths have none."""
    return f"{name}@{revision}" if revision and is_model_id(name) else name


def is_data_id(text: str) -> bool:
    """Whether a user means data on the Hub: owner/name[@revision][:config[:split]]."""
    found = _ID.fullmatch(text)
    if found is None or not _names_nothing_here(text):
        return False
    return split_name(found["repo"])[0] is None or ":" in text


def _names_nothing_here(text: str) -> bool:
    return not text.startswith((".", "~", "/")) and not Path(text).exists()


def parse_data_id(text: str) -> DataId:
    """The parts of an id that `is_data_id` knows."""
    found = _ID.fullmatch(text)
    assert found is not None
    parts = {name: value or None for name, value in found.groupdict().items() if name != "repo"}
    return DataId(repo=found["repo"], **parts)


# --- models ----------------------------------------------------------------------------------


def model_directory(name: str) -> str:
    """The directory that holds a model's config and tokenizer: fetched where `name` is an id."""
    return str(find_model(name).directory) if is_model_id(name) else name


def fetch_model(name: str) -> str:
    """The directory of a model with its weights: all of it is downloaded where `name` is an id.

    Raises:
        InputError: the Hub does not give it.
    """
    if not is_model_id(name):
        return name
    found = find_model(name)
    if not found.weights:
        return str(found.directory)
    repo, _ = parse_model_id(name)
    return str(_snapshot(repo, found.commit, (*_DESCRIBED_BY, *found.weights)))


@lru_cache(maxsize=64)
def find_model(name: str) -> HubModel:
    """What the Hub says of a model's id, and its config and tokenizer; the weights stay there.

    Raises:
        InputError: no such model or revision, not open to this machine, or not reached and not in
            the cache.
    """
    from huggingface_hub import HfApi

    repo, revision = parse_model_id(name)
    note = cache_dir() / "hub" / f"{name.replace('/', '--')}.json"
    try:
        with _as_input_error("model", repo, "model", revision):
            info = HfApi().model_info(
                repo, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
    except InputError as error:
        known = _remembered(note) if error.id in ("hub.offline", "hub.unreachable") else None
        if known is None:
            raise
        return known
    assert info.sha is not None
    sizes = {s.rfilename: s.size or 0 for s in info.siblings or ()}
    directory = _snapshot(repo, info.sha, _DESCRIBED_BY)
    found = HubModel(
        directory=directory,
        commit=info.sha,
        weights=_weight_files(sizes, directory),
        parameters=dict(info.safetensors.parameters) if info.safetensors else {},
    )
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({**asdict(found), "directory": str(directory)}), "utf-8")
    return found


def _remembered(note: Path) -> HubModel | None:
    """What the last answer of the Hub was, while the files that came with it are there."""
    try:
        known = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    directory = Path(known.pop("directory"))
    return HubModel(directory=directory, **known) if directory.is_dir() else None


def _snapshot(repo: str, commit: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    with _as_input_error("model", repo, "model"), _quiet():
        # "*" of these patterns goes into folders too
        found = snapshot_download(
            repo,
            revision=commit,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*"],
            etag_timeout=TIMEOUT_SECONDS,
        )
    return Path(found)


def _weight_files(sizes: dict[str, int], directory: Path) -> dict[str, int]:
    """The files from_pretrained would load, safetensors first, and their bytes."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if single in sizes:
            return {single: sizes[single]}
        if index in sizes:
            try:
                shards = json.loads((directory / index).read_text("utf-8"))["weight_map"].values()
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise InputError(
                    "model.no_weight_map", path=directory / index, field="model"
                ) from error
            return {name: sizes.get(name, 0) for name in sorted(set(shards))}
    return {}


# --- data ------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def find_data(repo: str, revision: str | None) -> HubData:
    """The files of a data set on the Hub.

    Raises:
        InputError: no such data set or revision, not open to this machine, or not reached.
    """
    from huggingface_hub import HfApi

    note = cache_dir() / "hub" / f"data-{repo.replace('/', '--')}-{revision or 'main'}.json"
    note = note.parent / note.name.replace("/", "--")
    try:
        with _as_input_error("dataset", repo, "data", revision):
            info = HfApi().dataset_info(
                repo, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
    except InputError as error:
        if error.id not in ("hub.offline", "hub.unreachable") or not note.is_file():
            raise
        known = json.loads(note.read_text("utf-8"))
        return HubData(configs=tuple(known.pop("configs")), **known)
    assert info.sha is not None
    card: Any = info.card_data.to_dict() if info.card_data else {}
    configs = card.get("configs")
    found = HubData(
        repo=repo,
        commit=info.sha,
        files={s.rfilename: s.size or 0 for s in info.siblings or ()},
        configs=tuple(c for c in configs if isinstance(c, dict))
        if isinstance(configs, list)
        else (),
    )
    name = repo.rpartition("/")[2]
    if f"{name}.py" in found.files and not any(split_name(f)[0] for f in found.files):
        raise InputError("hub.script", repo=repo, script=f"{name}.py", field="data")
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(asdict(found)), "utf-8")
    return found


# --- both ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of huggingface_hub."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    had_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if had_bars:
            enable_progress_bars()


@contextlib.contextmanager
def _as_input_error(
    kind: Literal["model", "dataset"], repo: str, field_: str, revision: str | None = None
) -> Iterator[None]:
    """What the Hub or the way to it refuses, as one sentence; never with an address or a token."""
    from huggingface_hub import errors

    what = words("hub.model") if kind == "model" else words("hub.data")
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError("hub.gated", what=what, repo=repo, field=field_) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError("hub.not_found", what=what, repo=repo, field=field_) from error
    except errors.RevisionNotFoundError as error:
        raise InputError("hub.revision", repo=repo, revision=revision, field=field_) from error
    except errors.OfflineModeIsEnabled as error:
        raise InputError("hub.offline", what=what, repo=repo, field=field_) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(
                "hub.denied", what=what, repo=repo, status=status, field=field_
            ) from error
        raise InputError("hub.status", what=what, repo=repo, status=status, field=field_) from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:
        if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            raise InputError("hub.offline", what=what, repo=repo, field=field_) from error
        reason = type(error.__cause__ or error).__name__
        raise InputError(
            "hub.unreachable", what=what, repo=repo, reason=reason, field=field_
        ) from error
