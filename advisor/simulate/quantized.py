"""Layers of bitsandbytes on fake tensors, with the memory of its CUDA path; without bitsandbytes.

What is imitated was read in bitsandbytes 0.50.2 (`nn/modules.py`, `autograd/_functions.py`,
`functional.py`, `backends/cuda/ops.py`) and transformers 5.23 (`integrations/bitsandbytes.py`). The
adapters on top are peft's real ones: `standing_in` shows it a `bitsandbytes` with the classes
below. Not modelled: the fused 4-bit kernel for few tokens, which makes no dequantised copy, and the
16-bit columns of int8 outliers, whose number is a fact of the weights.
"""

import contextlib
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from advisor.errors import SimulationError
from advisor.plan import Quantization
from advisor.simulate.trace import Recorder

BLOCK = 64
"""Weights that share one scale (nf4, fp4)."""
SCALE_BLOCK = 256
"""Scales that share one scale of their own under double quantisation."""
INT8_THRESHOLD = 6.0


class Params4bit(nn.Parameter):
    """A weight to be packed; on the meta device it still has its own shape."""


class QuantizedLinear(nn.Linear):
    """What the two layers share: no weight of their own until it is loaded."""

    bits: int
    """A weight takes, as transformers counts it (quantized_element_size)."""
    _recorder: Recorder

    def __init__(self, source: nn.Module, weight: nn.Parameter) -> None:
        nn.Module.__init__(self)
        rows, columns = source.weight.shape  # type: ignore[misc,union-attr]
        if not isinstance(source, nn.Linear):  # Conv1D holds its weight transposed
            rows, columns = columns, rows
        self.out_features, self.in_features = int(rows), int(columns)  # type: ignore[arg-type]
        self.weight = weight
        self.bias = source.bias  # type: ignore[assignment]
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.source_dtype: torch.dtype = source.weight.dtype  # type: ignore[assignment,union-attr]

    def quantise(self, recorder: Recorder) -> nn.Parameter:
        """The weight as loading leaves it, its temporaries recorded."""
        raise NotImplementedError

    def whole(self) -> torch.Tensor:
        """The weight as peft's dequantize_module_weight gives it to DoRA."""
        raise NotImplementedError

    def _empty(self, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(self.out_features, self.in_features, dtype=dtype, device="meta")

    def _source(self, recorder: Recorder) -> torch.Tensor:
        self._recorder = recorder
        source = torch.empty(self.out_features, self.in_features, dtype=self.source_dtype)
        recorder.track(source, "load")
        return source


class Linear4bit(QuantizedLinear):
    """bitsandbytes.nn.Linear4bit: packed weight, a scale for each block of 64."""

    bits = 4

    def __init__(self, source: nn.Module, settings: Quantization) -> None:
        weight = Params4bit(source.weight.data, requires_grad=False)  # type: ignore[union-attr,operator]
        weight.compress_statistics = settings.bnb_4bit_use_double_quant  # type: ignore[attr-defined]
        weight.quant_type = settings.bnb_4bit_quant_type  # type: ignore[attr-defined]
        super().__init__(source, weight)
        self.compute_dtype = getattr(torch, settings.bnb_4bit_compute_dtype)
        self.nested = settings.bnb_4bit_use_double_quant

    def quantise(self, recorder: Recorder) -> nn.Parameter:
        """quantize_4bit: scales, packed weight, code table; then the scales' own scales."""

        def track(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            tensor = torch.empty(shape, dtype=dtype)
            recorder.track(tensor, "load")
            return tensor

        source = self._source(recorder)
        count = self.out_features * self.in_features
        blocks = -(-count // BLOCK)
        scales = track(blocks)
        packed = track((count + 1) // 2, 1, dtype=torch.uint8)
        self.code = track(16)
        if self.nested:
            self.offset = track()
            centred = track(blocks)
            self.scale_scales = track(-(-blocks // SCALE_BLOCK))
            self.scales = track(blocks, dtype=torch.uint8)
            self.scale_code = track(256)
            del centred
        else:
            self.scales = scales
        del scales, source
        return nn.Parameter(packed, requires_grad=False)

    def whole(self) -> torch.Tensor:
        """dequantize_4bit; before loading a weight without storage."""
        if self.weight.is_meta:
            return self._empty(self.source_dtype)
        return self.dequantised(self.source_dtype)

    def dequantised(self, dtype: torch.dtype) -> torch.Tensor:
        """dequantize_4bit: with nested scales, a float32 copy of them for as long as it takes."""
        scales = self.scales
        if self.nested:
            scales = torch.empty(self.scales.shape, dtype=torch.float32)
        weight = torch.empty(self.out_features, self.in_features, dtype=self.source_dtype)
        moved = weight.numel() * (0.5 + 4 / BLOCK + weight.itemsize)
        self._recorder.write_kernel("dequantise", weight.dtype, 1 + self.nested, 0, int(moved))
        del scales
        return weight.to(dtype)

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Linear4bit":
        """The state, then the packed weight once more (Params4bit); peft does so for DoRA."""
        if self.weight.is_meta:
            return self
        result = Linear4bit.__new__(Linear4bit)
        result.__dict__.update(self.__dict__)
        for name in ("scales", "code", "offset", "scale_scales", "scale_code"):
            if name in self.__dict__:
                setattr(result, name, getattr(self, name).clone())
        packed = nn.Parameter(self.weight.data.clone(), requires_grad=False)
        result._parameters = {**self._parameters, "weight": packed}
        return result

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Linear4bit.forward: compute in compute_dtype, answer in the input's.

        bitsandbytes looks at the input's dtype only where no compute dtype was given, and
        transformers always gives one.
        """
        x = input
        given = x.dtype
        x = x.to(self.compute_dtype)
        if self.bias is not None and self.bias.dtype != x.dtype:
            self.bias.data = self.bias.data.to(x.dtype)
        if not torch.is_grad_enabled() or not x.requires_grad:
            return nn.functional.linear(x, self.dequantised(x.dtype), self.bias).to(given)
        return _MatMul4Bit.apply(x, self.bias, self).to(given)


class _MatMul4Bit(torch.autograd.Function):
    """Keeps nothing of the input: only the gradient of the input is wanted."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: Linear4bit
    ) -> torch.Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dequantised(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        return torch.matmul(gradient, ctx.layer.dequantised(gradient.dtype)), None, None


class Linear8bitLt(QuantizedLinear):
    """bitsandbytes.nn.Linear8bitLt with threshold 6.0 and no outliers."""

    bits = 8

    def __init__(self, source: nn.Module) -> None:
        super().__init__(source, nn.Parameter(source.weight.data, requires_grad=False))  # type: ignore[arg-type,union-attr]
        self.index = None
        self.state = types.SimpleNamespace(has_fp16_weights=False, threshold=INT8_THRESHOLD)

    def quantise(self, recorder: Recorder) -> nn.Parameter:
        """Int8Params: a float16 copy comes back from the host and is rounded row by row."""
        source = self._source(recorder)
        shape = (self.out_features, self.in_features)
        copy = torch.empty(shape, dtype=torch.float16)
        recorder.track(copy, "load")
        self.scales = torch.empty(self.out_features, dtype=torch.float32)
        recorder.track(self.scales, "load")
        rounded = torch.empty(shape, dtype=torch.int8)
        recorder.track(rounded, "load")
        del copy, source
        return nn.Parameter(rounded, requires_grad=False)

    def whole(self) -> torch.Tensor:
        """int8_vectorwise_dequant: two products in float32; before loading without storage."""
        if self.weight.is_meta:
            return self._empty(torch.float32)
        return self.weight * self.scales.view(-1, 1) * (1 / 127)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Linear8bitLt.forward."""
        x = input
        if self.bias is not None and self.bias.dtype != x.dtype:
            self.bias.data = self.bias.data.to(x.dtype)
        count, n, k = x.numel() // self.in_features, self.out_features, self.in_features
        # at the rate of a 16-bit product: what outliers cost the faster one is not known
        moved = count * (3 * k + 6 * n) + n * k
        dims = (1, count, n, k)
        self._recorder.write_kernel("matmul", torch.float16, 3, 2 * count * n * k, moved, dims)
        return _MatMul8Bit.apply(x, self.weight, self.bias, self.scales)


class _MatMul8Bit(torch.autograd.Function):
    """MatMul8bitLt: unlike the 4-bit one it keeps its input (ctx.tensors) until its backward."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scales: torch.Tensor,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        half = rows.to(torch.float16)
        row_scales = torch.empty(rows.shape[0], dtype=torch.float32)
        rounded = torch.empty(rows.shape, dtype=torch.int8)
        found = (half.abs() >= INT8_THRESHOLD).any()
        del half, found
        product = torch.empty(rows.shape[0], weight.shape[0], dtype=torch.int32)
        answer = torch.empty(product.shape, dtype=torch.float16)
        del product, rounded, row_scales
        if bias is not None and x.dtype != torch.float16:
            answer = answer.add_(bias)
        answer = answer.to(x.dtype)
        ctx.kept, ctx.weight, ctx.scales, ctx.shape = rows, weight, scales, x.shape
        return answer.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        rows = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        dtype = ctx.kept.dtype
        factors = ctx.scales.unsqueeze(1).mul(1.0 / 127.0)
        weight = ctx.weight.to(dtype, copy=True).mul_(factors)
        del factors
        return torch.matmul(rows.to(dtype), weight).view(ctx.shape), None, None, None


def replace_linears(model: nn.Module, settings: Quantization) -> None:
    """As transformers' replace_with_bnb_linear: all but the output layer and what is tied to it.

    Raises:
        SimulationError: nothing of the model can be quantised.
    """
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = get_keys_to_not_convert(model)
    found = False
    for name, module in list(model.named_modules()):
        if type(module) is not nn.Linear and not isinstance(module, Conv1D):
            continue
        if not should_convert_module(name, kept):
            continue
        new = Linear4bit(module, settings) if settings.load_in_4bit else Linear8bitLt(module)
        model.set_submodule(name, new)
        found = True
    if not found:
        raise SimulationError("quantized.nothing")
    model.is_loaded_in_4bit = settings.load_in_4bit  # type: ignore[assignment]
    model.is_loaded_in_8bit = settings.load_in_8bit  # type: ignore[assignment]


def whole_weight(original: Callable[[nn.Module], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    """Peft's dequantize_module_weight, which asks bitsandbytes, for the layers above."""

    def dequantize_module_weight(module: Any) -> torch.Tensor:
        return module.whole() if isinstance(module, QuantizedLinear) else original(module)

    return dequantize_module_weight


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """Inside the block, peft finds a `bitsandbytes` whose layers are the ones above."""
    from peft import import_utils
    from peft.tuners.lora import dora as imported

    stand_in: Any = types.ModuleType("bitsandbytes")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("bitsandbytes", None)
    stand_in.nn = types.SimpleNamespace(
        Linear4bit=Linear4bit, Linear8bitLt=Linear8bitLt, Params4bit=Params4bit
    )
    names = ("bitsandbytes", "peft.tuners.lora.bnb")
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.modules["bitsandbytes"] = stand_in
    dora: Any = imported
    dequantize = dora.dequantize_module_weight
    dora.dequantize_module_weight = whole_weight(dequantize)
    questions = (import_utils.is_bnb_available, import_utils.is_bnb_4bit_available)
    try:
        for question in questions:
            question.cache_clear()
        yield
    finally:
        dora.dequantize_module_weight = dequantize
        for question in questions:
            question.cache_clear()
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
