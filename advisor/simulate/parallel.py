"""FSDP2 on one process: the real fully_shard on fake tensors, a fake process group for the rest.

accelerate's own preparation runs (`fsdp2_apply_ac`, `fsdp2_prepare_model` of accelerate 1.15), so
what is wrapped, in which order and with which policy is what Trainer's `fsdp` does. Collectives
move nothing: rank 0 of `devices` allocates what every rank does.

What goes around the dispatcher is recorded here: the full weights that a rank moves to its card
before it keeps its part, and the storages that FSDP2 empties and fills with `resize_`.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from advisor.errors import SimulationError
from advisor.simulate.build import find_layers
from advisor.simulate.profile import Structure
from advisor.simulate.trace import GLOBAL, Recorder

Replace = Callable[[Any, str, Any], None]


@contextlib.contextmanager
def process_group(devices: int) -> Iterator[Any]:
    """Rank 0 of a process group whose other ranks do not exist, and its mesh."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=0, world_size=devices, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (devices,))
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def sharding(structure: Structure, recorder: Recorder) -> Iterator[Any]:
    """What a sharded step needs around it, and its mesh; None and nothing for any other step.

    To be entered before the mode of fake tensors: a mesh is made of numbers.
    """
    if structure.sharding is None:
        yield None
        return
    check(structure)
    from torch.distributed.tensor import DTensor

    recorder.defers_to = DTensor
    with contextlib.ExitStack() as stack:
        mesh = stack.enter_context(process_group(structure.sharding.devices))

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        _silence_propagation(recorder, replace)
        _record_storages(recorder, replace)
        _name_layers(recorder, replace)
        yield mesh


def check(structure: Structure) -> None:
    """Refuse what was never tried.

    Raises:
        SimulationError: quantised weights, or an optimizer that is no real class of torch's.
    """
    if structure.quantization is not None:
        raise SimulationError("parallel.quantised")
    if structure.optim not in OPTIMIZERS:
        raise SimulationError("parallel.optimizer", optim=structure.optim, names=OPTIMIZERS)


OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
"""Real classes of torch.optim, which take DTensors."""


