"""Measure what a training step's operators cost on this CPU, inside real steps.

Run as `python -m advisor.simulate.cpu_probe` it prints JSON lines: {"progress": [name, values]}
and at last {"result": cpu_time.CpuTables as a dict}. In a process of its own: real training starts
thread pools and takes memory.

Small models of several kinds are trained for a few steps under the recorder, which takes the time
of every operator: caches, fresh memory and threads are those of a step, not of a loop over one
operator. What Python and autograd add comes from models too small to compute, the Trainer's own
work from a real Trainer.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from advisor.cpu_time import fit_attention, fit_matmul, tabulate
from advisor.hardware.load import Foreign
from advisor.plan import LoraSettings, TrainingPlan
from advisor.rates import HOST_SECONDS
from advisor.simulate.profile import KINDS, PHASES, Structure, structure_of

REPEATS = 3
"""Steady steps of each job; an operator's time is their median."""
QUIET = 0.05
"""Processors that other programs may use; a job that was disturbed more is repeated."""
MOST_SECONDS = 18
"""After which nothing is repeated."""
MOST_JOB_SECONDS = 2.0
"""Expected of a job in 16 bits, above which it is left out: this processor only emulates them."""


def _llama(width: int, inner: int, layers: int, vocabulary: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocabulary,
    }


_BERT = {
    "model_type": "bert",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "vocab_size": 8192,
}
_GPT2 = {
    "model_type": "gpt2",
    "n_embd": 512,
    "n_layer": 2,
    "n_head": 8,
    "vocab_size": 8192,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_VIT = {
    "model_type": "vit",
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
}
_TINY = _llama(16, 32, 4, 32, 2)
_LORA = {"method": "lora", "lora": LoraSettings(r=8)}
_PRECISIONS: dict[str, dict[str, Any]] = {
    "single": {},
    "autocast": {"bf16": True},
    "half": {"bf16": True, "dtype": "bfloat16"},
}
_EVERY = tuple(_PRECISIONS)
_ANCHORS = (
    (_llama(256, 688, 4, 2048, 4), 4, 128, 24),
    (_llama(640, 1728, 2, 4096, 10), 2, 256, 12),
)
"""Config, rows, tokens and steps of what the real Trainer trains."""
_JOBS: tuple[tuple[dict[str, Any], int, int, tuple[str, ...], dict[str, Any]], ...] = (
    (_llama(64, 176, 2, 512, 2), 2, 64, _EVERY, {}),
    (_llama(256, 688, 2, 2048, 4), 4, 128, _EVERY, {}),
    (_llama(256, 1024, 1, 512, 4), 2, 1024, _EVERY, {}),
    (_llama(768, 2048, 1, 4096, 12), 2, 256, _EVERY, {}),
    (_llama(1024, 2816, 1, 32768, 16), 1, 64, _EVERY, {}),
    (_llama(64, 176, 1, 32768, 2), 4, 128, _EVERY, {}),
    (_BERT, 8, 128, _EVERY, {"task": "masked-lm", "attention_mask": True}),
    (_BERT, 4, 128, ("single",), {"task": "masked-lm", "attn_implementation": "eager"}),
    (_GPT2, 2, 256, ("single", "autocast"), {"optim": "adamw_torch"}),
    (_VIT, 4, 197, ("single", "autocast"), {"task": "image-classification"}),
    (_llama(512, 1376, 2, 4096, 8), 2, 256, ("single", "half"), _LORA),
)
"""Config, rows, tokens, precisions and further values of the plan."""


def measure(progress: Callable[[str, dict[str, Any]], None]) -> dict[str, Any]:
    """Everything, as the fields of CpuTables."""
    import torch

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    deadline = time.monotonic() + MOST_SECONDS
    slower = _half_over_single()
    jobs: list[tuple[Structure, int, int]] = []
    passes: list[_Pass] = []
    for number, (config, batch, length, precisions, values) in enumerate(_JOBS, 1):
        progress("calibrate.step", {"number": number, "count": len(_JOBS)})
        took = 0.0
        for name in precisions:
            if number > 1 and name != "single" and slower * took > MOST_JOB_SECONDS:
                continue
            job = (
                _structure(config, batch, length, {**_PRECISIONS[name], **values}),
                batch,
                length,
            )
            start = time.monotonic()
            passes.append(observe(*job))
            jobs.append(job)
            took = took or time.monotonic() - start
    disturbed = [i for i, found in enumerate(passes) if found.foreign > QUIET]
    for i in sorted(disturbed, key=lambda i: -passes[i].foreign):
        if time.monotonic() < deadline:
            progress("calibrate.again", {})
            passes[i] = min(passes[i], observe(*jobs[i]), key=lambda found: found.foreign)
    rows = [row for found in passes for row in found.timed()]
    progress("calibrate.trainer", {})
    host = _host()
    return {
        "curves": tabulate(rows),
        "matmul": fit_matmul(rows),
        "attention": fit_attention(rows),
        "host_seconds": host,
        "in_situ": _in_situ(host),
        "half_known": len(jobs) == sum(len(precisions) for _, _, _, precisions, _ in _JOBS),
        "num_threads": torch.get_num_threads(),
        "spread": float(np.median([found.spread() for found in passes])),
        "foreign": float(np.mean([found.foreign for found in passes])),
    }


def _half_over_single() -> float:
    """How much longer a matmul of a backward takes in 16 bits: many times where it is emulated."""
    import torch

    took = []
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.ones(256, 256, dtype=dtype) for _ in range(2))
        left @ right
        start = time.perf_counter()
        left @ right
        took.append(time.perf_counter() - start)
    return took[0] / took[1]


