"""Every `optim` name of TrainingArguments: how it is built on fake tensors, or why it is not.

torch's own optimizers and transformers' Adafactor are the real classes, with the implementation
that they choose by themselves on the device. Those of packages that are no part of an install are
imitated (imitations.py). The rest answers "unknown": a SimulationError that names optimizer and
reason.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from advisor.errors import SimulationError, note, words
from advisor.locale import Message
from advisor.simulate import imitations
from advisor.simulate.imitations import BitsAndBytes, BlockwiseKind, Imitation, Launched
from advisor.simulate.profile import DECAY_ALLOCATES, Structure
from advisor.simulate.refused import REFUSED

Optimizer = torch.optim.Optimizer
Groups = list[dict[str, Any]]
LEARNING_RATE = 1e-4
"""Any: no allocation depends on it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an optimizer is built from."""

    model: nn.Module
    structure: Structure
    groups: Groups
    launched: Launched
    options: dict[str, str]
    """optim_args, read."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """An optimizer that answers with numbers."""

    imitates: str
    """Package, version and file; "real class" where the class itself runs."""
    build: Callable[[Request], Optimizer]
    by_parameter: bool
    """On a GPU the step goes from parameter to parameter, not over lists of all."""
    host_steps: bool = False
    """On a GPU the step counter is a host tensor."""
    not_on_cpu: Message | None = None
    """Why nothing is said of a CPU; None where the same holds there."""
    note: str = ""
    """What is not counted, for the assumptions."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A built optimizer and how the recorder has to read its step."""

    optimizer: Optimizer
    by_parameter: bool
    host_steps: bool


def load() -> None:
    """Import what `prepare` needs; what an import allocates is no part of a recording."""
    for name in ("trainer_pt_utils", "trainer_optimizer"):
        importlib.import_module(f"transformers.{name}")


def prepare(model: nn.Module, structure: Structure, launched: Launched) -> Prepared:
    """The optimizer that Trainer would make, on fake tensors.

    Args:
        model: its trainable parameters are optimized.
        structure: names the optimizer, its options and the device.
        launched: told of kernels that no torch operator stands for.

    Raises:
        SimulationError: an optimizer that is not simulated; the sentence says why.
    """
    entry = find(structure.optim, structure.device)
    request = Request(
        model=model,
        structure=structure,
        groups=_groups(model, structure),
        launched=launched,
        options=_options(structure.optim_args),
    )
    try:
        optimizer = entry.build(request)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SimulationError(
            "optimizers.cannot_build",
            optim=structure.optim,
            arguments=structure.optim_args,
            targets=structure.optim_target_modules,
            reason=error,
        ) from error
    on_cpu = structure.device == "cpu"
    return Prepared(
        optimizer=optimizer,
        by_parameter=structure.optim not in _LISTS_EVERYWHERE if on_cpu else entry.by_parameter,
        host_steps=entry.host_steps and not on_cpu,
    )


def find(name: str, device: str) -> Simulated:
    """The table's entry.

    Raises:
        SimulationError: the optimizer is not simulated on this device; the sentence says why.
    """
    entry = SIMULATED.get(name)
    if entry is None:
        reason = REFUSED.get(name, words("optimizers.unknown"))
        raise SimulationError("optimizers.refused", optim=name, reason=reason)
    if device == "cpu" and entry.not_on_cpu is not None:
        raise SimulationError("optimizers.refused_on_cpu", optim=name, reason=entry.not_on_cpu)
    return entry


def notes(structure: Structure) -> tuple[str, ...]:
    """What an estimate with this optimizer assumes or leaves out."""
    entry = SIMULATED.get(structure.optim)
    if entry is None:
        return ()
    lines = [entry.note] if entry.note else []
    if entry.imitates != _REAL:
        lines.append(note("optimizers.read_in_source", source=entry.imitates))
    return tuple(lines)


# -- what every optimizer gets ----------------------------------------------------------------


def _groups(model: nn.Module, structure: Structure) -> Groups:
    """As Trainer groups them: weight decay for all but biases and norms; a script has one group."""
    from transformers.trainer_pt_utils import get_parameter_names

    without = structure.optim in DECAY_ALLOCATES and not structure.weight_decay
    decay = 0.0 if without else 0.01
    if structure.loop == "script":
        trained = [p for p in model.parameters() if p.requires_grad]
        return [{"params": trained, "weight_decay": decay}]
    norms = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], norms))
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for n, p in named if n in decayed], "weight_decay": decay},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]


