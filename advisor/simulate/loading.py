"""Meta parameters and buffers become fake CPU tensors, in the order in which loading makes them.

The order decides what lies beside what on the card, and so what is reserved. Called inside a
FakeTensorMode.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.core_model_loading import dot_natural_key

from advisor.plan import Quantization
from advisor.simulate.build import find_layers
from advisor.simulate.profile import EMPTY_CACHE, Structure
from advisor.simulate.quantized import QuantizedLinear
from advisor.simulate.trace import GLOBAL, Recorder


@dataclass(frozen=True)
class _Place:
    """Where a parameter hangs."""

    module: nn.Module
    module_name: str
    name: str
    parameter: nn.Parameter

    def is_adapter(self) -> bool:
        return "lora_" in self.module_name


@dataclass
class _Loader:
    model: nn.Module
    recorder: Recorder
    done: dict[int, nn.Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prefix = find_layers(self.model)[0]
        places = [
            _Place(module, module_name, name, p)
            for module_name, module in self.model.named_modules()
            for name, p in module._parameters.items()
            if p is not None
        ]
        self.base = [p for p in places if not p.is_adapter()]
        self.adapters = [p for p in places if p.is_adapter()]

    def follow(self, place: _Place) -> None:
        """What is recorded next belongs to the layer of this parameter."""
        self.recorder.layer = _layer_number(self.prefix, place.module_name)

    def load(self, place: _Place, dtype: torch.dtype | None = None) -> None:
        """The parameter as a fake tensor, in `dtype` if given; tied ones are made once."""
        p = place.parameter
        if id(p) not in self.done:
            self.follow(place)
            tensor = torch.empty(p.shape, dtype=dtype or p.dtype)
            self.recorder.track(tensor, "load")
            self.done[id(p)] = nn.Parameter(tensor, requires_grad=p.requires_grad)
        place.module._parameters[place.name] = self.done[id(p)]

    def load_buffers(self) -> None:
        self.recorder.layer = GLOBAL
        done: dict[int, torch.Tensor] = {}
        for module in self.model.modules():
            for name, b in module._buffers.items():
                if b is None:
                    continue
                if id(b) not in done:
                    fresh = torch.empty(b.shape, dtype=b.dtype)
                    self.recorder.track(fresh, "load")
                    done[id(b)] = fresh
                module._buffers[name] = done[id(b)]


def materialise(model: nn.Module, recorder: Recorder, structure: Structure) -> None:
    """Load the model: module by module, adapters last; quantised ones as from_pretrained does."""
    loader = _Loader(model, recorder)
    if structure.quantization is None:
        for place in loader.base:
            loader.load(place)
        loader.load_buffers()
        for place in loader.adapters:
            loader.load(place)
    else:
        _load_quantised(loader, getattr(torch, structure.dtype))
        _load_adapters(loader, structure.quantization)
    recorder.layer = GLOBAL


def _load_quantised(loader: _Loader, source_dtype: torch.dtype) -> None:
    """`from_pretrained(device_map=...)` and `prepare_model_for_kbit_training`.

    One block of the model's size is taken and given back (caching_allocator_warmup), then the
    parameters come in the natural order of their names, each 16-bit source freed when it is
    quantised. What is not quantised is cast to float32, one by one, and the cache is emptied
    (measured: nf4 rows of SmolLM2-1.7B, all phases).
    """
    recorder = loader.recorder
    base = sorted(loader.base, key=lambda place: dot_natural_key(_checkpoint_name(place)))
    casts = {id(p.parameter) for p in base if _is_cast(p)}
    _warm_up(loader, base, source_dtype)
    for place in base:
        if isinstance(place.module, QuantizedLinear) and place.name == "weight":
            loader.follow(place)
            place.module.weight = place.module.quantise(recorder)
        else:
            loader.load(place, source_dtype if id(place.parameter) in casts else None)
    loader.load_buffers()
    for place in loader.base:  # in the order of model.parameters()
        if id(place.parameter) not in casts:
            continue
        casts.remove(id(place.parameter))
        loader.follow(place)
        loaded = loader.done[id(place.parameter)]
        loaded.data = _float32(loaded, recorder)
    recorder.layer = GLOBAL
    recorder.mark(EMPTY_CACHE)


def _float32(loaded: torch.Tensor, recorder: Recorder) -> torch.Tensor:
    cast = torch.empty(loaded.shape, dtype=torch.float32)
    recorder.track(cast, "load")
    return cast


def _is_cast(place: _Place) -> bool:
    """Whether kbit preparation turned it into float32 (it did so on the meta device)."""
    return place.parameter.dtype == torch.float32 and not (
        isinstance(place.module, QuantizedLinear) and place.name == "weight"
    )


def _warm_up(loader: _Loader, base: list[_Place], source_dtype: torch.dtype) -> None:
    elements = others = bits = 0
    seen = set()
    for place in base:
        if id(place.parameter) in seen:
            continue
        seen.add(id(place.parameter))
        if isinstance(place.module, QuantizedLinear) and place.name == "weight":
            elements += place.module.out_features * place.module.in_features
            bits = place.module.bits
        else:
            size = source_dtype.itemsize if _is_cast(place) else place.parameter.element_size()
            others += place.parameter.numel() * size
    loader.recorder.layer = GLOBAL
    loader.recorder.temporary("warm_up", (elements, bits, others))


def _load_adapters(loader: _Loader, settings: Quantization) -> None:
    """Peft makes them in float32; over a 4-bit layer in its compute dtype, all cast afterwards."""
    compute_dtype = getattr(torch, settings.bnb_4bit_compute_dtype)
    for place in loader.adapters:
        if not _take_norm(loader, place):
            loader.load(place, compute_dtype if settings.load_in_4bit else None)
    if not settings.load_in_4bit:
        return
    for place in loader.adapters:
        loader.follow(place)
        loaded = loader.done[id(place.parameter)]
        loaded.data = _float32(loaded, loader.recorder)


def _take_norm(loader: _Loader, place: _Place) -> bool:
    """DoRA's magnitude over a quantised layer: peft's own code, which dequantises the weight.

    Without quantisation peft works before the model comes onto the card.
    """
    owner, found, adapter = place.module_name.rpartition(".lora_magnitude_vector.")
    layer = loader.model.get_submodule(owner) if found else None
    base = getattr(layer, "base_layer", None)
    if layer is None or not isinstance(base, QuantizedLinear):
        return False
    loader.follow(place)
    with loader.recorder.in_phase("load"):
        place.module.update_layer(  # type: ignore[operator]
            base_layer=base,
            lora_A=layer.lora_A[adapter].weight,  # type: ignore[index,union-attr]
            lora_B=layer.lora_B[adapter].weight,  # type: ignore[index,union-attr]
            scaling=layer.scaling[adapter],  # type: ignore[index]
        )
    made = place.module._parameters[place.name]
    assert made is not None
    loader.done[id(place.parameter)] = made
    return True


def _checkpoint_name(place: _Place) -> str:
    name = f"{place.module_name}.{place.name}"
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def _layer_number(prefix: str, module_name: str) -> int:
    if prefix and module_name.startswith(f"{prefix}."):
        number = module_name[len(prefix) + 1 :].partition(".")[0]
        if number.isdigit():
            return int(number)
    return GLOBAL
