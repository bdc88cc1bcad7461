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

from advisor.errors import SimulationError
from advisor.simulate import batches, cuda, liger, optimizers, parallel, patches
from advisor.simulate.build import build_on_meta, find_layers, model_errors, one_line, output_layer
from advisor.simulate.evaluation import evaluate
from advisor.simulate.loading import materialise
from advisor.simulate.losses import LossRules
from advisor.simulate.optimizers import Prepared
from advisor.simulate.profile import Structure
from advisor.simulate.trace import GLOBAL, Recorder, Trace

QUICK_FAKES_OF = "2.13."
"""The torch whose fake tensors fake.py speeds up; by others its own are taken."""


def fake_mode() -> FakeTensorMode:
    """What the step's tensors are made in: the same results, quicker where that is known."""
    if torch.__version__.startswith(QUICK_FAKES_OF):
        from advisor.simulate.fake import QuickFakeMode

        return QuickFakeMode()
    return FakeTensorMode(allow_non_fake_inputs=True)


def record(
    structure: Structure,
    *,
    depth: int,
    batch: int,
    length: int,
    real: bool = False,
    repeats: int = 1,
) -> Trace:
    """Record load and two optimizer steps, or two batches of an evaluation.

    Args:
        structure: what is trained and how.
        depth: number of repeated layers to build.
        batch: rows of a micro-batch.
        length: tokens of every row.
        real: compute on a CPU with real tensors and without a patch: the ground truth of tests.
        repeats: steady steps, for who times real ones.

    Raises:
        SimulationError: the model or a method cannot be simulated.
    """
    model: Any = build_on_meta(structure, depth)
    recorder = Recorder(structure.compute_capability if structure.device == "cuda" else None)
    recorder.assume = not real
    planned = batches.plan_batch(structure, model, batch, length)
    recorder.values.notes.update(planned.notes)
    with contextlib.ExitStack() as stack:
        mesh = None
        if not real:
            _pretend(structure, stack)
            mesh = stack.enter_context(parallel.sharding(structure, recorder))
            stack.enter_context(fake_mode())
        stack.enter_context(torch.device("cpu"))
        if structure.sharding is None:
            materialise(model, recorder, structure)
        else:
            materialise(model, Recorder(None), structure)  # on the host
            model = parallel.shard(model, recorder, structure, mesh)
        if real:
            _fill(model)
        is_script = structure.loop == "script"
        loop = _script_step if is_script else _TrainerLoop(model, recorder, structure)
        recorder.mark("load")
        model.train()
        _follow_layers(model, recorder)
        if structure.use_liger_kernel:
            stack.enter_context(liger.switched_on(model, recorder, structure.liger_kernels))
            recorder.values.notes.add(liger.NOTE)
        if structure.autocast is not None and structure.sharding is None:
            _wrap_autocast(model, getattr(torch, structure.autocast))
        make_batch = _batch_maker(structure, planned, recorder)
        try:
            if structure.evaluates:
                evaluate(model, make_batch, recorder, structure.task)
            else:
                _run(model, structure, recorder, loop, make_batch, repeats)
        except model_errors() as error:
            raise SimulationError(
                "step.model_raised", model_type=model.config.model_type, reason=one_line(error)
            ) from error
    recorder.trace.notes += sorted(recorder.values.notes)
    return recorder.trace


def _run(
    model: nn.Module,
    structure: Structure,
    recorder: Recorder,
    loop: Callable[..., None],
    make_batch: Callable[[], dict[str, Any]],
    repeats: int,
) -> None:
    """The first step and steady ones."""
    prepared = _optimizer(model, recorder, structure)
    recorder.trace.num_trained = sum(p.requires_grad for p in model.parameters())
    for number in range(1 + repeats):
        recorder.time_it = number > 0
        loop(model, prepared, make_batch, recorder, structure, number)
    recorder.mark("end")
    recorder.close()


def _pretend(structure: Structure, stack: contextlib.ExitStack) -> None:
    """Fake tensors, patched libraries, and CUDA's operators where the structure is of a card."""
    on_card = structure.device == "cuda"
    conditions = patches.Conditions(
        padded=structure.padded,
        expand_kv=structure.expand_kv,
        compute_capability=structure.compute_capability if on_card else None,
    )
    stack.enter_context(patches.applied(conditions))
    if on_card:
        assert structure.compute_capability is not None
        stack.enter_context(cuda.semantics(structure.compute_capability, structure.sdpa))


