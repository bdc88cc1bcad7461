"""Step times of real jobs on this CPU, predicted before they are measured: part of `make bench`.

The machine is calibrated once where it was not yet (`advisor calibrate`), every job is predicted,
and then trained through transformers.Trainer for a few steps, in a process of its own, in three
interleaved rounds; the shortest of the three medians counts, because other programs only add. A
round is not begun while other programs use the processors. Nothing is fitted to a job. A job whose
time is unknown (16 bits on a processor that emulates them) is left out.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import tables

from advisor import measurements
from advisor.estimate import Estimator
from advisor.hardware.load import Foreign
from advisor.hardware.probe import probe_machine
from advisor.model import ModelDescription
from advisor.plan import LoraSettings, TrainingPlan
from advisor.simulate.worker import Worker

ROUNDS = 3


def _llama(width: int, inner: int, layers: int, vocabulary: int, heads: int, kv: int) -> dict:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
    }


DEMO = _llama(256, 704, 4, 258, 4, 2)
SMALL = _llama(512, 1408, 8, 8000, 8, 8)
SMOL = _llama(576, 1536, 30, 49152, 9, 3) | {"tie_word_embeddings": True}
QWEN = _llama(896, 4864, 4, 16000, 14, 2) | {"model_type": "qwen2"}
GPT2 = {"model_type": "gpt2", "n_embd": 384, "n_layer": 6, "n_head": 6, "vocab_size": 16000}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
BERT = {"model_type": "bert", "vocab_size": 30522}
BERT_SMALL = BERT | {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
BERT_SMALL |= {"num_attention_heads": 4}
VIT = {"model_type": "vit", "hidden_size": 192, "num_hidden_layers": 12, "image_size": 224}
VIT |= {"num_attention_heads": 3, "intermediate_size": 768, "patch_size": 16, "num_channels": 3}
LORA = {"method": "lora", "lora": LoraSettings(r=8)}
PADDED = {"attention_mask": True}
MASKED = {"task": "masked-lm", **PADDED}
IMAGES = {"task": "image-classification"}
CHECKPOINTED = {"activation_checkpointing": True}
HALF = {"dtype": "bfloat16", "bf16": True}

JOBS: dict[str, tuple[dict[str, Any], int, int, dict[str, Any]]] = {
    "llama 3 M, 8 x 256": (DEMO, 8, 256, {}),
    "llama 3 M, 1 x 64": (DEMO, 1, 64, {}),
    "llama 3 M, 2 x 1024, 4 micro-batches": (DEMO, 2, 1024, {"gradient_accumulation_steps": 4}),
    "llama 34 M, 4 x 256": (SMALL, 4, 256, {}),
    "llama 34 M, 4 x 256, autocast": (SMALL, 4, 256, {"bf16": True}),
    "llama 34 M, 4 x 256, checkpointing": (SMALL, 4, 256, CHECKPOINTED),
    "llama 34 M, 2 x 256, eager, foreach": (
        SMALL, 2, 256, {"attn_implementation": "eager", "optim": "adamw_torch"},
    ),
    "llama 34 M, 16 x 64, SGD": (SMALL, 16, 64, {"optim": "sgd"}),
    "llama 34 M LoRA, 4 x 256": (SMALL, 4, 256, LORA),
    "llama 34 M LoRA, 4 x 256, bfloat16": (SMALL, 4, 256, {**LORA, **HALF}),
    "llama 135 M LoRA, 1 x 128, checkpointing": (SMOL, 1, 128, {**LORA, **CHECKPOINTED}),
    "qwen2 88 M, 1 x 256": (QWEN, 1, 256, {}),
    "gpt2 17 M, 4 x 128": (GPT2, 4, 128, {}),
    "bert 11 M, 16 x 128": (BERT_SMALL, 16, 128, MASKED),
    "bert 110 M, 4 x 128": (BERT, 4, 128, MASKED),
    "vit 6 M, 8 images": (VIT, 8, 197, IMAGES),
    "vit 6 M, 8 images, autocast": (VIT, 8, 197, {**IMAGES, "bf16": True}),
}  # fmt: skip
"""Config, rows, tokens of each and what else the plan says."""


def question(name: str) -> tuple[dict[str, Any], TrainingPlan]:
    """A job's config and plan."""
    config, batch, length, values = JOBS[name]
    plan = TrainingPlan(
        use_cpu=True,
        per_device_train_batch_size=batch,
        max_length=length,
        **({"dtype": "float32", "optim": "adamw_torch_fused"} | values),
    )
    return config, plan