def _options(text: str | None) -> dict[str, str]:
    """optim_args as Trainer splits them (trainer_optimizer.py, _parse_optim_args).

    Raises:
        SimulationError: text that is no list of key=value pairs.
    """
    options = {}
    for pair in text.replace(" ", "").split(",") if text else ():
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise SimulationError("optimizers.arguments", got=text)
        options[key] = value
    return options


def _arguments(request: Request) -> SimpleNamespace:
    """The TrainingArguments that transformers' makers of optimizers ask for."""
    structure = request.structure
    targets = structure.optim_target_modules
    return SimpleNamespace(
        optim=structure.optim,
        optim_target_modules=list(targets) if isinstance(targets, tuple) else targets,
        gradient_accumulation_steps=2 if structure.accumulate else 1,
    )


# -- torch and transformers -------------------------------------------------------------------


def _adamw(request: Request) -> Optimizer:
    if request.structure.optim == "adamw_torch_fused":
        return torch.optim.AdamW(request.groups, lr=LEARNING_RATE, fused=True)
    return torch.optim.AdamW(request.groups, lr=LEARNING_RATE, foreach=_foreach(request))


def _foreach(request: Request) -> bool:
    """What torch chooses where nothing is set (_default_to_fused_or_foreach): foreach on CUDA."""
    return request.structure.device == "cuda"


def _by_trainer(request: Request) -> Optimizer:
    """The class and options that Trainer takes; foreach as torch chooses by itself."""
    from transformers.trainer_optimizer import _OPTIMIZER_HANDLERS, OptimizerContext

    context = OptimizerContext(
        args=_arguments(request),  # type: ignore[arg-type]
        model=request.model,  # type: ignore[arg-type]
        optimizer_kwargs={"lr": LEARNING_RATE},
        adam_kwargs={"betas": (0.9, 0.999), "eps": 1e-8},
        optim_args=dict(request.options),
    )
    kind, options = _OPTIMIZER_HANDLERS[request.structure.optim](context)
    if kind.__module__.startswith("torch.optim"):
        options["foreach"] = _foreach(request)
    return kind(request.groups, **options)


# -- imitated ---------------------------------------------------------------------------------


def _blockwise(kind: BlockwiseKind) -> Callable[[Request], Optimizer]:
    def build(request: Request) -> Optimizer:
        if request.options and "rmsprop" in request.structure.optim:
            raise ValueError("transformers hands them to bitsandbytes as text, which it refuses")
        embeddings = [m.weight for m in request.model.modules() if isinstance(m, nn.Embedding)]
        return BitsAndBytes(request.groups, request.launched, kind, embeddings)

    return build


def _schedule_free(second_moment: bool) -> Callable[[Request], Optimizer]:
    def build(request: Request) -> Optimizer:
        return imitations.ScheduleFree(
            request.groups, request.launched, second_moment=second_moment
        )

    return build


def _stable(request: Request) -> Optimizer:
    return imitations.StableAdamW(request.groups, request.launched)


def _any_precision(request: Request) -> Optimizer:
    from transformers.utils import strtobool

    given = request.options
    names = {"momentum": "float32", "variance": "float32", "compensation_buffer": "bfloat16"}
    options: dict[str, Any] = {
        f"{name}_dtype": getattr(torch, given.get(f"{name}_dtype", default))
        for name, default in names.items()
    }
    options["use_kahan_summation"] = strtobool(given.get("use_kahan_summation", "False"))
    return imitations.AnyPrecision(request.groups, request.launched, options=options)


def _grok(request: Request) -> Optimizer:
    clipping = float(request.options.get("gradient_clipping", 1.0))
    return imitations.GrokAdamW(request.groups, request.launched, gradient_clipping=clipping)


def _apollo(request: Request) -> Optimizer:
    """Groups as Trainer makes them for low-rank optimizers: the targets, and all others."""
    from transformers.trainer_optimizer import _setup_low_rank_optimizer

    given = request.options
    if given.get("proj", "random") != "random":
        raise ValueError("a projection by SVD takes workspaces of cuSOLVER that were not read")
    if given.get("proj_type", "std") not in ("std", "reverse_std", "left", "right"):
        raise ValueError(f"there is no proj_type {given['proj_type']}")
    options = {
        "rank": int(given.get("rank", 128)),
        "scale_type": given.get("scale_type", "channel"),
        "scale": float(given.get("scale", 1.0)),
        "proj_type": given.get("proj_type", "std"),
    }
    name = request.structure.optim
    _, made = _setup_low_rank_optimizer(
        _arguments(request),  # type: ignore[arg-type]
        request.model,  # type: ignore[arg-type]
        name,
        {name: Imitation},
        options,
        {},
    )
    groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in made["params"]]
    return imitations.Apollo(groups, request.launched)