def _fill(model: nn.Module) -> None:
    """Numbers that keep real tensors finite."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)
        for buffer in model.buffers():
            buffer.zero_()


def _batch_maker(
    structure: Structure, planned: batches.Batch, recorder: Recorder
) -> Callable[[], dict[str, Any]]:
    """Batches as the collator makes them; a script passes ids and labels alone."""
    tensors = dict(planned.tensors)
    is_script = structure.loop == "script"
    if is_script and structure.task == "causal-lm" and not structure.padded:
        tensors.pop("attention_mask", None)

    def make() -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, (shape, dtype, numbers) in tensors.items():
            if name == "labels" and is_script and "input_ids" in result:
                result[name] = result["input_ids"]
                continue
            result[name] = torch.empty(shape, dtype=dtype)
            if numbers is not None and recorder.assume:
                recorder.values.give(result[name], numbers)
            elif not recorder.assume:
                result[name].zero_() if numbers is None else result[name].copy_(numbers)
                if structure.padded and name == "attention_mask":
                    result[name][:, -1:].zero_()
        return result

    return make


class _TrainerLoop:
    """Trainer._run_epoch's outer loop: a call is an update.

    What its variables hold until they are set again is held here: the old batches while the new
    ones come, the last loss, the last gradient norm.
    """

    def __init__(self, model: nn.Module, recorder: Recorder, structure: Structure) -> None:
        self._rules = LossRules.of(model, structure.task)
        self._batches: list[dict[str, Any]] = []
        self._items: torch.Tensor | None = None
        self._inputs: dict[str, Any] = {}
        self._loss: torch.Tensor | None = None
        self._grad_norm: torch.Tensor | None = None
        self._scaler = _Scaler("cpu") if structure.autocast == "float16" else None
        with recorder.in_phase("load"):
            self._total = torch.zeros(())  # tr_loss

    def __call__(
        self,
        model: nn.Module,
        prepared: Prepared,
        make_batch: Callable[[], dict[str, Any]],
        recorder: Recorder,
        structure: Structure,
        number: int,
    ) -> None:
        """With accumulation two micro-batches stand for any number above one."""
        with recorder.in_phase("forward"):
            batches = [make_batch() for _ in range(2 if structure.accumulate else 1)]
            items = self._rules.count(batches)
            self._batches, self._items = batches, items
            del batches, items
        for i in range(len(self._batches)):
            self._inputs = self._batches[i]
            if structure.sharding is not None:  # accelerate's no_sync
                model.set_requires_gradient_sync(i == len(self._batches) - 1)  # type: ignore[operator]
            with recorder.in_phase("forward"):
                handed_out = parallel.cloned if structure.outputs_cloned else _as_they_are
                loss = self._rules.compute(model, self._inputs, self._items, handed_out)[0]
                recorder.layer = GLOBAL
                recorder.mark(f"forward{number}")
            self._loss = _backward(loss, model, recorder, number, self._scaled)
            del loss
            with recorder.in_phase("backward"):
                self._total += self._loss
        with recorder.in_phase("optimizer"):
            self._grad_norm = None
            if self._scaler is not None:
                self._scaler.unscale_(prepared.optimizer)
            self._grad_norm = _clip(model, structure)
            _update(prepared, recorder, self._scaler)
            recorder.mark(f"optimizer{number}")
            model.zero_grad()
        recorder.phase = "forward"

    def _scaled(self, loss: torch.Tensor) -> list[torch.Tensor]:
        """The losses that live during backward, which starts from the last one.

        Trainer.training_step and Accelerator.backward make them.
        """
        if not self._rules.is_scaled():
            loss = loss / len(self._batches)
        losses = [loss, loss / 1]  # accelerate's own accumulation, which Trainer leaves at 1
        return losses if self._scaler is None else [*losses, self._scaler.scale(losses[-1])]


def _as_they_are(output: Any) -> Any:
    return output


class _Scaler(torch.amp.GradScaler):
    """The scaler of a step in which no gradient overflows."""

    def _maybe_opt_step(
        self, optimizer: torch.optim.Optimizer, *_args: Any, **_kwargs: Any
    ) -> None:
        optimizer.step()


def _script_step(
    model: nn.Module,
    prepared: Prepared,
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
        prepared.optimizer.zero_grad(set_to_none=True)
    with recorder.in_phase("forward"):
        output = model(**model.batch_of_script)  # type: ignore[arg-type]
        recorder.layer = GLOBAL
        recorder.mark(f"forward{number}")
    loss = _backward(output.loss, model, recorder, number)
    with recorder.in_phase("optimizer"):
        if structure.clip:
            _clip(model, structure)
        _update(prepared, recorder)
        recorder.mark(f"optimizer{number}")
    recorder.phase = "forward"
    del output, loss


def _backward(
    loss: torch.Tensor,
    model: nn.Module,
    recorder: Recorder,
    number: int,
    scaled: Callable[[torch.Tensor], list[torch.Tensor]] = lambda loss: [loss],
) -> torch.Tensor:
    with recorder.in_phase("backward"):
        losses = scaled(loss)
        losses[-1].backward()
        del losses
        recorder.layer = GLOBAL
        recorder.in_head = False
        recorder.mark(f"backward{number}")
        detached = loss.detach()
    for p in model.parameters():
        if p.grad is not None:
            recorder.recategorise(p.grad, "gradients")
    return detached


def _clip(model: nn.Module, structure: Structure) -> torch.Tensor:
    # what clip_grad_norm_ chooses by itself for real tensors of this device
    foreach = structure.device == "cuda"
    return torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=foreach)


def _update(
    prepared: Prepared, recorder: Recorder, scaler: torch.amp.GradScaler | None = None
) -> None:
    with recorder.reading(by_parameter=prepared.by_parameter, skip_scalars=prepared.host_steps):
        if scaler is None:
            prepared.optimizer.step()
        else:
            scaler.step(prepared.optimizer)
            scaler.update()
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

    bound: Any = model.forward  # Liger's, where it was switched on
    inner = bound.__func__

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

    for number, wrapped in enumerate(find_layers(model)[1]):
        layer = getattr(wrapped, "_checkpoint_wrapped_module", wrapped)
        layer.register_forward_pre_hook(enter(number), with_kwargs=True)
        # first of all: what sharding does at a layer's backward is that layer's
        layer.register_forward_hook(leave(number), with_kwargs=True, prepend=True)
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
