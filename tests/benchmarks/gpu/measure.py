"""Train one configuration for a few steps through transformers.Trainer and measure it.

Touches the device; run in a process of its own.
"""

import dataclasses
import statistics
import tempfile
import time
from typing import Any

from gpu import device as devices

WARM_STEPS = 2
"""Steps before the peaks are reset: optimizer states exist and the allocator has settled."""
MOST_STEPS = 12
MOST_SKIPPED = 20
STEADY_SECONDS = 2.0
"""Steady steps are repeated for about this long, at least three, then one more for the phases."""
AUTO_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "summarization": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
}


def measure(configuration: dict[str, Any], device: str) -> dict[str, Any]:
    """The `measured` object of a configuration: bytes, seconds and the verdict.

    Out of memory is a measurement; every other error is raised.
    """
    import torch

    meter = Meter(device)
    try:
        _train(configuration, device, meter)
    except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
        is_oom = isinstance(error, torch.cuda.OutOfMemoryError)
        if not is_oom and "ALLOC_FAILED" not in str(error):  # cuBLAS has words of its own for it
            raise
        return {"verdict": "oom", "message": str(error)[:400], **meter.at_end()}
    return {"verdict": "fits" if device == "cuda" else None, **meter.result()}


class Meter:
    """Memory and time of the steps; a CPU has times only."""

    def __init__(self, device: str) -> None:
        """Make the CUDA context, and measure what it takes."""
        import torch

        self.is_cuda = device == "cuda"
        self.device = device
        self.step_seconds: list[float] = []
        self.phases: dict[str, int] = {}
        self.skipped = 0
        self.phase_step: int | None = None
        """Steps done when the phases of the next one are to be measured."""
        self.values: dict[str, Any] = {}
        self._cuda = torch.cuda
        self._overall = [0, 0]
        self._started = time.perf_counter()
        self._before = devices.device_used_bytes() if self.is_cuda else None
        if self.is_cuda:
            torch.cuda.init()
            torch.cuda.synchronize()
            self.values |= self._process("context_bytes", subtract=torch.cuda.memory_reserved())

    def begin(self) -> None:
        """Start the clock of a step, unless the one before it did."""
        devices.synchronize(self.device)
        self._started = time.perf_counter()

    def end(self, step: int) -> None:
        """A step is done: its time; after the warm ones the peaks begin anew."""
        devices.synchronize(self.device)
        now = time.perf_counter()
        if step > WARM_STEPS:
            self.step_seconds.append(now - self._started)
        self._started = now
        if self.is_cuda and step == WARM_STEPS:
            self._note_overall()
            self._cuda.reset_peak_memory_stats()

    def skip(self, step: int) -> None:
        """The loss scaler skipped the optimizer: the next step is measured instead."""
        self.skipped += 1
        if self.phase_step is not None:
            self.phase_step = step
            self.phases.clear()
        self.begin()

    def steady(self) -> None:
        """Read the peaks of the steady steps, and the process; they begin anew for the phases."""
        if not self.is_cuda:
            return
        self._note_overall()
        self.values["allocated_bytes"] = self._cuda.max_memory_allocated()
        self.values["reserved_bytes"] = self._cuda.max_memory_reserved()
        self.values["resident_bytes"] = self._cuda.memory_allocated()
        self.values["reserved_at_end_bytes"] = self._cuda.memory_reserved()
        self.values["num_alloc_retries"] = self._cuda.memory_stats().get("num_alloc_retries")
        self.values |= self._process("process_bytes")
        process = self.values["process_bytes"]
        if process is not None:
            context = process - self._cuda.memory_reserved()
            self.values["context_at_end_bytes"] = context
        self._cuda.reset_peak_memory_stats()

    def phase(self, name: str) -> None:
        """A phase of the last step ended."""
        if self.is_cuda:
            peak = self._cuda.max_memory_allocated()
            self.phases[name] = max(self.phases.get(name, 0), peak)
            self._cuda.reset_peak_memory_stats()

    def at_end(self) -> dict[str, Any]:
        """What is known after running out of memory."""
        if self.is_cuda:
            self._note_overall()
        return {
            "overall_allocated_bytes": self._overall[0] or None,
            "overall_reserved_bytes": self._overall[1] or None,
            "context_bytes": self.values.get("context_bytes"),
            "context_bytes_source": self.values.get("context_bytes_source"),
        }

    def result(self) -> dict[str, Any]:
        """All figures; null where there is no GPU."""
        names = ("allocated_bytes", "reserved_bytes", "process_bytes")
        return (
            dict.fromkeys(names)
            | self.at_end()
            | self.values
            | {
                "phases": self.phases or None,
                "skipped_steps": self.skipped,
                "step_seconds": statistics.median(self.step_seconds),
                "step_seconds_all": self.step_seconds,
            }
        )

    def _note_overall(self) -> None:
        peaks = (self._cuda.max_memory_allocated(), self._cuda.max_memory_reserved())
        self._overall = [max(pair) for pair in zip(self._overall, peaks, strict=True)]

    def _process(self, name: str, subtract: int = 0) -> dict[str, Any]:
        """This process on the device: by its id, or by what the whole device gained since."""
        used, source = devices.process_bytes(), "by process id"
        if used is None:
            now, source = devices.device_used_bytes(), "device total less before"
            used = None if now is None or self._before is None else now - self._before
        source = source if used is not None else None
        return {name: None if used is None else used - subtract, f"{name}_source": source}


