"""Recorder: a dispatch mode that writes down the birth and death of every storage of a step.

A storage is born when an operator returns it for the first time and dies when Python and autograd
let go of it (`weakref.finalize` on the storage), so lifetimes are those of the real program. Every
event carries the layer it belongs to, so that `fit.py` can repeat layers. The same pass writes down
what each operator computes and moves, for the time estimate.
"""

import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from advisor.memory import CATEGORIES
from advisor.simulate import launches, temporaries
from advisor.simulate.costs import dims_of, is_causal, is_view, kind_of, moved, name_of
from advisor.simulate.profile import CONVOLUTIONS, KINDS, PHASES
from advisor.simulate.stand_ins import STAND_INS
from advisor.simulate.values import ROUTING, Values

aten = torch.ops.aten
GLOBAL = -1
"""Layer number of what belongs to no repeated layer."""
WORKSPACE = "cublas"
"""How the op of a cuBLAS workspace starts."""
_CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}
_FROM_NOTHING = frozenset({aten.zeros.default, aten.lift_fresh.default})
"""What makes a tensor out of no other: it belongs to the parameter that is touched next."""
_NOTES = {aten.convolution.default: CONVOLUTIONS, aten._grouped_mm.default: ROUTING}
_MATMULS = frozenset(
    {
        aten.mm.default,
        aten.bmm.default,
        aten.addmm.default,
        aten.baddbmm.default,
        aten.addmv.default,
        aten.mv.default,
        aten.dot.default,
        aten._addmm_activation.default,
    }
)
_BOOL_INDEX = frozenset(
    {
        aten.index.Tensor,
        aten.index_put.default,
        aten.index_put_.default,
        aten._index_put_impl_.default,
    }
)


@dataclass(slots=True)
class Allocation:
    """One storage."""

    num_bytes: int
    category: int
    """Index into CATEGORIES."""
    layer: int
    op: str
    rule: tuple[str, int, tuple[int, ...]] | None = None
    """(name in temporaries.RULES, index of its result, arguments).

    Where the size is not a polynomial.
    """
    stream: int = 0
    """0 is the default stream; others are numbered as they come."""


@dataclass(slots=True)
class Kernel:
    """What one operator costs."""

    phase: int
    kind: int
    layer: int
    half: bool
    """Computes in a 16-bit dtype."""
    num_launches: int
    flops: int
    num_bytes: int
    by_python: bool = False
    """Launched by the model's Python code (forward, recomputation), not by autograd's engine.

    What a recomputation does inside the forward of an autograd.Function counts as the engine's.
    """
    num_views: int = 0
    """Operators without a kernel since the one before it."""
    dims: tuple[int, ...] = (0, 0, 0, 0)
    """costs.dims_of."""
    operator: str = ""
    """Name of the operator; empty for a kernel that no operator stands for."""
    seconds: float = 0.0
    """How long a real one took; 0 of a fake one."""


@dataclass(slots=True)
class Trace:
    """A recorded run of load, two optimizer steps and nothing else."""

    allocations: list[Allocation] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    """slot >= 0: the allocation is born; -(slot + 1): it dies; mark m as MARK + m."""
    layers: list[int] = field(default_factory=list)
    """Layer of each event."""
    marks: list[str] = field(default_factory=list)
    cuts: set[int] = field(default_factory=set)
    """Positions where an operator over all layers at once ended."""
    kernels: list[Kernel] = field(default_factory=list)
    num_trained: int = 0
    """Parameter tensors that the optimizer updates."""
    notes: list[str] = field(default_factory=list)
    """What was assumed, in English."""


MARK = 1 << 40
_DEVICE = torch.ops.prim.device.default


