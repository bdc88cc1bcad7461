"""Measure this machine.

What a training process weighs before the model, and how fast the CPU computes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from advisor.errors import SimulationError

# The real Trainer on a model that weighs nothing, with rows read and tokenised as ours are: what is
# left is interpreter, libraries, thread pools and what reading leaves in the process (about 70 MB).
_BASELINE_PROGRAM = """
import json, pathlib, resource, sys
import datasets, peft, torch, transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from advisor.data import load_rows, tokenise_texts
directory = pathlib.Path(sys.argv[1])
file = directory / "rows.jsonl"
file.write_text("".join(json.dumps({"text": f"{i} is a row. " * 24}) + "\\n" for i in range(1500)))
letters = Tokenizer(models.WordLevel({"?": 0, "</s>": 1}, unk_token="?"))
letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="</s>")
config = LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2, vocab_size=32)
def convert(batch):
    ids = [row[:16] for row in tokenise_texts(tokenizer, batch["text"])]
    return {"input_ids": ids, "labels": ids}
def features(rows, name):
    return rows.map(convert, batched=True, remove_columns=rows.column_names,
                    load_from_cache_file=False, cache_file_name=str(directory / name))
rows = load_rows(file)
arguments = TrainingArguments(output_dir=str(directory / "out"), max_steps=4, use_cpu=True,
                              per_device_train_batch_size=8, save_strategy="steps", save_steps=2,
                              eval_strategy="steps", eval_steps=2, disable_tqdm=True,
                              report_to="none")
Trainer(model=LlamaForCausalLM(config), args=arguments,
        train_dataset=features(rows.train, "train.arrow"),
        eval_dataset=features(rows.evaluation, "evaluation.arrow")).train()
scale = 1 if sys.platform == "darwin" else 1024
print("RSS", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)
"""


@dataclass(frozen=True, kw_only=True)
class CpuRates:
    """What one step's operators cost on this CPU; measured."""

    flops_per_second: dict[str, float]
    """Matmul FLOP/s by dtype (float32, bfloat16)."""
    bytes_per_second: float
    """Streaming element-wise work: bytes read and written."""
    seconds_per_operator: float
    """Python, dispatch and autograd for one operator."""
    num_threads: int


def measure_baseline() -> int:
    """Peak RSS in bytes of a Trainer process whose model weighs nothing; about 10 s.

    Raises:
        SimulationError: the probe process failed.
    """
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", _BASELINE_PROGRAM, directory],
            capture_output=True,
            text=True,
            timeout=300,
            env=dict(os.environ, CUDA_VISIBLE_DEVICES=""),
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RSS ")]
    if not lines:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise SimulationError("calibrate.baseline", reason=reason)
    return int(lines[-1].split()[1])


def measure_cpu() -> dict[str, Any]:
    """CpuRates of this machine as a dict; about 3 s."""
    import torch

    flops = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        x, w = torch.randn(1024, 512).to(dtype), torch.randn(512, 1024).to(dtype)
        flops[name] = 2 * 1024 * 512 * 1024 / _best(lambda x=x, w=w: x @ w)
    a, b = torch.randn(4 * 2**20), torch.randn(4 * 2**20)
    stream = 3 * a.numel() * 4 / _best(lambda: a + b)
    return {
        "flops_per_second": flops,
        "bytes_per_second": stream,
        "seconds_per_operator": _operator_seconds(),
        "num_threads": torch.get_num_threads(),
    }


def _best(call: Callable[[], Any], budget_seconds: float = 0.4) -> float:
    """Shortest of several runs: other programs only ever add."""
    call()
    best, end = float("inf"), time.perf_counter() + budget_seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _operator_seconds() -> float:
    """Seconds of a forward and backward over operators too small to compute, per operator."""
    import torch

    layers = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(50)])
    x = torch.randn(2, 8)

    def step() -> None:
        layers(x).sum().backward()

    # 50 linears: addmm and transpose forward; two matmuls, two views and a sum backward
    return _best(step) / (50 * 7)


def rates_from_json(text: str) -> CpuRates:
    """Stored rates."""
    return CpuRates(**json.loads(text))
