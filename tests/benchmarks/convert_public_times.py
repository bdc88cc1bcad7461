"""Step times of public runs in free text (a csv) to measured rows that `bench.py` reads.

`python tests/benchmarks/convert_public_times.py public_runs.csv` writes measured/public_times.jsonl
and prints how many rows were left out and why. These runs have no memory figure that a question can
be asked about, so their rows hold a time alone.
"""

import argparse
import ast
import collections
import csv
import json
from pathlib import Path
from typing import Any

from convert_public_runs import MEASURED, SkippedError

LLAMA_3B = {
    "model_type": "llama",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True,
}
TOKENS_OF_FOUR = 839
"""Mean of a batch of four rows, as peft's comparison states it."""


def main() -> None:
    """Convert the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    path = parser.parse_args().csv
    known, asked = set(), {}
    for line in (MEASURED / "a100_verdicts.jsonl").read_text().splitlines():
        row = json.loads(line)
        known.add(row["id"])
        asked[row["model"]["name"], row["plan"]["method"]] = row
    taken, reasons = [], collections.Counter()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["n_gpus"] != "1" or not (row["step_s"] or row["tokens_per_s_per_gpu"]):
                continue
            try:
                taken.append(convert(row, known, asked))
            except SkippedError as reason:
                reasons[str(reason)] += 1
    lines = [json.dumps(row) + "\n" for row in taken]
    (MEASURED / "public_times.jsonl").write_text("".join(lines))
    print(f"{len(taken)} rows written; left out:")
    for reason, count in reasons.most_common():
        print(f"| {count} | {reason} |")


def convert(row: dict[str, str], known: set[str], asked: dict[Any, Any]) -> dict[str, Any]:
    """One row of the csv as a question with `measured`.

    Raises:
        SkippedError: it cannot be expressed.
    """
    kind = row["id"].split("-")[0]
    if row["id"] in known or kind == "fitcheck":
        raise SkippedError("is in another file")
    if kind == "fms":
        return _fms(row, asked)
    if kind == "peft":
        return _peft(row)
    if kind == "qwen1":
        raise SkippedError("model code of its own; adapters in bfloat16, as peft had them in 2023")
    raise SkippedError("model code of its own, or no length or software stated")


def _fms(row: dict[str, str], asked: dict[Any, Any]) -> dict[str, Any]:
    setup = row["framework"].split("framework_config=")[-1]
    if setup not in ("none", "baseline-peft-bnb"):
        raise SkippedError("kernels or set-up patched by the framework")
    sibling = asked.get((row["model"], row["method"].split()[0]))
    if sibling is None or not row["seq_len"].isdigit():
        raise SkippedError("length varies, or no such model in a100_verdicts.jsonl")
    plan = sibling["plan"] | {
        "per_device_train_batch_size": int(row["micro_batch"]),
        "gradient_accumulation_steps": int(row["grad_accum"]),
        "max_length": int(row["seq_len"]),
        "activation_checkpointing": row["grad_checkpointing"].startswith("True"),
    }
    return sibling | _answer(row, plan, float(row["step_s"]), row["framework"])


def _peft(row: dict[str, str]) -> dict[str, Any]:
    method, _, rank = row["method"].partition(" r=")
    variant = any(word in row["id"] for word in ("bdlora", "lorafa", "mica"))
    if row["id"].startswith("peft-img") or method not in ("lora", "full") or variant:
        raise SkippedError("a method or a task that a plan has no field for")
    lora = None
    if method == "lora":
        lora = {
            "r": int(rank),
            "lora_alpha": int(rank),
            "lora_dropout": 0.0,
            "target_modules": sorted(ast.literal_eval(row["lora_targets"])),
            "use_dora": "dora" in row["id"],
            "use_rslora": "rslora" in row["id"],
        }
    plan = {
        "task": "causal-lm",
        "method": method,
        "dtype": "bfloat16",
        "attn_implementation": "sdpa",
        "lora": lora,
        "quantization": None,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_length": -(-TOKENS_OF_FOUR // 4),
        "attention_mask": True,
        "bf16": False,
        "fp16": False,
        "optim": "adamw_torch",
        "activation_checkpointing": False,
        "max_grad_norm": 1.0,
    }
    question = {
        "model": {"name": row["model"], "config": LLAMA_3B},
        "loop": {"kind": "script"},
        "machine": {"accelerator": "L40S", "count": 1},
    }
    seconds = TOKENS_OF_FOUR / float(row["tokens_per_s_per_gpu"])
    notes = f"{row['framework']}; rows of mixed lengths, asked at their mean of 210 tokens"
    return question | _answer(row, plan, seconds, notes)


def _answer(
    row: dict[str, str], plan: dict[str, Any], seconds: float, notes: str
) -> dict[str, Any]:
    return {
        "id": row["id"],
        "plan": plan,
        "measured": {"step_seconds": round(seconds, 4)},
        "source": row["source"],
        "notes": notes,
    }


if __name__ == "__main__":
    main()
