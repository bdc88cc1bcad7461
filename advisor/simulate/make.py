"""Make profiles: trace, fit, save; and the store that finds them again.

The tracing half needs torch.
"""

import dataclasses
import functools
import gc
import logging
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from advisor import records
from advisor.errors import SimulationError
from advisor.home import cache_dir
from advisor.simulate.profile import Profile, Structure

if TYPE_CHECKING:
    from advisor.simulate.worker import Progress, Worker


def profiles_dir() -> Path:
    """Where profiles are cached."""
    path = cache_dir() / "profiles"
    path.mkdir(exist_ok=True)
    return path


class Profiles(Protocol):
    """What an estimator takes its profiles from."""

    def get(self, structure: Structure, on_progress: "Progress | None" = None) -> Profile:
        """The profile of a structure; SimulationError: there is none."""
        ...


class ProfileStore:
    """Profiles by structure: from memory, from disk, else from the worker."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._profiles: dict[str, Profile] = {}

    def get(self, structure: Structure, on_progress: "Progress | None" = None) -> Profile:
        """The profile of a structure.

        Raises:
            SimulationError: it cannot be simulated.
        """
        full_key = structure.key(with_depth=True)
        if full_key in self._profiles:
            return self._profiles[full_key]
        profile = _load(structure, self._profiles)
        if profile is None:
            if structure.device == "cuda":  # meanwhile: this process only waits
                threading.Thread(target=_prepare_replay).start()
            self._worker.call(
                "profile", {"structure": records.encode(structure)}, on_progress=on_progress
            )
            profile = _load(structure, self._profiles)
        if profile is None:
            raise SimulationError("make.unreadable", path=profiles_dir())
        self._profiles[full_key] = profile
        return profile

    def known(self, structure: Structure) -> bool:
        """Whether `get` answers without tracing."""
        full_key = structure.key(with_depth=True)
        return full_key in self._profiles or _load(structure, self._profiles) is not None


def _prepare_replay() -> None:
    from advisor.simulate.arrays import prepare

    prepare()


def _load(structure: Structure, known: dict[str, Profile] | None = None) -> Profile | None:
    """The depth's own profile, else the one that depths share, from `known`, else from disk."""
    known = {} if known is None else known
    for with_depth in (True, False):
        key = structure.key(with_depth=with_depth)
        profile = known.get(key) or Profile.load(profiles_dir() / f"{key}.npz")
        if profile is None:
            continue
        known[key] = profile
        if with_depth or (structure.depth() or 0) >= profile.traced_depth:
            return profile
    return None


@functools.cache
def _settle() -> None:
    """Take the imported libraries, a million objects, out of the garbage collector's rounds."""
    gc.collect()
    gc.freeze()


def make_profile(encoded: dict[str, Any], progress: "Callable[[str, dict[str, Any]], None]") -> str:
    """Trace and fit a structure in this process; returns its key.

    Raises:
        SimulationError: the model, the method or these library versions cannot be simulated.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    from advisor.simulate import patches

    gone = patches.missing()  # before what imports the same libraries' insides
    if gone:
        raise SimulationError("make.lacks", names=gone)
    from advisor.simulate import fit, optimizers
    from advisor.simulate.build import attention_note, build_on_meta, context_of, why_in_full
    from advisor.simulate.experts import unquantised_note
    from advisor.simulate.saved_copies import by_size
    from advisor.simulate.step import record

    _settle()
    structure = records.decode(Structure, encoded, "structure")
    optimizers.find(structure.optim, structure.device)
    progress("build", {})
    plain = dataclasses.replace(structure, lora=None, activation_checkpointing=False)
    depth = structure.depth()
    model = build_on_meta(plain, depth or 1)
    in_full, context = why_in_full(model, depth), context_of(model)
    notes = dict.fromkeys(
        note for noted in (attention_note, unquantised_note) for note in noted(model, structure)
    )
    if in_full is not None:
        notes[f"All layers were traced: {in_full}."] = None
    del model
    done = 0

    def trace(layer_count: int, batch: int, length: int) -> Any:
        nonlocal done
        done += 1
        progress("trace", {"number": done})
        result = record(structure, depth=layer_count, batch=batch, length=length)
        notes.update(dict.fromkeys(result.notes))
        return result

    profile = fit.fit(
        trace,
        depth=depth or 1,
        replicate=in_full is None,
        single_row=structure.single_row,
        context=context,
    )
    profile = dataclasses.replace(
        profile,
        notes=(*profile.notes, *notes, *optimizers.notes(structure)),
        copies=by_size(structure, profile.traced_depth, growing=profile.replicated),
    )
    key = structure.key(with_depth=not profile.replicated)
    profile.save(profiles_dir() / f"{key}.npz")
    return key
