"""Run the training step of transformers.Trainer on fake tensors and record it.

The sequence is that of `Trainer._run_epoch` and `Trainer.training_step` (transformers 5.23) with
accelerate's autocast wrapper: batch, item count, forward, loss, backward, clipping, optimizer,
zero_grad. It is run twice: the first step creates the optimizer's states, the second is steady.
"""

import contextlib
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from advisor.simulate import cuda, optimizers, parallel, patches
from advisor.simulate.build import build_on_meta, find_layers
from advisor.simulate.loading import materialise
from advisor.simulate.optimizers import Prepared
from advisor.simulate.profile import Structure
from advisor.simulate.trace import GLOBAL, Recorder, Trace


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
    model = build_on_meta(structure, depth)
    recorder = Recorder(structure.compute_capability if structure.device == "cuda" else None)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    conditions = patches.Conditions(padded=structure.padded, expand_kv=structure.expand_kv)
    with contextlib.ExitStack() as stack:
        stack.enter_context(patches.applied(conditions))
        if structure.device == "cuda":
            assert structure.compute_capability is not None
            stack.enter_context(cuda.semantics(structure.compute_capability, structure.sdpa))
        mesh = stack.enter_context(parallel.sharding(structure, recorder))
        stack.enter_context(fake)
        stack.enter_context(torch.device("cpu"))
        if structure.sharding is None:
            materialise(model, recorder, structure)
        else:
            materialise(model, Recorder(None), structure)  # on the host
            model = parallel.shard(model, recorder, structure, mesh)
        recorder.mark("load")
        model.train()
        _follow_layers(model, recorder)
        optimizer = _optimizer(model, recorder, structure)
        loop = _script_step if structure.loop == "script" else _trainer_step
        if structure.autocast is not None and structure.sharding is None:
            _wrap_autocast(model, getattr(torch, structure.autocast))
        make_batch = _batch_maker(structure, batch, length)
        for number in range(2):
            recorder.time_it = number == 1
            loop(model, optimizer, make_batch, recorder, structure, number)
        recorder.mark("end")
        recorder.close()
    return recorder.trace


def _batch_maker(structure: Structure, batch: int, length: int) -> Callable[[], dict[str, Any]]:
    """Batches as the collator makes them (int64); a script passes ids and labels alone."""

    def make() -> dict[str, Any]:
        ids = torch.randint(0, 8, (batch, length))
        if structure.loop == "script":
            inputs = {"input_ids": ids, "labels": ids}
            if structure.padded:
                inputs["attention_mask"] = torch.ones(batch, length, dtype=torch.long)
            return inputs
        mask = torch.ones(batch, length, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.empty_like(ids)}

    return make


def _trainer_step(
    model: nn.Module,
    optimizer: Prepared,
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
        batches = [make_batch() for _ in range(micro_batches)]
        items = sum((b["labels"][..., 1:].ne(-100).sum() for b in batches), torch.zeros(()))
    loss = None
    for index, batch in enumerate(batches):
        if structure.sharding is not None:  # accelerate's no_sync
            model.set_requires_gradient_sync(index == micro_batches - 1)  # type: ignore[operator]
        with recorder.in_phase("forward"):
            output = model(**batch, num_items_in_batch=items)
            if structure.outputs_cloned:
                output = parallel.cloned(output)
            loss = output["loss"] if isinstance(output, dict) else output[0]
            del output
            recorder.layer = GLOBAL
            recorder.mark(f"forward{number}")
        loss = _backward(loss, model, recorder, number)
    with recorder.in_phase("optimizer"):
        if structure.clip:
            _clip(model, structure)
        _update(optimizer, recorder)
        recorder.mark(f"optimizer{number}")
        model.zero_grad()
    recorder.phase = "forward"
    del loss, batch, batches


def _script_step(
    model: nn.Module,
    optimizer: Prepared,
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
        optimizer.optimizer.zero_grad(set_to_none=True)
    with recorder.in_phase("forward"):
        output = model(**model.batch_of_script)  # type: ignore[arg-type]
        recorder.layer = GLOBAL
        recorder.mark(f"forward{number}")
    loss = _backward(output.loss, model, recorder, number)
    with recorder.in_phase("optimizer"):
        if structure.clip:
            _clip(model, structure)
        _update(optimizer, recorder)
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


def _update(prepared: Prepared, recorder: Recorder) -> None:
    with recorder.reading(by_parameter=prepared.by_parameter, skip_scalars=prepared.host_steps):
        prepared.optimizer.step()
    _recategorise_states(prepared, recorder)


def _recategorise_states(prepared: Prepared, recorder: Recorder) -> None:
    for state in prepared.optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                recorder.recategorise(value, "optimizer")


def _optimizer(model: nn.Module, recorder: Recorder, structure: Structure) -> Prepared:
    """As Trainer makes it, before the first step; some make their states here.

    Raises:
        SimulationError: an optimizer that is not simulated.
    """
    optimizers.load()
    host_steps = structure.device == "cuda"
    with (
        recorder.in_phase("optimizer"),
        recorder.reading(by_parameter=True, skip_scalars=host_steps),
    ):
        prepared = optimizers.prepare(model, structure, recorder.launched)
    _recategorise_states(prepared, recorder)
    recorder.mark("optimizer made")
    return prepared


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
            if hidden.requires_grad:
                hidden.register_hook(_setter(recorder, "layer", number))
            entered = args[0] if args else kwargs.get("hidden_states")
            if number == 0 and entered is not None and entered.requires_grad:
                entered.register_hook(_setter(recorder, "layer", GLOBAL))

        return hook

    for number, wrapped in enumerate(find_layers(model)[1]):
        layer = getattr(wrapped, "_checkpoint_wrapped_module", wrapped)
        layer.register_forward_pre_hook(enter(number), with_kwargs=True)
        # first of all: what sharding does at a layer's backward is that layer's
        layer.register_forward_hook(leave(number), with_kwargs=True, prepend=True)
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is not None:

        def enter_head(_module: nn.Module, args: Any) -> None:
            recorder.in_head = True
            if args[0].requires_grad:
                args[0].register_hook(_setter(recorder, "in_head", False))

        head.register_forward_pre_hook(enter_head)


def _setter(recorder: Recorder, name: str, value: Any) -> Callable[[torch.Tensor], None]:
    def hook(_gradient: torch.Tensor) -> None:
        setattr(recorder, name, value)

    return hook
