"""Profile: the recorded step as a program whose sizes are polynomials in batch and length.

No torch.

The order of births and deaths depends on the Structure alone. Every size is an exact polynomial in
[1, b, s, b*s, s*s, b*s*s] (b rows of s tokens) or one of the rules in temporaries.py, and the
blocks of a repeated layer stand for any number of layers. So one Profile answers for every batch,
length and depth; `Program` is the profile unrolled to one depth.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from advisor import errors, records
from advisor.errors import note
from advisor.plan import (
    Checkpointing,
    Dtype,
    LigerKernels,
    LoraSettings,
    Method,
    Quantization,
    TrainingPlan,
)
from advisor.simulate import temporaries
from advisor.simulate.software import INSTALLED, Software
from advisor.versions import installed

FORMAT = 26
"""Raised whenever recorder, fit or step change what a profile holds.

So that old files are made again.
"""

CONVOLUTIONS = note("profile.convolutions")
"""Note of a profile whose step has any; peaks.py widens its interval."""
EMPTY_CACHE = "empty_cache"
"""Mark where the program itself returns the allocator's cache to the driver."""
LoopKind = Literal["trainer", "script", "torchtitan"]
PHASES = ("forward", "backward", "optimizer")
KINDS = ("matmul", "attention", "elementwise", "reduce", "copy", "gather", "dequantise")
BASIS = ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2))
"""Exponents of (batch, length)."""
DECAY_ALLOCATES = frozenset({"sgd", "adagrad", "rmsprop"})
"""Optimizers that make a copy of the gradients to add the decay (torch/optim, foreach and loop)."""
DEPTH_NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How the step is written."""

    kind: LoopKind = "trainer"
    """"torchtitan": as that trainer does it; see CONTRIBUTING, "Several devices"."""
    expand_kv: bool = False
    """K and V heads are repeated before SDPA."""
    expandable_segments: bool = False
    """The allocator runs with PYTORCH_ALLOC_CONF=expandable_segments:True."""
    selective_checkpointing: bool = False
    """Recompute all but every second matrix product and attention (torchtitan's "op")."""
    ends_in_root: bool = False
    """Embedding, norm and head are gathered together (torchtitan until August 2025)."""


TRAINER = Loop()


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """FSDP2 as accelerate prepares it."""

    devices: int
    reshard_after_forward: bool = True
    activation_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Everything that decides the order of events.

    Batch, length, depth and accumulation count do not.
    """

    config: str
    """The model's config as canonical JSON, depth included (it is taken out of the key)."""
    task: str = "causal-lm"
    method: Method = "full"
    lora: LoraSettings | None = None
    quantization: Quantization | None = None
    dtype: Dtype = "float32"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    autocast: Literal["bfloat16", "float16"] | None = None
    activation_checkpointing: bool = False
    checkpointing: Checkpointing = field(default_factory=Checkpointing)
    """How, where it is on."""
    optim: str = "adamw_torch_fused"
    optim_args: str | None = None
    optim_target_modules: tuple[str, ...] | str | None = None
    weight_decay: bool = False
    """Whether weights decay, for the optimizers whose allocations depend on it."""
    clip: bool = True
    accumulate: bool = False
    """More than one micro-batch an update: gradients are alive during later forwards."""
    padded: bool = False
    padding_free: bool = False
    """A batch's rows are one row, as DataCollatorWithFlattening makes it."""
    single_row: bool = False
    """A batch of one row takes other view paths through the same code."""
    device: Literal["cuda", "cpu"] = "cuda"
    compute_capability: tuple[int, int] | None = None
    loop: LoopKind = "trainer"
    expand_kv: bool = False
    selective_checkpointing: bool = False
    ends_in_root: bool = False
    sdpa: Literal["auto", "flash", "efficient", "math"] = "auto"
    sharding: Sharding | None = None
    """Not None: one rank of FSDP2. Replicated data parallel takes the step of one device."""
    outputs_cloned: bool = False
    """DDP that looks for unused parameters hands out copies of the outputs (_DDPSink)."""
    use_liger_kernel: bool = False
    """Liger's operators in the model's place, in the evaluation as well."""
    liger_kernels: LigerKernels = field(default_factory=LigerKernels)
    separate_experts: bool = False
    """Every expert is built of linear layers, as transformers did before 5.0."""
    evaluates: bool = False
    """Batches of Trainer.evaluate instead of steps."""

    def evaluation(self, batch: int) -> "Structure":
        """Of the evaluation with batches of so many rows.

        Without what only training sees, so that many plans share it.
        """
        return dataclasses.replace(
            self,
            activation_checkpointing=False,
            checkpointing=Checkpointing(),
            optim=Structure.optim,
            optim_args=None,
            optim_target_modules=None,
            weight_decay=False,
            clip=True,
            accumulate=False,
            single_row=batch == 1,
            outputs_cloned=False,
            evaluates=True,
        )

    def config_dict(self) -> dict[str, Any]:
        """The config as a dict."""
        return json.loads(self.config)

    def depth(self) -> int | None:
        """Repeated layers of the real model."""
        config = self.config_dict()
        return next((config[n] for n in DEPTH_NAMES if isinstance(config.get(n), int)), None)

    def key(self, *, with_depth: bool = False) -> str:
        """Name of the profile in the cache: everything above and the versions of what was run."""
        data = records.encode(self)
        config = self.config_dict()
        if not with_depth:
            config = _without_depth(config)
        data["config"] = config
        data["for_any_depth"] = not with_depth  # a model of the depth that is traced has both keys
        data["versions"] = [installed(p) for p in ("torch", "transformers", "peft", "accelerate")]
        data["format"] = FORMAT
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:32]