# -- the table --------------------------------------------------------------------------------

_REAL = "real class"
_LISTS_EVERYWHERE = frozenset(
    {
        "adamw_torch_fused",
        "schedule_free_adamw",
        "schedule_free_radam",
        "schedule_free_sgd",
    }
)
"""Go over lists on a CPU too."""


def _torch(build: Callable[[Request], Optimizer]) -> Simulated:
    return Simulated(imitates=_REAL, build=build, by_parameter=False, host_steps=True)


def _bnb(**kind: Any) -> Simulated:
    shape = BlockwiseKind(**kind)
    size = (shape.first + shape.second) * shape.bits // 8
    paged = note("optimizers.paged", size=size, least=BitsAndBytes.MIN_PAGED_SIZE)
    return Simulated(
        imitates="bitsandbytes 0.50.2, optim/optimizer.py",
        build=_blockwise(shape),
        by_parameter=True,
        not_on_cpu=words("optimizers.cpu_bitsandbytes"),
        note=paged if shape.paged else "",
    )


def _free(second_moment: bool) -> Simulated:
    return Simulated(
        imitates="schedulefree 1.4.1",
        build=_schedule_free(second_moment),
        by_parameter=False,
    )


SIMULATED: dict[str, Simulated] = {
    "adamw_torch": _torch(_adamw),
    "adamw_torch_fused": Simulated(imitates=_REAL, build=_adamw, by_parameter=False),
    "sgd": _torch(_by_trainer),
    "adagrad": _torch(_by_trainer),
    "rmsprop": _torch(_by_trainer),
    "adafactor": Simulated(imitates=_REAL, build=_by_trainer, by_parameter=True),
    "adamw_bnb_8bit": _bnb(bits=8),
    "adamw_8bit": _bnb(bits=8),
    "paged_adamw_32bit": _bnb(paged=True),
    "paged_adamw_8bit": _bnb(bits=8, paged=True),
    "lion_32bit": _bnb(second=False),
    "lion_8bit": _bnb(bits=8, second=False),
    "paged_lion_32bit": _bnb(second=False, paged=True),
    "paged_lion_8bit": _bnb(bits=8, second=False, paged=True),
    "ademamix": _bnb(first=2),
    "ademamix_8bit": _bnb(bits=8, first=2),
    "paged_ademamix_32bit": _bnb(first=2, paged=True),
    "paged_ademamix_8bit": _bnb(bits=8, first=2, paged=True),
    "rmsprop_bnb": _bnb(second=False),
    "rmsprop_bnb_32bit": _bnb(second=False),
    "rmsprop_bnb_8bit": _bnb(bits=8, second=False),
    "schedule_free_adamw": _free(True),
    "schedule_free_radam": _free(True),
    "schedule_free_sgd": _free(False),
    "stable_adamw": Simulated(
        imitates="torch-optimi 0.3.3, optimi/stableadamw.py",
        build=_stable,
        by_parameter=True,
        not_on_cpu=words("optimizers.cpu_triton"),
    ),
    "adamw_anyprecision": Simulated(
        imitates="torchdistx (commit 0552f1b), optimizers/anyprecision_optimizer.py",
        build=_any_precision,
        by_parameter=True,
        not_on_cpu=words("optimizers.cpu_scalars"),
    ),
    "grokadamw": Simulated(
        imitates="grokadamw 0.1.2, grokadamw/grokadamw.py",
        build=_grok,
        by_parameter=True,
        not_on_cpu=words("optimizers.cpu_copies"),
        note=note("optimizers.grokadamw"),
    ),
    "apollo_adamw": Simulated(
        imitates="apollo-torch 1.0.3, apollo_torch/apollo.py",
        build=_apollo,
        by_parameter=True,
        note=note("optimizers.apollo"),
    ),
}
"""`optim` -> how it is built."""


def names() -> Iterable[str]:
    """Every decided `optim`."""
    return (*SIMULATED, *REFUSED)
