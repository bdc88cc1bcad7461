"""What `save_pretrained` copies on the device: it writes the layout of older checkpoints.

Where weights are fused (the gate and up projections of all experts of a mixture), the halves are
made contiguous one after another, and all live until the last file is written. The conversion
itself is run here, on a model without storage.
"""

from collections import Counter

import torch
from torch import nn

from advisor.simulate.build import build_on_meta
from advisor.simulate.profile import Structure


def by_size(structure: Structure, depth: int, *, growing: bool) -> tuple[tuple[int, int, int], ...]:
    """`Profile.copies`: bytes, number at this depth, and its growth with each further layer.

    None where an adapter is saved, where experts are separate already, and of FSDP2, whose whole
    tensors are on the host by then.
    """
    alone = structure.sharding is None and not structure.evaluates
    if not alone or structure.method != "full" or structure.separate_experts:
        return ()
    counted, deeper = (
        Counter(made_by_save(build_on_meta(structure, layers)))
        for layers in (depth, depth + growing)
    )
    return tuple((size, counted[size], deeper[size] - counted[size]) for size in sorted(deeper))


def made_by_save(model: nn.Module) -> list[int]:
    """Bytes of each tensor to be written that shares no storage with the model."""
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    own = {_storage(tensor) for tensor in state.values()}
    saved = revert_weight_conversion(model, state)  # type: ignore[bad-argument-type]
    made = {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in saved.values()}
    return [num_bytes for storage, num_bytes in made.items() if storage not in own]


def _storage(tensor: torch.Tensor) -> int:
    """Which one it is; on the meta device all addresses are 0."""
    return tensor.untyped_storage()._cdata