def canonical_config(config: Mapping[str, Any]) -> str:
    """A config as the text Structure holds.

    Sorted, without what has no influence on a training step.
    """
    ignored = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
    return json.dumps({k: v for k, v in config.items() if k not in ignored}, sort_keys=True)


def structure_of(
    plan: TrainingPlan,
    config: Mapping[str, Any],
    compute_capability: tuple[int, int] | None,
    *,
    loop: Loop = TRAINER,
    software: Software = INSTALLED,
) -> Structure:
    """The structure of a plan on a card of this compute capability; None is a CPU."""
    return Structure(
        config=canonical_config(config),
        task=plan.task,
        method=plan.method,
        lora=plan.lora,
        quantization=plan.quantization,
        dtype=plan.dtype,
        attn_implementation=plan.attn_implementation,
        autocast="bfloat16" if plan.bf16 else "float16" if plan.fp16 else None,
        activation_checkpointing=plan.activation_checkpointing,
        checkpointing=_checkpointing(plan),
        optim=plan.optim,
        optim_args=plan.optim_args,
        optim_target_modules=plan.optim_target_modules,
        weight_decay=plan.weight_decay > 0 and plan.optim in DECAY_ALLOCATES,
        # without clipping Trainer still takes the norm, to log it, through the same function
        clip=plan.max_grad_norm > 0 or loop.kind == "trainer",
        accumulate=plan.gradient_accumulation_steps > 1,
        padded=plan.attention_mask,
        padding_free=plan.padding_free,
        single_row=plan.per_device_train_batch_size == 1,
        device="cpu" if compute_capability is None else "cuda",
        compute_capability=generation(compute_capability),
        loop=loop.kind,
        expand_kv=loop.expand_kv,
        selective_checkpointing=loop.selective_checkpointing,
        ends_in_root=loop.ends_in_root,
        sharding=_sharding(plan),
        outputs_cloned=plan.is_replicated() and plan.finds_unused_parameters(),
        use_liger_kernel=plan.use_liger_kernel,
        liger_kernels=(plan.use_liger_kernel and plan.liger_kernel_config) or LigerKernels(),
        separate_experts=software.separates_experts(str(config.get("model_type"))),
    )


def generation(compute_capability: tuple[int, int] | None) -> tuple[int, int] | None:
    """The compute capability that stands for all with the same order of allocations.

    Kernels are chosen at 7.0 and 8.0 (attention, bfloat16, Liger); 9.0 has a larger workspace.
    """
    if compute_capability is None or compute_capability == (9, 0):
        return compute_capability
    return next((c for c in ((8, 0), (7, 0)) if compute_capability >= c), (6, 0))


def _sharding(plan: TrainingPlan) -> Sharding | None:
    if not plan.is_sharded():
        return None
    return Sharding(
        devices=plan.devices,
        reshard_after_forward=plan.sharded().reshard_after_forward,
        activation_checkpointing=plan.sharded().activation_checkpointing,
    )


