"""Rates of the device: matmul, memory, launch, attention, optimizer, host.

Touches the device; run in a process of its own. Every section stands alone: one that fails leaves
its error text, and the file is written again after each, so that a time limit loses only the rest.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu import device as devices
from gpu.device import seconds


def probe(path: Path, device: str) -> None:
    """Write the rates to `path`; a CPU runs everything a thousand times smaller."""
    started = time.perf_counter()
    found: dict[str, Any] = {"software": devices.software(), "device": _describe(device)}
    sections: dict[str, Callable[[str], Any]] = {
        "matmul": _matmul,
        "launch": _launch,
        "memory": _memory,
        "attention": _attention,
        "optimizer": _optimizer,
        "host": _host,
        "sustained": _sustained,
    }
    for name, section in sections.items():
        began = time.perf_counter()
        try:
            found[name] = section(device)
        except (RuntimeError, ValueError, AttributeError, TypeError) as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        found[name] = {"seconds": round(time.perf_counter() - began, 3), "found": found[name]}
        found["elapsed_seconds"] = round(time.perf_counter() - started, 3)
        path.write_text(json.dumps(found, indent=1) + "\n")


def _describe(device: str) -> dict[str, Any]:
    import torch

    if device == "cpu":
        return {"name": "cpu", "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    names = ("name", "major", "minor", "total_memory", "multi_processor_count", "L2_cache_size")
    free, total = torch.cuda.mem_get_info()
    found = {name: getattr(properties, name, None) for name in names}
    return found | {"free_bytes": free, "total_bytes": total, "clocks": devices.clocks()}


def _small(device: str, size: int, by: int) -> int:
    return size if device == "cuda" else max(size // by, 8)


def _dtypes(device: str) -> list[tuple[str, Any, bool]]:
    import torch

    found = [("fp32", torch.float32, False), ("bf16", torch.bfloat16, False)]
    if device == "cuda":
        found += [("tf32", torch.float32, True), ("fp16", torch.float16, False)]
    return found


def _matmul(device: str) -> list[dict[str, Any]]:
    """FLOP/s of x @ w.T: squares in every dtype; in bf16 the blocks of models, and adapters."""
    import torch

    cases = [(name, d, tf32, n, n, n) for name, d, tf32 in _dtypes(device) for n in (1024, 4096)]
    cases += [(name, d, tf32, 8192, 8192, 8192) for name, d, tf32 in _dtypes(device)]
    half = torch.bfloat16
    shapes = [(2048, 2048), (8192, 2048), (4096, 4096), (14336, 4096), (4096, 14336)]
    shapes += [(128256, 2048), (16, 4096), (4096, 16), (64, 4096)]
    cases += [("bf16", half, False, m, n, k) for n, k in shapes for m in (128, 1024, 4096, 16384)]
    rows = []
    for name, dtype, tf32, *shape in cases:
        m, n, k = (_small(device, size, 64) for size in shape)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        x, w = _random(m, k, dtype, device), _random(n, k, dtype, device)
        took = seconds(lambda x=x, w=w: x @ w.T, device, at_least=0.05)
        row = {"dtype": name, "m": m, "n": n, "k": k, "seconds": took}
        rows.append(row | {"flops_per_second": 2 * m * n * k / took})
    torch.backends.cuda.matmul.allow_tf32 = False
    return rows


def _random(rows: int, columns: int, dtype: Any, device: str) -> Any:
    import torch

    return torch.randn(rows, columns, device=device).to(dtype)


def _launch(device: str) -> dict[str, float]:
    """Seconds an operation takes the host: tiny tensors, so that the device waits."""
    import torch

    x = torch.randn(16, 16, device=device)
    leaf = torch.randn(16, 16, device=device, requires_grad=True)
    many = _small(device, 5000, 50)

    def chain(once: Callable[[Any], Any], start: Any) -> float:
        devices.synchronize(device)
        began = time.perf_counter()
        y = start
        for _ in range(many):
            y = once(y)
        devices.synchronize(device)
        return (time.perf_counter() - began) / many

    chain(lambda y: y + 1.0, x)
    found = {
        "add": chain(lambda y: y + 1.0, x),
        "view": chain(lambda y: y.view(16, 16), x),
        "matmul": chain(lambda y: y @ x, x),
        "add_recorded": chain(lambda y: y + 1.0, leaf),
    }
    y = leaf
    for _ in range(many):
        y = y + 1.0
    loss = y.sum()
    devices.synchronize(device)
    began = time.perf_counter()
    loss.backward()
    devices.synchronize(device)
    return found | {"add_backward": (time.perf_counter() - began) / many}


def _memory(device: str) -> list[dict[str, Any]]:
    """Bytes/s, read and written, of the operations between matmuls, at three sizes."""
    import torch
    import torch.nn.functional as nn

    rows = []
    for megabytes in (4, 64, 1024):
        count = _small(device, megabytes * 2**20 // 2, 256) // 4096 * 4096 or 4096
        x = torch.randn(count // 4096, 4096, device=device).bfloat16()
        y, full, out = torch.empty_like(x), x.float(), torch.empty_like(x)
        norm = torch.ones(4096, device=device, dtype=x.dtype)
        bias = torch.zeros_like(norm)
        cases: dict[str, tuple[Callable[[], Any], int]] = {
            "copy": (lambda x=x, y=y: y.copy_(x), 4),
            "add": (lambda x=x, y=y, out=out: torch.add(x, y, out=out), 6),
            "cast_up": (lambda x=x: x.float(), 6),
            "cast_down": (lambda full=full: full.bfloat16(), 6),
            "transposed_copy": (lambda x=x: x.T.contiguous(), 4),
            "silu": (lambda x=x: nn.silu(x), 4),
            "layer_norm": (lambda x=x, w=norm, b=bias: nn.layer_norm(x, (4096,), w, b), 4),
            "softmax": (lambda x=x: nn.softmax(x, -1, dtype=torch.float32), 6),
            "dropout": (lambda x=x: nn.dropout(x, 0.1), 5),
        }
        for name, (call, bytes_each) in cases.items():
            took = seconds(call, device, at_least=0.03)
            row = {"op": name, "elements": x.numel(), "seconds": took}
            rows.append(row | {"bytes_per_second": bytes_each * x.numel() / took})
    rows.append(_cross_entropy(device))
    if device == "cuda":
        host = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
        took = seconds(lambda: host.cuda(non_blocking=True), device)
        rows.append({"op": "host_to_device", "elements": 2**28, "bytes_per_second": 2**28 / took})
    return rows


def _cross_entropy(device: str) -> dict[str, Any]:
    import torch

    tokens, vocab = _small(device, 4096, 64), _small(device, 128256, 64)
    logits = torch.randn(tokens, vocab, device=device, requires_grad=True)
    labels = torch.zeros(tokens, dtype=torch.int64, device=device)

    def step() -> None:
        logits.grad = None
        torch.nn.functional.cross_entropy(logits, labels).backward()

    took = seconds(step, device)
    return {"op": "cross_entropy forward and backward", "elements": tokens * vocab, "seconds": took}


def _attention(device: str) -> list[dict[str, Any]]:
    """SDPA forward and backward in bf16, by backend, head size and length; FLOP/s of the matmuls.

    Causal attention counts half of them; backward counts 2.5 times the forward's.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kinds = {"math": SDPBackend.MATH}
    if device == "cuda":
        kinds = {
            "flash": SDPBackend.FLASH_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
        } | kinds
        if hasattr(SDPBackend, "CUDNN_ATTENTION"):
            kinds["cudnn"] = SDPBackend.CUDNN_ATTENTION
    rows = []
    for kind, backend in kinds.items():
        for head in (64, 128):
            for length in (512, 2048, 8192):
                if kind == "math" and length > 2048:
                    continue
                s = _small(device, length, 32)
                batch = max(8192 // length, 1)
                row = {"kind": kind, "head": head, "length": s, "batch": batch}
                rows.append(row)
                q = torch.randn(batch, 2048 // head, s, head, device=device).bfloat16()
                q, k, v = (q.clone().requires_grad_() for _ in range(3))
                try:
                    with sdpa_kernel(backend):
                        row |= _attention_times(q, k, v, device)
                except RuntimeError as error:  # this backend cannot, on this card
                    row["error"] = str(error)[:120]
                    continue
                flops = 0.5 * 4 * batch * 2048 * s * s
                row["forward_flops_per_second"] = flops / row["forward_seconds"]
                row["backward_flops_per_second"] = 2.5 * flops / row["backward_seconds"]
    return rows


def _attention_times(q: Any, k: Any, v: Any, device: str) -> dict[str, float]:
    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    out = attend(q, k, v, is_causal=True)
    gradient = torch.randn_like(out)
    forward = seconds(lambda: attend(q, k, v, is_causal=True), device, at_least=0.03)
    backward = seconds(
        lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True),
        device,
        at_least=0.03,
    )
    return {"forward_seconds": forward, "backward_seconds": backward}


def _optimizer(device: str) -> list[dict[str, Any]]:
    """Seconds a parameter of a step, over 100 tensors of a million, and of clipping."""
    import torch

    each = _small(device, 2**20, 1024)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        weights = [
            torch.zeros(each, device=device, dtype=dtype, requires_grad=True) for _ in range(100)
        ]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        makers: dict[str, Callable[[], Any]] = {
            "adamw fused": lambda w=weights: torch.optim.AdamW(w, fused=True),
            "adamw foreach": lambda w=weights: torch.optim.AdamW(w, foreach=True),
            "adamw": lambda w=weights: torch.optim.AdamW(w, foreach=False),
            "sgd foreach": lambda w=weights: torch.optim.SGD(w, foreach=True),
        }
        for name, make in makers.items():
            took = seconds(make().step, device)
            rows.append({"optimizer": name, "dtype": str(dtype), "seconds": took})
        took = seconds(lambda w=weights: torch.nn.utils.clip_grad_norm_(w, 1.0), device)
        rows.append({"optimizer": "clip_grad_norm", "dtype": str(dtype), "seconds": took})
    for row in rows:
        row["seconds_per_parameter"] = row["seconds"] / (100 * each)
    return rows


def _host(device: str) -> list[dict[str, Any]]:
    """Seconds of a small Llama, 4 blocks of hidden size 64: the host's share of a step."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=256,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).to(device)
    ids = torch.ones(1, 16, dtype=torch.int64, device=device)
    rows = []
    for autocast in (False, True):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            forward = seconds(lambda: model(input_ids=ids, labels=ids), device, at_least=0.3)

        def step(autocast: bool = autocast) -> None:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()

        both = seconds(step, device, at_least=0.3)
        row = {"autocast": autocast, "blocks": 4, "forward_seconds": forward}
        rows.append(row | {"backward_seconds": both - forward})
    return rows


def _sustained(device: str) -> dict[str, Any]:
    """FLOP/s of a large bf16 matmul for five seconds: clocks fall to what the power allows."""
    import torch

    size = _small(device, 8192, 64)
    x = _random(size, size, torch.bfloat16, device)
    lasting = 5.0 if device == "cuda" else 0.1
    before, count, began = devices.clocks(), 0, time.perf_counter()
    while time.perf_counter() - began < lasting:
        for _ in range(20):
            x @ x
        count += 20
        devices.synchronize(device)
    took = time.perf_counter() - began
    rate = 2 * size**3 * count / took
    return {"flops_per_second": rate, "before": before, "after": devices.clocks()}
