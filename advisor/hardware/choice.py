"""One GPU of this machine by its UUID or its index, as `--machine` and the page name it. Pure."""

import re

from advisor.errors import InputError, words
from advisor.hardware.machine import Gpu, Machine

_INDEX = re.compile(r"(?:cuda:|gpu\s*)?(\d{1,2})", re.IGNORECASE)
_UUID = re.compile(r"(?:GPU|MIG)-[0-9a-f-]+", re.IGNORECASE)


def is_local(name: str) -> bool:
    """Whether a name means a GPU of this machine: "GPU-5f2c", "MIG-9a1e", "cuda:1", "1"."""
    text = name.strip()
    return _INDEX.fullmatch(text) is not None or _UUID.fullmatch(text) is not None


def choose(machine: Machine, name: str) -> Machine:
    """The machine, training on the GPU that `name` means.

    Args:
        machine: as probed.
        name: see `is_local`; a UUID may be cut short where it is still the only one.

    Raises:
        InputError: no such GPU, several, or one that cannot be trained on; the sentence says why.
    """
    text = name.strip()
    if index := _INDEX.fullmatch(text):
        found = [gpu for gpu in machine.gpus if gpu.index == int(index[1])]
    else:
        found = [g for g in machine.gpus if g.uuid and g.uuid.lower().startswith(text.lower())]
    if not found:
        raise InputError("choice.none", name=name, has=_listed(machine), field="machine")
    if len(found) > 1:
        raise InputError("choice.several", name=name, has=_listed(machine), field="machine")
    return machine.with_gpu(_usable_uuid(machine, found[0]))


def _usable_uuid(machine: Machine, gpu: Gpu) -> str:
    if gpu.vendor != "nvidia":
        raise InputError("choice.vendor", name=gpu.name, field="machine")
    if gpu.uuid is None:
        raise InputError("choice.no_uuid", name=gpu.name, field="machine")
    if machine.torch is not None and machine.torch.usable is False:
        problem = machine.torch.problem or ""
        raise InputError("choice.torch", name=gpu.name, problem=problem, field="machine")
    if gpu.usable_by_torch is False:
        raise InputError("choice.torch", name=gpu.name, problem="", field="machine")
    if gpu.index is not None or (gpu.parent_uuid and machine.cuda_visible_devices is None):
        return gpu.uuid  # of several MIG instances CUDA shows one, whichever is asked for by UUID
    if machine.cuda_visible_devices is not None:
        variable = machine.cuda_visible_devices
        raise InputError("choice.hidden", name=gpu.name, variable=variable, field="machine")
    if _is_split(machine):
        raise InputError("choice.beside_mig", name=gpu.name, field="machine")
    raise InputError("choice.unusable", name=gpu.name, field="machine")


def _is_split(machine: Machine) -> bool:
    return any(gpu.parent_uuid is not None for gpu in machine.gpus)


def _listed(machine: Machine) -> object:
    """The GPUs of a machine with what names them."""
    named = [
        f"{'-' if gpu.index is None else gpu.index} {gpu.name} ({gpu.uuid})"
        for gpu in machine.gpus
        if gpu.uuid
    ]
    return "; ".join(named) if named else words("choice.no_gpu")