def _checkpointing(plan: TrainingPlan) -> Checkpointing:
    kwargs = plan.activation_checkpointing_kwargs
    return kwargs if plan.activation_checkpointing and kwargs else Checkpointing()


def with_depth(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The config with another number of layers.

    Lists with an entry a layer are cut or continued.
    """
    result = dict(config)
    names = [n for n in DEPTH_NAMES if isinstance(config.get(n), int)]
    old = config[names[0]] if names else None
    for name in names:
        result[name] = depth
    for name, value in config.items():
        if isinstance(value, list) and old is not None and len(value) == old and old > 1:
            result[name] = [value[min(i, old - 1)] for i in range(depth)]
    return result


def _without_depth(config: Mapping[str, Any]) -> dict[str, Any]:
    return with_depth(config, 4) if any(n in config for n in DEPTH_NAMES) else dict(config)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A size that is not a polynomial: temporaries.RULES[name](*arguments)[index]."""

    name: str
    index: int
    arguments: np.ndarray
    """(number of arguments, 6) coefficients."""
    slope: np.ndarray
    """Growth of each argument with each further layer."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A profile unrolled to one depth."""

    depth: int
    events: np.ndarray
    """int64; slot >= 0 is a birth, -(slot + 1) a death."""
    template: np.ndarray
    """int32 per slot: which row of the profile's coefficients."""
    categories: np.ndarray
    """int8 per slot: index into memory.CATEGORIES."""
    streams: np.ndarray
    """int8 per slot: the stream it was allocated on, 0 is the default one."""
    marks: tuple[tuple[int, str], ...]
    """(number of events before it, label)."""

    def window(self, label: str) -> tuple[int, int]:
        """Events between the mark `label` and the mark before it."""
        positions = [p for p, _ in self.marks]
        names = [n for _, n in self.marks]
        i = len(names) - 1 - names[::-1].index(label)
        return (positions[i - 1] if i else 0), positions[i]

    def steady(self) -> tuple[int, int]:
        """Events of the second step."""
        names = [n for _, n in self.marks]
        first = self.marks[names.index("optimizer0")][0]
        return first, self.marks[names.index("optimizer1")][0]

    @cached_property
    def slots(self) -> np.ndarray:
        """int64: the slot of each event."""
        return np.where(self.events >= 0, self.events, -self.events - 1)

    @cached_property
    def signs(self) -> np.ndarray:
        """int64: 1 for each birth, -1 for each death."""
        return np.where(self.events >= 0, 1, -1)

    def deltas(self, blocks: np.ndarray) -> np.ndarray:
        """Change of the live bytes at each event, for block sizes by slot."""
        return blocks[self.slots] * self.signs


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """What the operators of one steady step cost, in the order they run."""

    phase: np.ndarray
    kind: np.ndarray
    half: np.ndarray
    repeated: np.ndarray
    """Rows of the layer that stands for all but the first and the last two."""
    num_launches: np.ndarray
    num_views: np.ndarray
    """Operators without a kernel that the host works through before it."""
    by_python: np.ndarray
    """Launched by the model's Python code: the forward and its recomputation."""
    flops: np.ndarray
    """(n, 6) coefficients."""
    num_bytes: np.ndarray
    """(n, 6) coefficients."""
    per_layer: np.ndarray
    """(n, 3): growth of launches, flops and bytes with each further layer.

    For operators over all layers at once.
    """
    shaped: np.ndarray
    """(r,): rows that have a shape: matmuls and attention."""
    dims: np.ndarray
    """(r, 4, 6) coefficients of costs.dims_of."""
    operator: np.ndarray
    """Names, as text."""
    num_trained: np.ndarray
    """(2,): parameter tensors that the optimizer updates, and their growth with each layer."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Profile:
    """The recorded step; see the module's docstring."""

    traced_depth: int
    replicated: bool
    """False: the program holds for the traced depth only."""
    coefficients: np.ndarray
    """(number of templates, 6) over BASIS, bytes."""
    slope: np.ndarray
    """Bytes a template grows with each further layer."""
    categories: np.ndarray
    streams: np.ndarray
    """Stream of each template; each has a pool of its own in the allocator."""
    rules: dict[int, Rule]
    segments: list[Any]
    """["global", events] or ["sweep", ascending, [events of the layer templates]]; see fit.py."""
    kernels: Kernels
    notes: tuple[str, ...] = ()
    copies: tuple[tuple[int, int, int], ...] = ()
    """What a save copies on the device: bytes of a copy, their number, its growth with a layer."""

    def copies_at_save(self, depth: int) -> np.ndarray:
        """Bytes of each, int64."""
        layers = depth - self.traced_depth
        counts = [number + growth * layers for _, number, growth in self.copies]
        return np.repeat(np.array([size for size, _, _ in self.copies], dtype=np.int64), counts)

    def sizes(self, batch: int, length: int, depth: int) -> np.ndarray:
        """Bytes requested by each template, int64."""
        basis = np.array([float(batch**i * length**j) for i, j in BASIS])
        values = np.rint(self.coefficients @ basis).astype(np.int64)
        values += self.slope * (depth - self.traced_depth)
        arguments, growth, places = self._arguments
        exact = np.rint(arguments @ basis + growth * (depth - self.traced_depth))
        whole = exact.astype(np.int64).tolist()
        for (row, rule), (start, end) in zip(self.rules.items(), places, strict=True):
            values[row] = temporaries.RULES[rule.name](*whole[start:end])[rule.index]
        return values

    @cached_property
    def _arguments(self) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
        """The rules' arguments under one another, their slopes, and where each rule's are."""
        if not self.rules:
            return np.zeros((0, len(BASIS))), np.zeros(0), []
        rules = self.rules.values()
        ends = np.cumsum([len(rule.arguments) for rule in rules]).tolist()
        return (
            np.concatenate([rule.arguments for rule in rules]),
            np.concatenate([rule.slope for rule in rules]),
            list(zip([0, *ends[:-1]], ends, strict=True)),
        )

    def warm_up(self, batch: int, length: int, depth: int) -> tuple[int, int, int] | None:
        """Row, elements and other bytes of the block taken before loading; None without one."""
        for row, rule in self.rules.items():
            if rule.name == temporaries.warm_up.__name__:
                basis = np.array([float(batch**i * length**j) for i, j in BASIS])
                exact = rule.arguments @ basis + rule.slope * (depth - self.traced_depth)
                return row, round(exact[0]), round(exact[2])
        return None

    def program(self, depth: int) -> Program:
        """The events for `depth` layers.

        Raises:
            ValueError: the profile was recorded for another depth and cannot be unrolled.
        """
        if not self.replicated and depth != self.traced_depth:
            raise ValueError(f"recorded for {self.traced_depth} layers, asked for {depth}")
        from advisor.simulate.unroll import unroll

        return unroll(self, depth)

    def save(self, path: Path) -> None:
        """Write atomically; readable by `load`."""
        k = self.kernels
        meta = {
            "format": FORMAT,
            "traced_depth": self.traced_depth,
            "replicated": self.replicated,
            "segments": self.segments,
            "rules": {
                r: [v.name, v.index, v.arguments.tolist(), v.slope.tolist()]
                for r, v in self.rules.items()
            },
            "notes": errors.encode(self.notes),
            "copies": self.copies,
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
            coefficients=self.coefficients,
            slope=self.slope,
            categories=self.categories,
            streams=self.streams,
            **{f"kernels_{name}": getattr(k, name) for name in k.__dataclass_fields__},
        )
        temporary = path.with_suffix(f".{id(self)}.tmp")
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)

    @staticmethod
    def load(path: Path) -> "Profile | None":
        """Read a saved profile; None when the file is absent or of another format."""
        try:
            with np.load(path, allow_pickle=False) as data:
                meta = json.loads(data["meta"].tobytes())
                if meta["format"] != FORMAT:
                    return None
                names = Kernels.__dataclass_fields__
                return Profile(
                    traced_depth=meta["traced_depth"],
                    replicated=meta["replicated"],
                    coefficients=data["coefficients"],
                    slope=data["slope"],
                    categories=data["categories"],
                    streams=data["streams"],
                    rules={
                        int(r): Rule(
                            name=v[0], index=v[1], arguments=np.array(v[2]), slope=np.array(v[3])
                        )
                        for r, v in meta["rules"].items()
                    },
                    segments=meta["segments"],
                    kernels=Kernels(**{n: data[f"kernels_{n}"] for n in names}),
                    notes=tuple(errors.decode(meta["notes"])),
                    copies=tuple((s, n, growth) for s, n, growth in meta["copies"]),
                )
        except (FileNotFoundError, ValueError, KeyError, OSError):
            return None