class Recorder(TorchDispatchMode):
    """Records into `trace` while it is active; state that the step sets is documented beside it."""

    def __init__(self, compute_capability: tuple[int, int] | None) -> None:
        super().__init__()
        self.trace = Trace()
        self.capability = compute_capability
        """None: a CPU step, without CUDA's hidden allocations."""
        self.layer = GLOBAL
        """Layer that the program is in."""
        self.phase = "load"
        """load, forward, backward or optimizer."""
        self.in_head = False
        """Between the output layer's forward and the end of its backward: logits and loss."""
        self.skip_scalars = False
        """Optimizer scalars live on the CPU (foreach AdamW's `step`)."""
        self.by_parameter = False
        """The optimizer goes from parameter to parameter: what dies, dies where the program is."""
        self.values = Values()
        """Numbers that are known, and what had to be assumed about others."""
        self.time_it = False
        """Write kernels down: the steady step only."""
        self.assume = True
        """Answer what the program asks of its data as an ordinary batch would; False: ask them."""
        self.defers_to: type[torch.Tensor] | None = None
        """Tensors of this class turn an operator into those that are recorded (DTensor)."""
        self._silent = False
        self._streams: list[Any] = [torch.cpu.current_stream()]
        self._slots: dict[int, int] = {}
        self._workspaces: set[str] = set()
        self._closed = False
        self._unplaced: list[int] = []
        self._parameter_layer = GLOBAL
        self._views = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: the guard against it would cost more than the recording."""
        return False

    # -- what the step calls ----------------------------------------------------------------

    def mark(self, label: str) -> None:
        """Name the position reached."""
        self._event(MARK + len(self.trace.marks), GLOBAL)
        self.trace.marks.append(label)

    def close(self) -> None:
        """What dies from here on dies because the recording is taken apart."""
        self._closed = True
        self._order_deaths()

    def _order_deaths(self) -> None:
        """Put deaths that follow each other in the order of their births.

        What frees several storages at once (autocast's cache at its end, also that of a
        checkpoint's recomputation inside a layer) does so in an arbitrary order; the allocator ends
        in the same state whatever the order. Where such a run goes through all layers, each death
        belongs to its storage's layer.
        """
        trace = self.trace
        depth = max((a.layer for a in trace.allocations), default=GLOBAL) + 1
        start = 0
        while start < len(trace.events):
            end = start
            while (
                end < len(trace.events)
                and trace.events[end] < 0
                and trace.layers[end] == trace.layers[start]
                and (end == start or trace.layers[start] == GLOBAL or end not in trace.cuts)
            ):
                end += 1
            if end - start > 1:
                slots = sorted(-e - 1 for e in trace.events[start:end])
                trace.events[start:end] = [-(slot + 1) for slot in slots]
                layers = [trace.allocations[slot].layer for slot in slots]
                passes = trace.layers[start] == GLOBAL and depth > 1
                if passes and set(layers) >= set(range(depth)):
                    trace.layers[start:end] = layers
            start = max(end, start + 1)

    def track(self, tensor: torch.Tensor, op: str, category: str | None = None) -> None:
        """Record the tensor's storage if it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        num_bytes = storage.nbytes()
        if key in self._slots or num_bytes == 0 or (self.skip_scalars and num_bytes <= 8):
            return
        self._keep(storage, self._birth(num_bytes, op, category))

    def _keep(self, storage: torch.UntypedStorage, slot: int) -> None:
        key = storage._cdata
        self._slots[key] = slot

        def died() -> None:
            if self._slots.get(key) == slot:
                del self._slots[key]
                self._death(slot)

        weakref.finalize(storage, died)

    def resize(self, storage: torch.UntypedStorage, num_bytes: int) -> None:
        """Empty or fill a storage that stays the same object."""
        slot = self._slots.pop(storage._cdata, None)
        if slot is not None:
            self._death(slot)
        storage.resize_(num_bytes)
        if num_bytes:
            self._keep(storage, self._birth(num_bytes, "resize", "weights"))

    def recategorise(self, tensor: torch.Tensor, category: str) -> None:
        """Say what a recorded storage turned out to be, e.g. a parameter's gradient."""
        tensor = getattr(tensor, "_local_tensor", tensor)
        slot = self._slots.get(tensor.untyped_storage()._cdata)
        if slot is not None:
            self.trace.allocations[slot].category = _CATEGORY[category]

    @contextmanager
    def in_phase(self, phase: str) -> Iterator[None]:
        """Record inside the block as `phase`."""
        before, self.phase = self.phase, phase
        with self:
            yield
        self.phase = before

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Write nothing down inside the block."""
        before, self._silent = self._silent, True
        yield
        self._silent = before

    @contextmanager
    def reading(self, *, by_parameter: bool, skip_scalars: bool) -> Iterator[None]:
        """Read the optimizer's operators inside the block this way; see the attributes."""
        self.by_parameter, self.skip_scalars = by_parameter, skip_scalars
        self._parameter_layer = GLOBAL
        yield
        self.by_parameter = self.skip_scalars = False

    def launched(self, read: Iterable[torch.Tensor], written: Iterable[torch.Tensor]) -> None:
        """Write down a kernel that no operator stands for: it moves these tensors, in place."""
        tensors = [*read, *written]
        self.write_kernel("elementwise", tensors[0].dtype, 1, 0, sum(map(moved, tensors)))

    def write_kernel(
        self,
        kind: str,
        dtype: torch.dtype,
        number: int,
        flops: int,
        num_bytes: int,
        dims: tuple[int, ...] = (0, 0, 0, 0),
        operator: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Write down `number` launches that compute and move this much together."""
        if not self.time_it:
            return
        # autograd's engine runs without gradients, a checkpoint's recomputation inside it with
        recomputes = self.phase == "backward" and torch.is_grad_enabled()
        self.trace.kernels.append(
            Kernel(
                phase=PHASES.index(self.phase),
                kind=KINDS.index(kind),
                layer=self.layer,
                half=dtype in (torch.float16, torch.bfloat16),
                num_launches=number,
                flops=flops,
                num_bytes=num_bytes,
                by_python=self.phase == "forward" or recomputes,
                num_views=self._views,
                dims=dims,
                operator=operator,
                seconds=seconds,
            )
        )
        self._views = 0

    @contextmanager
    def sized(self, name: str, params: tuple[int, ...]) -> Iterator[None]:
        """The last storage born inside the block has the size of an entry of temporaries.RULES."""
        yield
        allocation = self.trace.allocations[-1]
        assert temporaries.RULES[name](*params) == [allocation.num_bytes]
        allocation.rule = (name, 0, params)

    # -- events -----------------------------------------------------------------------------

    def _event(self, code: int, layer: int) -> None:
        self.trace.events.append(code)
        self.trace.layers.append(layer)

    def _birth(
        self,
        num_bytes: int,
        op: str,
        category: str | None,
        rule: tuple[str, int, tuple[int, ...]] | None = None,
    ) -> int:
        slot = len(self.trace.allocations)
        self.trace.allocations.append(
            Allocation(
                num_bytes,
                _CATEGORY[category or self._category()],
                self.layer,
                op,
                rule,
                self._stream(),
            )
        )
        self._event(slot, self.layer)
        return slot

    def _stream(self) -> int:
        stream = torch.cpu.current_stream()
        if stream not in self._streams:
            self._streams.append(stream)
        return self._streams.index(stream)

    def _death(self, slot: int) -> None:
        if self._closed:
            return
        layer = self.layer
        if self.phase == "optimizer":
            by_storage = self.trace.allocations[slot].layer
            layer = self._parameter_layer if self.by_parameter else by_storage
        self._event(-(slot + 1), layer)

    def _category(self) -> str:
        if self.phase in ("load", "optimizer"):
            return "weights" if self.phase == "load" else "workspace"
        return "logits" if self.in_head else "activations"

    def _logsumexp(self, q: torch.Tensor, kept: torch.Tensor) -> None:
        """Its length grows in blocks: no polynomial. Without a backward it is empty."""
        slot = self._slots.get(kept.untyped_storage()._cdata)
        if slot is None or not kept.numel():
            return
        name, params = "efficient_attention_logsumexp", (q.shape[0] * q.shape[1], q.shape[2])
        assert temporaries.RULES[name](*params) == [self.trace.allocations[slot].num_bytes]
        self.trace.allocations[slot].rule = (name, 0, params)

    def _temporaries(self, func: Any, args: tuple[Any, ...]) -> None:
        found = _temporary_rule(func, args, self.capability)
        if found is not None:
            self.temporary(*found, op=f"{func}.")

    def temporary(self, name: str, params: tuple[int, ...], op: str = "") -> None:
        """Record what an entry of temporaries.RULES takes and gives back at once."""
        sizes = temporaries.RULES[name](*params)
        layer = self.layer
        if self.by_parameter:
            self.layer = self._parameter_layer
        slots = [
            self._birth(size, f"{op}{name}", "workspace", (name, i, params))
            for i, size in enumerate(sizes)
        ]
        self.layer = layer
        for slot in reversed(slots):
            self._death(slot)

    def _workspace(self) -> None:
        """One cuBLAS workspace for each (handle, stream).

        Autograd's thread has a handle of its own.
        """
        if self.capability is None:
            return
        thread = "backward" if self.phase == "backward" else "forward"
        if thread not in self._workspaces:
            self._workspaces.add(thread)
            layer, self.layer = self.layer, GLOBAL
            size = temporaries.cublas_workspace_bytes(self.capability)
            self._birth(size, f"{WORKSPACE}.{thread}", "workspace")
            self.layer = layer

    # -- dispatch ---------------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):  # asked 12,000 times in a trace
            return args[0].fake_device
        kwargs = kwargs or {}
        if self.defers_to is not None and any(issubclass(t, self.defers_to) for t in types):
            return NotImplemented
        if self._silent:
            return func(*args, **kwargs)
        if self.assume and func is aten._local_scalar_dense.default:  # control flow on data
            return self.values.scalar(args[0])
        if self.assume and func is aten.nonzero.default:
            result = self.values.positions(args[0])
            self.track(result, str(func))
            return result
        if self.assume and func in _BOOL_INDEX and _asks_bool(args[1]):
            args = (args[0], self.values.whole_indices(args[1]), *args[2:])
        if func in _MATMULS:
            self._workspace()
        started = time.perf_counter()
        result = self._call(func, args, kwargs)
        seconds = 0.0 if self.assume else time.perf_counter() - started
        if self.phase == "optimizer":
            self._track_by_storage(func, args, result)
        else:
            for tensor in _tensors(result):
                self.track(tensor, str(func))
        if self.capability is not None:
            self._temporaries(func, args)
            if func is aten._scaled_dot_product_efficient_attention.default:
                self._logsumexp(args[0], result[1])
        if self.time_it:
            self._kernel(func, args, kwargs, result, seconds)
        return result

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator on fake tensors, its numbers followed where they are known."""
        if self.assume and self.phase in ("forward", "backward"):
            if torch.Tag.dynamic_output_shape in func.tags:
                result = self.values.sized_by_data(func, args, kwargs)
                if result is not None:
                    return result
            if func in _NOTES:
                self.values.notes.add(_NOTES[func])
            if func in STAND_INS:
                self._workspace()
                result = STAND_INS[func](func, args)
            else:
                result = func(*args, **kwargs)
            self.values.follow(func, args, kwargs, result)
            return result
        return func(*args, **kwargs)

    def _track_by_storage(self, func: Any, args: tuple[Any, ...], result: Any) -> None:
        """In the optimizer a layer's events follow its parameters, not the program's position.

        A scalar that is made out of nothing (`step`) belongs to the parameter whose states follow
        it.
        """
        source = args[0] if args else None
        if self.by_parameter and not isinstance(source, torch.Tensor):
            source = next((a for a in args if isinstance(a, torch.Tensor)), source)
        outputs = result if isinstance(result, (list, tuple)) else [result]
        for i, tensor in enumerate(outputs):
            if not isinstance(tensor, torch.Tensor):
                continue
            parallel = isinstance(source, (list, tuple)) and len(source) == len(outputs)
            origin = source[i] if parallel else source  # type: ignore[index]
            before = len(self.trace.events)
            if isinstance(origin, torch.Tensor) and func not in _FROM_NOTHING:
                slot = self._slots.get(origin.untyped_storage()._cdata)
                self.layer = GLOBAL if slot is None else self.trace.allocations[slot].layer
                if slot is not None:
                    self._parameter_layer = self.layer
                self._place(self.layer)
            self.track(tensor, str(func))
            if func in _FROM_NOTHING:
                self._unplaced += range(before, len(self.trace.events))
            self.layer = GLOBAL
        if len(outputs) > 1:
            self.trace.cuts.add(len(self.trace.events))

    def _place(self, layer: int) -> None:
        for position in self._unplaced:
            self.trace.layers[position] = layer
            self.trace.allocations[self.trace.events[position]].layer = layer
        self._unplaced.clear()

    def _kernel(self, func: Any, args: Any, kwargs: Any, result: Any, seconds: float) -> None:
        kind = kind_of(func)
        inputs = [*_tensors(args), *_tensors(kwargs)]
        outputs = _tensors(result)
        written = outputs or launches.written(func, args, kwargs)
        if not written or func.namespace != "aten":  # a question about a tensor, no kernel
            return
        if not outputs and self.skip_scalars and all(t.numel() == 1 for t in written):
            return  # step counters on the host
        if kind == "view":
            self._views += is_view(func)
            return
        number = len(args[0]) if args and isinstance(args[0], (list, tuple)) else 1
        if self.capability is not None:
            number = launches.on_cuda(func, args, by_list=not outputs)
        num_bytes = sum(moved(t) for t in inputs) + sum(moved(t) for t in written)
        if kind == "gather":  # reads the rows it returns, not the whole table
            num_bytes = 2 * sum(moved(t) for t in outputs)
        flops, formula = 0, flop_registry.get(func._overloadpacket)
        if formula is not None:
            flops = int(formula(*args, **kwargs, out_val=result))
            if kind == "attention" and is_causal(func, args, kwargs):
                flops //= 2
        dims = dims_of(func, kind, args)
        dtype, name = written[0].dtype, name_of(func)
        self.write_kernel(kind, dtype, number, flops, num_bytes, dims, name, seconds)


def _tensors(value: Any) -> list[torch.Tensor]:
    """Those in an operator's arguments or results, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for entry in value for tensor in _tensors(entry)]


def _asks_bool(indices: Any) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


def _temporary_rule(
    func: Any, args: tuple[Any, ...], capability: tuple[int, int] | None
) -> tuple[str, tuple[int, ...]] | None:
    """Which entry of temporaries.RULES the operator needs, and its arguments."""
    if func is aten._softmax_backward_data.default:
        itemsize = torch.result_type(args[0], args[1]).itemsize
        return "softmax_backward", (args[0].numel(), itemsize)
    if func is aten._scaled_dot_product_flash_attention_backward.default:
        (batch, heads, length, width), k = args[1].shape, args[2]
        size = args[1].element_size()
        return "flash_attention_backward", (
            batch, heads, k.shape[1], length, k.shape[2], width, size,
        )  # fmt: skip
    if func is aten._scaled_dot_product_efficient_attention_backward.default:
        (batch, heads, length, width), k = args[1].shape, args[2]
        sm80 = int(capability is not None and capability >= (8, 0))
        return "efficient_attention_backward", (
            batch, heads, length, k.shape[2], width, args[1].element_size(), sm80,
        )  # fmt: skip
    if func is aten.embedding_dense_backward.default:
        return "embedding_backward", (args[1].numel(), args[2], args[0].shape[-1])
    if func is aten.native_layer_norm_backward.default:
        width = args[1].shape[-1]
        return "layer_norm_backward", (args[1].numel() // width, width)
    if func is aten._foreach_norm.Scalar and args[0]:
        return "foreach_norm", (len(args[0]), max(t.numel() for t in args[0]))
    if func in (aten._ctc_loss_backward.Tensor, aten._ctc_loss_backward.default):
        alpha = args[6]
        return "ctc_loss_backward", (alpha.numel() * alpha.element_size(), alpha.shape[0])
    is_put = func in _BOOL_INDEX and func is not aten.index.Tensor
    if is_put and len(args) > 3 and bool(args[3]):
        indices = max((i.numel() for i in args[1] if i is not None), default=0)
        return "index_put_accumulate", (indices,)
    return None
