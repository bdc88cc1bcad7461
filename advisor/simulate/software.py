"""Which software a question is about, where it is not the installed one. No torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.errors import InputError, note
from advisor.versions import installed

FIRST_FUSED = (5, 0)
"""transformers from here on holds a layer's experts in two parameters of three dimensions."""
SEPARATE_EXPERTS = frozenset(("mixtral", "olmoe", "qwen2_moe", "qwen3_moe"))
"""Model types whose experts were modules of linear layers before it (bitsandbytes issue 1849)."""
SIMULATED = ("torch", "transformers", "peft", "accelerate")
"""Packages whose installed release is what runs in a simulation."""


@dataclass(frozen=True, kw_only=True)
class Software:
    """Versions that a SPEC states; None is the installed one."""

    transformers: str | None = None
    others: tuple[tuple[str, str], ...] = ()
    """The rest of SIMULATED that were stated: (package, version)."""

    def is_stated(self) -> bool:
        """Whether the question says what runs it."""
        return self.transformers is not None or bool(self.others)

    def differences(self) -> str:
        """The stated versions that are not the simulated ones, as a sentence; else empty."""
        stated = dict(self.others)
        if self.transformers is not None:
            stated["transformers"] = self.transformers
        here = {name: installed(name) or "none" for name in stated}
        other = [n for n in SIMULATED if n in stated and _version(stated[n]) != _version(here[n])]
        if not other:
            return ""
        asked = ", ".join(f"{name} {stated[name]}" for name in other)
        ours = ", ".join(f"{name} {here[name]}" for name in other)
        return note("software.differences", asked=asked, ours=ours)

    def separates_experts(self, model_type: str) -> bool:
        """Whether this transformers builds every expert as linear layers of its own."""
        return model_type in SEPARATE_EXPERTS and self._is_before_fusion()

    def assumptions(self, model_type: str) -> tuple[str, ...]:
        """What of the stated versions is simulated."""
        if self.separates_experts(model_type):
            return (note("software.separate_experts", version=self.transformers),)
        return ()

    def _is_before_fusion(self) -> bool:
        return self.transformers is not None and _version(self.transformers) < FIRST_FUSED


INSTALLED = Software()


def read(data: Any) -> Software:
    """A SPEC's `software`: an object of versions; packages that are not simulated are passed by.

    Raises:
        InputError: no object, or a version of a simulated package that is none.
    """
    if data is None:
        return INSTALLED
    if not isinstance(data, Mapping):
        raise InputError("spec.software", got=data, field="software")
    stated = {name: data[name] for name in SIMULATED if data.get(name) is not None}
    for name, version in stated.items():
        if not isinstance(version, str) or _version(version) is None:
            raise InputError("spec.software_version", got=version, field=f"software.{name}")
    return Software(transformers=stated.pop("transformers", None), others=tuple(stated.items()))


def _version(text: str) -> Any:
    found = re.match(r"(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]))
