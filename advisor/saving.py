"""What a save takes of the device, said with every answer; read in source.

One device and DDP: `Trainer._save` hands `state_dict()`, which shares the parameters' storages, to
`save_pretrained`; safetensors and `torch.save` then copy one storage at a time to host memory
(transformers 5.23 `modeling_utils.py`, torch 2.13 `serialization.py`). Adapters alone are saved
where there are adapters. FSDP2: `fsdp_config.state_dict_type` is FULL_STATE_DICT unless it is set;
accelerate 1.15 (`Accelerator.get_state_dict`, `save_fsdp_model`, `save_fsdp_optimizer`) then
asks torch for whole tensors with `cpu_offload`, and `_iterate_state_dict` gathers each parameter
and each state, moves it to the host and only then goes on. A step's own reduction holds as much of
the same parameter at once: its gradient and the input of its reduce-scatter, of 4 bytes or more an
element together, with all gradients and activations beside them.

Where transformers fuses weights that checkpoints hold apart, `save_pretrained` splits them first:
those copies (simulate/saved_copies.py) are the occasion `save` of the estimate. The launcher writes
the trained model whatever save_strategy is, so they are counted for every plan.
"""

from advisor.errors import note
from advisor.plan import TrainingPlan
from advisor.units import GIB


def assumptions(plan: TrainingPlan, copied_bytes: int = 0) -> list[str]:
    """Sentences on the saves of a plan.

    Args:
        plan: its method and devices.
        copied_bytes: what a save copies on the device.
    """
    if copied_bytes:
        return [note("saving.copies", copied=copied_bytes / GIB)]
    if plan.save_strategy == "no" or plan.use_cpu:
        return []
    if plan.is_sharded():
        return [note("saving.sharded")]
    return [note("saving.plain")]
