"""Run the training step of transformers.Trainer on fake tensors and record it.

The sequence is that of `Trainer._run_epoch` and `Trainer.training_step` (transformers 5.23) with
accelerate's autocast wrapper: batch, item count, forward, loss, backward, clipping, optimizer,
zero_grad. It is run twice: the first step creates the optimizer's states, the second is steady.
"""

import contextlib
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from advisor.errors import SimulationError
from advisor.simulate import batches, cuda, patches
from advisor.simulate.build import build_on_meta, find_layers, model_errors, one_line, output_layer
from advisor.simulate.loading import materialise
from advisor.simulate.profile import Structure
from advisor.simulate.trace import GLOBAL, Recorder, Trace

Optimizer = torch.optim.Optimizer


def record(structure: Structure, *, depth: int, batch: int, length: int) -> Trace:
    """Record load and two optimizer steps.

    Args:
        structure: what is trained and how.
        depth: number of repeated layers to build.
        batch: rows of a micro-batch.
        length: tokens of every row.

    Raises:
        SimulationError: the model or a method cannot be simulated.
    """
    model: Any = build_on_meta(structure, depth)
    recorder = Recorder(structure.compute_capability if structure.device == "cuda" else None)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    planned = batches.plan_batch(structure, model, batch, length)
    recorder.values.notes.update(planned.notes)
    conditions = patches.Conditions(
        padded=structure.padded,
        expand_kv=structure.expand_kv,
        compute_capability=recorder.capability,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(patches.applied(conditions))
        if structure.device == "cuda":
            assert structure.compute_capability is not None
            stack.enter_context(cuda.semantics(structure.compute_capability, structure.sdpa))
        stack.enter_context(fake)
        stack.enter_context(torch.device("cpu"))
        materialise(model, recorder, structure)
        recorder.mark("load")
        model.train()
        _follow_layers(model, recorder)
        optimizer = _optimizer(model, structure)
        loop = _script_step if structure.loop == "script" else _trainer_step
        if structure.autocast is not None:
            _wrap_autocast(model, getattr(torch, structure.autocast))
        make_batch = _batch_maker(structure, planned, recorder)
        try:
            for number in range(2):
                recorder.time_it = number == 1
                loop(model, optimizer, make_batch, recorder, structure, number)
        except model_errors() as error:
            raise SimulationError(
                "step.model_raised", model_type=model.config.model_type, reason=one_line(error)
            ) from error
        recorder.mark("end")
        recorder.close()
    recorder.trace.notes += sorted(recorder.values.notes)
    return recorder.trace


def _batch_maker(
    structure: Structure, planned: batches.Batch, recorder: Recorder
) -> Callable[[], dict[str, Any]]:
    """Batches as the collator makes them; a script passes ids and labels alone."""
    tensors = dict(planned.tensors)
    if structure.loop == "script" and structure.task == "causal-lm" and not structure.padded:
        del tensors["attention_mask"]

    def make() -> dict[str, Any]:
        result = {}
        for name, (shape, dtype, real) in tensors.items():
            if name == "labels" and structure.loop == "script" and "input_ids" in result:
                result[name] = result["input_ids"]
                continue
            result[name] = torch.empty(shape, dtype=dtype)
            if real is not None:
                recorder.values.give(result[name], real)
        return result

    return make


def _trainer_step(
    model: nn.Module,
    optimizer: Optimizer,
    make_batch: Callable[[], dict[str, Any]],
    recorder: Recorder,
    structure: Structure,
    number: int,
) -> None:
    """One pass of Trainer._run_epoch's outer loop.

    With accumulation two micro-batches stand for any number above one.
    """
    micro_batches = 2 if structure.accumulate else 1
    with recorder.in_phase("forward"):
        made = [make_batch() for _ in range(micro_batches)]
        counted = _num_items(model, made)
    loss = None
    for batch in made:
        with recorder.in_phase("forward"):
            output = model(**batch, **counted)
            loss = output["loss"] if isinstance(output, dict) else output[0]
            del output
            if not counted:
                loss = loss / micro_batches
            recorder.layer = GLOBAL
            recorder.mark(f"forward{number}")
        loss = _backward(loss, model, recorder, number)
    with recorder.in_phase("optimizer"):
        if structure.clip:
            _clip(model, structure)
        _update(optimizer, recorder, structure)
        recorder.mark(f"optimizer{number}")
        model.zero_grad()
    recorder.phase = "forward"
    del loss, batch, made


def _num_items(model: Any, made: list[dict[str, Any]]) -> dict[str, Any]:
    """Trainer._get_num_items_in_batch, for models whose loss takes it."""
    inspected = model.get_base_model() if hasattr(model, "get_base_model") else model
    forward = inspect.signature(type(inspected).forward)  # type: ignore[attr-defined]
    takes_it = any(p.kind == p.VAR_KEYWORD for p in forward.parameters.values())
    if not getattr(inspected, "accepts_loss_kwargs", takes_it) or "labels" not in made[0]:
        return {}
    shifted = _shifts_labels(inspected)
    labels = [b["labels"][..., 1:] if shifted else b["labels"] for b in made]
    return {"num_items_in_batch": sum((each.ne(-100).sum() for each in labels), torch.zeros(()))}


def _shifts_labels(model: nn.Module) -> bool:
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    loss = LOSS_MAPPING.get(getattr(model, "loss_type", None))  # type: ignore[arg-type]
    return loss is ForCausalLMLoss and not getattr(model.config, "is_encoder_decoder", False)


def _script_step(
    model: nn.Module,
    optimizer: Optimizer,
    make_batch: Callable[[], dict[str, Any]],
    recorder: Recorder,
    structure: Structure,
    number: int,
) -> None:
    """A bare loop.

    The same batch again and again, gradients zeroed first, the output alive until the step ends.
    """
    if number == 0:
        with recorder.in_phase("forward"):
            model.batch_of_script = make_batch()  # type: ignore[assignment]
    with recorder.in_phase("optimizer"):
        optimizer.zero_grad(set_to_none=True)
    with recorder.in_phase("forward"):
        output = model(**model.batch_of_script)  # type: ignore[arg-type]
        recorder.layer = GLOBAL
        recorder.mark(f"forward{number}")
    loss = _backward(output.loss, model, recorder, number)
    with recorder.in_phase("optimizer"):
        if structure.clip:
            _clip(model, structure)
        _update(optimizer, recorder, structure)
        recorder.mark(f"optimizer{number}")
    recorder.phase = "forward"
    del output, loss


def _backward(
    loss: torch.Tensor, model: nn.Module, recorder: Recorder, number: int
) -> torch.Tensor:
    with recorder.in_phase("backward"):
        loss.backward()
        recorder.layer = GLOBAL
        recorder.in_head = False
        recorder.mark(f"backward{number}")
        detached = loss.detach()
    for p in model.parameters():
        if p.grad is not None:
            recorder.recategorise(p.grad, "gradients")
    return detached


def _clip(model: nn.Module, structure: Structure) -> None:
    # what clip_grad_norm_ chooses by itself for real tensors of this device
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=structure.device == "cuda")