def _silence_propagation(recorder: Recorder, replace: Replace) -> None:
    """DTensor finds the shapes of its results by running operators on the side."""
    from torch.distributed.tensor._sharding_prop import ShardingPropagator

    for name in ("propagate", "propagate_op_sharding_non_cached", "_propagate_tensor_meta"):
        original = getattr(ShardingPropagator, name)

        def quiet(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            with recorder.silent():
                return _original(self, *args, **kwargs)

        replace(ShardingPropagator, name, quiet)


def _record_storages(recorder: Recorder, replace: Replace) -> None:
    """alloc_storage and free_storage, which ask fake storages for a size and resize them."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group

    def resize(tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        if storage.nbytes() != size:
            recorder.resize(storage, size)

    def alloc_storage(tensor: torch.Tensor) -> None:
        resize(tensor, tensor.numel() * tensor.itemsize)

    def free_storage(tensor: torch.Tensor) -> None:
        resize(tensor, 0)

    replace(_fsdp_param, "alloc_storage", alloc_storage)
    replace(_fsdp_param, "free_storage", free_storage)
    replace(_fsdp_param_group, "alloc_storage", alloc_storage)


def _name_layers(recorder: Recorder, replace: Replace) -> None:
    """A layer's gradients belong to it, also the first one's, whose input needs no gradient."""
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

    original = FSDPParamGroup.post_backward

    def post_backward(self: Any, *args: Any) -> None:
        before = recorder.layer
        recorder.layer = getattr(self.modules[0], LAYER, before)
        original(self, *args)
        recorder.layer = before

    replace(FSDPParamGroup, "post_backward", post_backward)


LAYER = "_layer_number"
"""Attribute of a repeated block: which one it is."""


def cloned(output: Any) -> dict[str, Any]:
    """What DDP hands out where it looks for unused parameters (_DDPSink)."""
    return {
        name: value.clone() if isinstance(value, torch.Tensor) and value.requires_grad else value
        for name, value in output.items()
    }


# -- wrapping ---------------------------------------------------------------------------------


def shard(model: nn.Module, recorder: Recorder, structure: Structure, mesh: Any) -> nn.Module:
    """Checkpointing and sharding as accelerate prepares a model; its weights are on the host."""
    from accelerate.utils import fsdp_utils

    assert structure.sharding is not None
    for number, layer in enumerate(find_layers(model)[1]):
        setattr(layer, LAYER, number)
    accelerator = _accelerator(structure, mesh)
    with _placing(model, recorder, on_meta=structure.loop == "torchtitan"):
        if structure.selective_checkpointing:
            _checkpoint_selectively(model)
        elif structure.sharding.activation_checkpointing:
            model = fsdp_utils.fsdp2_apply_ac(accelerator, model)
        if structure.ends_in_root:
            _shard_blocks_and_rest(model, accelerator)
        else:
            model = fsdp_utils.fsdp2_prepare_model(accelerator, model)
    recorder.layer = GLOBAL
    return model


def _checkpoint_selectively(model: nn.Module) -> None:
    """Torchtitan's selective checkpointing by operators (distributed/activation_checkpoint.py)."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    aten = torch.ops.aten
    saved = (
        aten.mm.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_flash_attention.default,
    )

    def contexts() -> Any:
        products = {False: 0, True: 0}

        def policy(context: Any, func: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
            if func is aten.mm.default:
                products[context.is_recompute] += 1
            again = func is aten.mm.default and products[context.is_recompute] % 2 == 0
            if func in saved and not again:
                return CheckpointPolicy.MUST_SAVE
            return CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    prefix, layers = find_layers(model)
    for number, layer in enumerate(layers):
        wrapped = checkpoint_wrapper(layer, context_fn=contexts, preserve_rng_state=False)
        setattr(wrapped, LAYER, number)
        model.set_submodule(f"{prefix}.{number}", wrapped)


def _shard_blocks_and_rest(model: nn.Module, accelerator: Any) -> None:
    """As torchtitan grouped until pull request 1094 (August 2025): all but the blocks together.

    That group, the root's, and the last block keep their weights between forward and backward.
    """
    from torch.distributed.fsdp import fully_shard

    plugin = accelerator.state.fsdp_plugin
    blocks = list(find_layers(model)[1])
    for number, module in enumerate([*blocks, model]):
        fully_shard(
            module,
            mesh=accelerator.torch_device_mesh["data",],
            mp_policy=plugin.mixed_precision_policy,
            reshard_after_forward=plugin.reshard_after_forward and number < len(blocks) - 1,
        )


def _accelerator(structure: Structure, mesh: Any) -> Any:
    """The attributes of an Accelerator that its FSDP2 preparation reads."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    assert structure.sharding is not None
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=structure.sharding.reshard_after_forward,
        auto_wrap_policy="transformer_based_wrap",
        cpu_offload=False,
        cpu_ram_efficient_loading=False,
        activation_checkpointing=structure.sharding.activation_checkpointing,
        state_dict_type="FULL_STATE_DICT",
    )
    short = {"bfloat16": "bf16", "float16": "fp16", None: "no"}[structure.autocast]
    if structure.loop == "torchtitan":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=None if structure.autocast is None else getattr(torch, structure.autocast),
            reduce_dtype=torch.float32,
        )
    elif short != "no":
        plugin.set_mixed_precision(short)
    return SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision=short,
        is_main_process=False,
        device=torch.device("cpu"),
        torch_device_mesh={("data",): mesh},
        parallelism_config=SimpleNamespace(fsdp_dim_names=["data"]),
    )


@contextlib.contextmanager
def _placing(model: nn.Module, recorder: Recorder, *, on_meta: bool) -> Iterator[None]:
    """Record each module's way to the card: the full weights, then this rank's part of them.

    Weights that are still on the meta device come as parts.
    """
    from torch.distributed.fsdp._fully_shard import _fsdp_init, _fsdp_param

    layers = {
        id(p): number
        for number, layer in enumerate(find_layers(model)[1])
        for p in layer.parameters()
    }

    def move(params: list[nn.Parameter], buffers: list[torch.Tensor], _device: Any) -> None:
        for tensor in (*params, *buffers):
            recorder.layer = layers.get(id(tensor), GLOBAL)
            tensor.data = torch.empty_like(tensor)
            if not on_meta or not isinstance(tensor, nn.Parameter):
                recorder.track(tensor, "load")
        recorder.layer = GLOBAL

    original = _fsdp_param.FSDPParam._init_sharded_param

    def init_sharded(self: Any, param: nn.Parameter, *args: Any) -> None:
        recorder.layer = layers.get(id(param), GLOBAL)
        original(self, param, *args)
        recorder.track(self._sharded_param_data, "load")
        recorder.layer = GLOBAL

    moved = _fsdp_init._move_states_to_device
    _fsdp_init._move_states_to_device = move  # type: ignore[bad-assignment]
    _fsdp_param.FSDPParam._init_sharded_param = init_sharded  # type: ignore[method-assign]
    try:
        yield
    finally:
        _fsdp_init._move_states_to_device = moved
        _fsdp_param.FSDPParam._init_sharded_param = original  # type: ignore[method-assign]