def predict(worker: Worker, machine: Any) -> dict[str, tuple[float, tuple[float, float]]]:
    """Seconds of a step of every job and their range, before anything is measured."""
    found = {}
    for name in JOBS:
        config, plan = question(name)
        model = ModelDescription(
            name=name,
            path="",
            config=config,
            model_type=config["model_type"],
            architecture="",
            num_parameters=0,
        )
        estimate = Estimator(worker, model=model, data=None, machine=machine).time(plan)
        if estimate.step_seconds is None:
            print(f"{name}: left out. {estimate.assumptions[-1]}", file=sys.stderr)
            continue
        assert estimate.step_seconds_interval is not None
        found[name] = estimate.step_seconds, estimate.step_seconds_interval
    return found


def measure(name: str) -> float:
    """Median seconds of a step of the real Trainer, in a forked child."""
    reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_train, args=(name, writer))
    child.start()
    writer.close()
    try:
        found = reader.recv()
    except EOFError:
        raise RuntimeError(f"{name}: the job's process ended without an answer") from None
    finally:
        child.join()
    if "error" in found:
        raise RuntimeError(f"{name}: {found['error']}")
    return found["step_seconds"]


def _train(name: str, answer: Any) -> None:
    from gpu import measure as real

    config, plan = question(name)
    values = plan.to_dict()
    if values.get("lora"):
        values["lora"] = {k: v for k, v in values["lora"].items() if v is not None}
    real.STEADY_SECONDS = 1.5
    try:
        found = real.measure({"model": {"config": config}, "plan": values}, "cpu")
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        answer.send({"error": f"{type(error).__name__}: {error}"})
    else:
        answer.send(found)


def report(keep: Path | None = None, rounds: int = ROUNDS) -> str:
    """A table of predicted and measured seconds.

    Args:
        keep: a file that holds the predictions and what was measured so far, to go on from.
        rounds: to measure now.
    """
    known = json.loads(keep.read_text()) if keep is not None and keep.exists() else {}
    if "predicted" not in known:
        worker = Worker()
        try:
            machine = probe_machine()
            if measurements.calibration() is None:
                measurements.calibrate()
            known = {"predicted": predict(worker, machine), "measured": {}}
        finally:
            worker.close()
    import_once()
    for _ in range(rounds):
        wait_until_quiet()
        for name in known["predicted"]:
            known["measured"].setdefault(name, []).append(measure(name))
            print(f"{name}: {known['measured'][name][-1]:.4f} s", file=sys.stderr, flush=True)
        if keep is not None:
            keep.write_text(json.dumps(known))
    return table(known["predicted"], known["measured"])


def table(
    predicted: dict[str, tuple[float, tuple[float, float]]], measured: dict[str, list[float]]
) -> str:
    """Markdown: a job a row, and the errors' median and p90 below."""
    lines = [
        "| job on this CPU | predicted | measured | error | in range |",
        "|---|---|---|---|---|",
    ]
    errors, held = [], 0
    for name, times in measured.items():
        expected, (low, high) = predicted[name]
        took = min(times)
        errors.append(100 * (expected / took - 1))
        held += low <= took <= high
        inside = "yes" if low <= took <= high else "no"
        cells = [name, _readable(expected), _readable(took), f"{errors[-1]:+.1f} %", inside]
        lines.append("| " + " | ".join(cells) + " |")
    if errors:
        sizes = sorted(map(abs, errors))
        said = (
            f"median **{statistics.median(sizes):.1f} %**, p90 {tables.percentile(sizes, 90):.1f} %"
        )
        lines.append(f"| {len(errors)} jobs | | | {said} | {held} of {len(errors)} |")
    return "\n".join(lines)


def wait_until_quiet(most_seconds: float = 60) -> None:
    """Until other programs leave the processors alone, or say that they do not."""
    end = time.monotonic() + most_seconds
    while True:
        foreign = Foreign()
        time.sleep(1)
        if foreign.processors() < measurements.BUSY:
            return
        if time.monotonic() > end:
            print("cpu_jobs: other programs run; what is measured may be too long", file=sys.stderr)
            return


def _readable(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def import_once() -> None:
    """What every child needs; no thread pool starts by it, so that forks are clean."""
    import importlib

    import transformers

    transformers.logging.set_verbosity_error()
    assert transformers.Trainer, "imports transformers.trainer"
    kinds = sorted({config["model_type"] for config, *_ in JOBS.values()})
    for name in ("peft", *(f"transformers.models.{kind}.modeling_{kind}" for kind in kinds)):
        importlib.import_module(name)


def main() -> None:
    """Predict, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="go on from this file, and leave all in it")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="to measure now")
    options = parser.parse_args()
    print(report(options.keep, options.rounds))


if __name__ == "__main__":
    main()