def _update(optimizer: Optimizer, recorder: Recorder, structure: Structure) -> None:
    recorder.skip_scalars = structure.optim == "adamw_torch"  # foreach keeps `step` on the CPU
    optimizer.step()
    recorder.skip_scalars = False
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                recorder.recategorise(value, "optimizer")


def _optimizer(model: nn.Module, structure: Structure) -> Optimizer:
    """As Trainer groups them: weight decay for all but biases and norms.

    Raises:
        SimulationError: an optimizer that is not simulated yet.
    """
    from transformers.trainer_pt_utils import get_parameter_names

    kinds: dict[str, Any] = {"adamw_torch": {"foreach": True}, "adamw_torch_fused": {"fused": True}}
    if structure.optim not in kinds:
        raise SimulationError("step.optimizer", optim=structure.optim, kinds=tuple(kinds))
    if structure.loop == "script":
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=1e-4, **kinds[structure.optim])
    norms = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], norms))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": 0.01},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, **kinds[structure.optim])


def _wrap_autocast(model: nn.Module, dtype: torch.dtype) -> None:
    """Accelerate's prepare_model: autocast around forward, its outputs converted to float32."""
    from accelerate.utils import convert_outputs_to_fp32

    inner = type(model).forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", dtype=dtype):
            return inner(self, *args, **kwargs)

    model.forward = MethodType(convert_outputs_to_fp32(forward), model)  # type: ignore[method-assign]


def _follow_layers(model: nn.Module, recorder: Recorder) -> None:
    """Tell the recorder which layer the program is in, in forward, recompute and backward.

    Forward hooks bracket a layer. A tensor hook on its output fires when its backward starts
    (autograd runs nodes in the reverse order of their making), one on the first layer's input when
    it ends.
    """

    def enter(number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, _kwargs: Any) -> None:
            recorder.layer = number

        return hook

    def leave(number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if recorder.phase == "backward":  # recomputed inside the layer's backward
                return
            recorder.layer = GLOBAL
            hidden = output[0] if isinstance(output, tuple) else output
            if _takes_hook(hidden):
                hidden.register_hook(_setter(recorder, "layer", number))
            entered = args[0] if args else kwargs.get("hidden_states")
            if number == 0 and _takes_hook(entered):
                entered.register_hook(_setter(recorder, "layer", GLOBAL))

        return hook

    for number, layer in enumerate(find_layers(model)[1]):
        layer.register_forward_pre_hook(enter(number), with_kwargs=True)
        layer.register_forward_hook(leave(number), with_kwargs=True)
    head = output_layer(model)
    if head is not None:

        def enter_head(_module: nn.Module, args: Any) -> None:
            recorder.in_head = True
            if args and _takes_hook(args[0]):
                args[0].register_hook(_setter(recorder, "in_head", False))

        head.register_forward_pre_hook(enter_head)


def _takes_hook(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _setter(recorder: Recorder, name: str, value: Any) -> Callable[[torch.Tensor], None]:
    def hook(_gradient: torch.Tensor) -> None:
        setattr(recorder, name, value)

    return hook
