"""Measure what one GPU does with the operators of a training step.

Run as `python -m advisor.simulate.gpu_probe DEVICE HALF` it prints JSON lines: {"progress": [name,
values]} and at last {"result": gpu_time.GpuTables as a dict}. In a process of its own, which sees
the one card: it makes a CUDA context and takes memory. DEVICE "cpu" runs the same on tiny tensors,
for tests.
"""

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from advisor.gpu_time import ANCHORS, ATTENTION_LENGTH
from advisor.simulate.cpu_probe import trainer_step

_SQUARE = 8192
_SUSTAINED_SECONDS = 2.0
"""Of one large matmul, so that clocks fall to what the power limit allows."""
_STREAMED_BYTES = 256 * 2**20
_REPEATS = 3
_AUTOCAST = {"bfloat16": "bf16", "float16": "fp16"}


def measure(
    device: str, half: str, progress: Callable[[str, dict[str, Any]], None]
) -> dict[str, Any]:
    """Everything, as the fields of GpuTables.

    Args:
        device: "cuda", or "cpu" for tests.
        half: "bfloat16" or "float16", what the card computes.
        progress: told of the steps.
    """
    import torch

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    small = device == "cpu"
    flops, attention, spreads = {}, {}, []
    for name, dtype in {"half": getattr(torch, half), "single": torch.float32}.items():
        progress("calibrate.matmul", {"dtype": str(dtype).removeprefix("torch.")})
        flops[name], spread = _matmul(device, dtype, 64 if small else _SQUARE)
        spreads.append(spread)
        attention[name] = _attention(device, dtype, 16 if small else ATTENTION_LENGTH)
    progress("calibrate.memory", {})
    moved = _memory(device, getattr(torch, half), 2**18 if small else _STREAMED_BYTES)
    progress("calibrate.gpu_trainer", {})
    free = 0 if small else torch.cuda.mem_get_info()[0]
    anchors = {
        name: trainer_step(
            anchor.config,
            anchor.batch,
            anchor.length,
            {"use_cpu": small} | ({} if small else {_AUTOCAST[half]: True}),
            8 if small else anchor.steps,
        )
        for name, anchor in ANCHORS.items()
        if anchor.needs_bytes <= free
    }
    properties = None if small else torch.cuda.get_device_properties(0)
    return {
        "flops_per_second": flops,
        "attention": attention,
        "bytes_per_second": moved,
        "anchors": anchors,
        "half": half,
        "processors": getattr(properties, "multi_processor_count", 1),
        "cache_bytes": getattr(properties, "L2_cache_size", 0),
        "spread": max(spreads),
    }


def _synchronize(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def _seconds(call: Callable[[], Any], device: str, at_least: float = 0.05) -> float:
    """Shortest mean of three loops over `call`, each of at least so many seconds."""
    for _ in range(3):
        call()
    _synchronize(device)
    count, found = 1, []
    while len(found) < _REPEATS:
        start = time.perf_counter()
        for _ in range(count):
            call()
        _synchronize(device)
        took = time.perf_counter() - start
        if took < at_least:
            count *= 2
        else:
            found.append(took / count)
    return min(found)


def _matmul(device: str, dtype: Any, size: int) -> tuple[float, float]:
    """FLOP/s that a large matmul sustains, and by how much its second half differs."""
    import torch

    left = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty_like(left)
    each = _seconds(lambda: torch.mm(left, left, out=out), device)
    lasting = _SUSTAINED_SECONDS if device != "cpu" else 0.05
    count = max(int(lasting / 4 / each), 1)
    quarters = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(count):
            torch.mm(left, left, out=out)
        _synchronize(device)
        quarters.append(time.perf_counter() - start)
    last = quarters[2:]
    return 2 * size**3 * count / min(last), max(last) / min(last) - 1


def _attention(device: str, dtype: Any, length: int) -> tuple[float, float]:
    """FLOP/s of causal fused attention, forward and backward; as costs.py counts them."""
    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    heads, width = 16, 128 if length > 16 else 8
    q, k, v = (
        torch.randn(1, heads, length, width, device=device).to(dtype).requires_grad_()
        for _ in range(3)
    )
    out = attend(q, k, v, is_causal=True)
    gradient = torch.randn_like(out)
    forward = _seconds(lambda: attend(q, k, v, is_causal=True), device)
    backward = _seconds(
        lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True), device
    )
    flops = 0.5 * 4 * heads * width * length * length
    return flops / forward, 2.5 * flops / backward


def _memory(device: str, half: Any, num_bytes: int) -> dict[str, float]:
    """Bytes/s, read and written, of the kinds of operators that only move data."""
    import torch
    from torch.nn.functional import layer_norm

    x = torch.randn(num_bytes // 2 // 64, 64, device=device).to(half).view(-1, 1024)
    y, out, full = torch.randn_like(x), torch.empty_like(x), x.float()
    weight = torch.ones(1024, device=device, dtype=half)
    each = 2 * x.numel()
    cases: dict[str, tuple[Callable[[], Any], int]] = {
        "elementwise": (lambda: torch.add(x, y, out=out), 3 * each),
        "copy": (lambda: out.copy_(full), 3 * each),
        "reduce": (lambda: layer_norm(x, (1024,), weight), 2 * each),
    }
    return {name: size / _seconds(call, device) for name, (call, size) in cases.items()}


def main() -> None:
    """Measure, and print what was found."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not reach the protocol
    device, half = sys.argv[1:]

    def say(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    say({"result": measure(device, half, lambda name, values: say({"progress": [name, values]}))})


if __name__ == "__main__":
    main()
