"""Which software a question is about, where it is not the installed one. No torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.errors import InputError, note

FIRST_FUSED = (5, 0)
"""transformers from here on holds a layer's experts in two parameters of three dimensions."""
SEPARATE_EXPERTS = frozenset(("mixtral", "olmoe", "qwen2_moe", "qwen3_moe"))
"""Model types whose experts were modules of linear layers before it (bitsandbytes issue 1849)."""


@dataclass(frozen=True, kw_only=True)
class Software:
    """Versions that a SPEC states; None is the installed one."""

    transformers: str | None = None

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
    """A SPEC's `software`: an object of versions, of which others are only carried.

    Raises:
        InputError: no object, or a version of transformers that is none.
    """
    if data is None:
        return INSTALLED
    if not isinstance(data, Mapping):
        raise InputError("spec.software", got=data, field="software")
    version = data.get("transformers")
    if version is not None and (not isinstance(version, str) or _version(version) is None):
        raise InputError("spec.software_version", got=version, field="software.transformers")
    return Software(transformers=version)


def _version(text: str) -> Any:
    found = re.match(r"(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]))