def _structure(
    config: dict[str, Any], batch: int, length: int, values: dict[str, Any]
) -> Structure:
    plan = TrainingPlan(
        use_cpu=True, per_device_train_batch_size=batch, max_length=length, **values
    )
    return structure_of(plan, config, None)


_Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """The operators of a job's steps."""

    rows: list[_Row]
    """Of one step; without seconds."""
    seconds: np.ndarray
    """(REPEATS, rows)."""
    foreign: float
    """Processors that other programs used meanwhile."""

    def timed(self) -> list[_Row]:
        """The operators with their seconds."""
        pairs = zip(self.rows, np.median(self.seconds, axis=0), strict=True)
        return [{**row, "seconds": float(middle)} for row, middle in pairs if row["operator"]]

    def spread(self) -> float:
        """By how much the steps differed."""
        whole = self.seconds.sum(axis=1)
        return float(whole.max() / whole.min() - 1)


def observe(structure: Structure, batch: int, length: int) -> _Pass:
    """The operators of real steps with their seconds."""
    from advisor.simulate.step import record

    depth = structure.depth() or 1
    meter = Foreign()
    trace = record(structure, depth=depth, batch=batch, length=length, real=True, repeats=REPEATS)
    foreign = meter.processors()
    count = len(trace.kernels) // REPEATS
    steps = [trace.kernels[i * count : (i + 1) * count] for i in range(REPEATS)]
    rows = [
        {
            "operator": k.operator,
            "kind": KINDS[k.kind],
            "half": k.half,
            "phase": PHASES[k.phase],
            "by_python": k.by_python,
            "launches": k.num_launches,
            "views": k.num_views,
            "flops": k.flops,
            "num_bytes": k.num_bytes,
            "dims": k.dims,
        }
        for k in steps[0]
    ]
    seconds = np.array([[k.seconds for k in step] for step in steps])
    return _Pass(rows=rows, seconds=seconds, foreign=foreign)


def _host() -> dict[str, float]:
    """Seconds of Python and autograd for each operator, and of the Trainer for each micro-batch.

    From models too small to compute: what is left of their steps when the operators' own time is
    taken away grows with the number of operators, and the Trainer's share does not.
    """
    shallow, deep = (_around_operators(layers) for layers in (2, 10))
    weight, left = (np.array(pair) for pair in zip(shallow, deep, strict=True))
    factor = max((left[1] - left[0]) / (weight[1] - weight[0]), 0.0)
    scaled = {name: factor * HOST_SECONDS[name] for name in ("forward", "backward", "view")}
    scaled = {name: float(value) for name, value in scaled.items()}
    return scaled | {"step": float(max(left[0] - factor * weight[0], 0.0))}


def _in_situ(host: dict[str, float]) -> float:
    """By how much operators take longer in steps of the real Trainer than under the recorder.

    What is left of a step when Python's, autograd's and the Trainer's own time is taken away, over
    the operators' recorded time; the mean. cpu_time.py scales the operators by it.
    """
    ratios = []
    for config, batch, length, steps in _ANCHORS:
        found = observe(_structure(config, batch, length, {}), batch, length)
        around = host["step"]
        for row in found.rows:
            phase = "forward" if row["by_python"] else "backward"
            around += host[phase] * row["launches"] + host["view"] * row["views"]
        operators = sum(row["seconds"] for row in found.timed())
        ratios.append((trainer_step(config, batch, length, {}, steps) - around) / operators)
    return float(np.exp(np.mean(np.log(np.maximum(ratios, 0.1)))))


def _around_operators(layers: int) -> tuple[float, float]:
    """A tiny model's operators in units of HOST_SECONDS, and its step without their own time."""
    config = {**_TINY, "num_hidden_layers": layers}
    structure = _structure(config, 2, 16, {})
    from advisor.simulate.step import record

    trace = record(structure, depth=layers, batch=2, length=16, real=True)
    weight = inside = 0.0
    for k in trace.kernels:
        phase = "forward" if k.by_python else "backward"
        weight += HOST_SECONDS[phase] * k.num_launches + HOST_SECONDS["view"] * k.num_views
        inside += k.seconds
    return weight, trainer_step(config, 2, 16, {}) - inside


def trainer_step(
    config: dict[str, Any], batch: int, length: int, values: dict[str, Any], steps: int = 24
) -> float:
    """Median seconds of a step of the real Trainer, after the first quarter; a GPU's mean."""
    import tempfile

    import torch
    import transformers

    class Clock(transformers.TrainerCallback):
        times: list[float]

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if torch.cuda.is_initialized():  # a GPU is asked twice only: the host runs ahead of it
                if state.global_step not in (steps // 4, steps):
                    return
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    chosen: dict[str, Any] = {"use_cpu": True, **values}
    settings = dict(config)
    model_type = settings.pop("model_type")
    hf = transformers.AutoConfig.for_model(model_type, use_cache=False, **settings)
    model = transformers.AutoModelForCausalLM.from_config(hf)
    ids = torch.randint(0, config["vocab_size"], (length,))
    rows: Any = [{"input_ids": ids, "labels": ids}] * (batch * steps)
    clock = Clock()
    clock.times = []
    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=batch,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **chosen,
        )
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            callbacks=[clock],
        )
        trainer.train()
    if len(clock.times) == 2:
        return (clock.times[1] - clock.times[0]) / (steps - steps // 4)
    return float(np.median(np.diff(clock.times)[steps // 4 :]))


def main() -> None:
    """Measure, and print what was found."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not reach the protocol

    def say(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    say({"result": measure(lambda name, values: say({"progress": [name, values]}))})


if __name__ == "__main__":
    main()