def _train(configuration: dict[str, Any], device: str, meter: Meter) -> None:
    import transformers

    plan = configuration["plan"]
    transformers.set_seed(0)
    model = build(configuration)
    rows, steps = Rows(configuration), _callback(meter)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = transformers.Trainer(
            model=model,
            args=_arguments(plan, device, scratch),
            train_dataset=rows,
            data_collator=_stack,
            callbacks=[steps],
        )
        steps.trainer = trainer
        trainer.remove_callback(transformers.PrinterCallback)
        _fill(model)

        def before_forward(module: Any, inputs: Any) -> None:
            if trainer.state.global_step == meter.phase_step and meter.phases:
                meter.phase("backward")  # of the micro-batch before

        def after_forward(module: Any, inputs: Any, output: Any) -> None:
            if trainer.state.global_step == meter.phase_step:
                meter.phase("forward")

        trainer.model.register_forward_pre_hook(before_forward)
        trainer.model.register_forward_hook(after_forward)
        trainer.train()
    devices.synchronize(device)


def build(configuration: dict[str, Any]) -> Any:
    """The model on the CPU, its weights not filled: Trainer moves it, `_fill` fills it there."""
    import torch
    import transformers

    plan, config = configuration["plan"], dict(configuration["model"]["config"])
    settings = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    settings.use_cache = False
    auto = getattr(transformers, AUTO_CLASSES[plan["task"]])
    dtype = getattr(torch, plan["dtype"])
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    with _unfilled():
        model = auto.from_config(
            settings, attn_implementation=plan["attn_implementation"], **{name: dtype}
        )
    if plan["lora"]:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(**plan["lora"]))
    return model


class _unfilled:  # noqa: N801 - a context manager
    """Leave weights as they are allocated: filling 8 B of them on a CPU takes a minute."""

    def __enter__(self) -> None:
        import torch
        import transformers

        init = torch.nn.init
        self._kept = []
        names = ("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_")
        names += ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_")
        for name in names:
            self._swap(init, name, lambda tensor, *_, **__: tensor)
        for name in ("initialize_weights", "_initialize_weights"):
            if hasattr(transformers.PreTrainedModel, name):
                self._swap(transformers.PreTrainedModel, name, lambda *_, **__: None)

    def _swap(self, owner: Any, name: str, new: Any) -> None:
        self._kept.append((owner, name, getattr(owner, name)))
        setattr(owner, name, new)

    def __exit__(self, *_: Any) -> None:
        for owner, name, old in self._kept:
            setattr(owner, name, old)


def _fill(model: Any) -> None:
    """Random weights, in place on the device: no tensor is made."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.02)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)


class Rows:
    """A data set of equal rows of full length."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        """Make one row."""
        import torch

        plan, config = configuration["plan"], configuration["model"]["config"]
        generator = torch.Generator().manual_seed(0)
        if plan["task"] == "image-classification":
            side = config["image_size"]
            pixels = torch.rand(config["num_channels"], side, side, generator=generator)
            self.row = {"pixel_values": pixels, "labels": torch.tensor(1)}
            return
        length = plan["max_length"]
        ids = torch.randint(3, config["vocab_size"], (length,), generator=generator)
        mask = torch.ones(length, dtype=torch.int64)
        if plan.get("attention_mask"):
            mask[-1] = 0  # padded
        self.row = {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.row


def _stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _arguments(plan: dict[str, Any], device: str, scratch: str) -> Any:
    import transformers

    known = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    wanted = {
        "output_dir": scratch,
        "max_steps": WARM_STEPS + MOST_STEPS + 1 + MOST_SKIPPED,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": 0,
        "use_cpu": device == "cpu",
    }
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16")
    wanted |= {name: plan[name] for name in (*names, "optim", "max_grad_norm")}
    if plan["activation_checkpointing"]:
        word = "activation" if "activation_checkpointing" in known else "gradient"
        wanted[f"{word}_checkpointing"] = True
        wanted[f"{word}_checkpointing_kwargs"] = {"use_reentrant": False}
    return transformers.TrainingArguments(**wanted)


def _callback(meter: Meter) -> Any:
    import transformers

    class Steps(transformers.TrainerCallback):
        """Steady steps until there are enough, then one whose phases are measured.

        Steps that the loss scaler skips, for an overflow, count for nothing: no optimizer ran.
        """

        def __init__(self) -> None:
            self.trainer: Any = None
            self.done = 0
            self.steady_started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                meter.begin()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == meter.phase_step:
                meter.phase("backward")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if getattr(self.trainer.accelerator, "optimizer_step_was_skipped", False):
                meter.skip(state.global_step)
                return
            if meter.phase_step is not None:
                meter.phase("optimizer")
                control.should_training_stop = True
                return
            self.done += 1
            meter.end(self.done)
            if self.done == WARM_STEPS:
                self.steady_started = time.perf_counter()
            steady = self.done - WARM_STEPS
            spent = time.perf_counter() - self.steady_started
            if steady >= 3 and (spent > STEADY_SECONDS or steady >= MOST_STEPS):
                meter.steady()
                meter.phase_step = state.global_step

    return Steps()
