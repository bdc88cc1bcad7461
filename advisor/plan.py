"""TrainingPlan: every choice that changes memory, time or learning; frozen, validated.

Names are `TrainingArguments` names where one exists (transformers 5.23), and so are the defaults:
a plan built from nothing is what `TrainingArguments()` would train.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from advisor import records
from advisor.errors import PlanError, words
from advisor.locale import Message
from advisor.tasks import find_task

Method = Literal["full", "lora", "qlora"]
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

_AT_LEAST_0, _AT_LEAST_1 = words("words.at_least", least=0), words("words.at_least", least=1)
_ABOVE_0 = words("words.above", limit=0)
_SHARE = words("words.within", range="[0, 1)")
_FINITE = words("words.finite")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Adapter settings; field names are `peft.LoraConfig`'s."""

    r: int = 16
    """Rank of the adapters."""
    lora_alpha: int = 32
    """Scale: the update is multiplied by lora_alpha / r."""
    lora_dropout: float = 0.0
    """Dropout on the adapter's input, 0..1."""
    target_modules: tuple[str, ...] | str = "all-linear"
    """Module names the adapters sit on, or "all-linear"."""
    use_dora: bool = False
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise PlanError("plan.lora_rank", got=self.r, field="lora.r")
        if not 0 <= self.lora_dropout < 1:
            raise PlanError("plan.lora_dropout", got=self.lora_dropout, field="lora.lora_dropout")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantised loading; field names are `BitsAndBytesConfig`'s."""

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_compute_dtype: Dtype = "bfloat16"

    def __post_init__(self) -> None:
        if self.load_in_4bit == self.load_in_8bit:
            raise PlanError("plan.one_quantization", field="quantization")


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Which layers are recomputed and where their inputs wait; names are `Trainer`'s."""

    every_n_layers: int = 1
    """Every n-th layer is checkpointed, the others keep their activations."""
    offload: bool = False
    """What is kept for the recomputation waits in pinned host memory."""

    def __post_init__(self) -> None:
        if self.every_n_layers < 1:
            raise PlanError(
                "plan.every_n_layers",
                got=self.every_n_layers,
                field="activation_checkpointing_kwargs.every_n_layers",
            )


@dataclass(frozen=True, kw_only=True)
class LigerKernels:
    """Which of Liger's operators run; names are those of `liger_kernel_config`, None its default.

    A name that a model type does not have is passed by, as Liger does.
    """

    rope: bool | None = None
    rms_norm: bool | None = None
    swiglu: bool | None = None
    geglu: bool | None = None
    cross_entropy: bool | None = None
    fused_linear_cross_entropy: bool | None = None


@dataclass(frozen=True, kw_only=True)
class FsdpConfig:
    """FSDP2; field names are those of TrainingArguments' `fsdp_config`."""

    version: Literal[2] = 2
    reshard_after_forward: bool = True
    """Gathered weights go after a block's forward and are gathered again for its backward."""
    activation_checkpointing: bool = False
    """FSDP's own; stands in the place of the argument of that name."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What is trained, how, and on how many devices."""

    task: str = "causal-lm"
    """A slug of `advisor.tasks`."""
    method: Method = "full"
    lora: LoraSettings | None = None
    """Adapter settings; set if and only if the method is lora or qlora."""
    quantization: Quantization | None = None
    """Quantised loading; set if and only if the method is qlora."""
    dtype: Dtype = "float32"
    """The dtype the weights are *loaded* in.

    `bf16`/`fp16` below switch autocast on, which is another thing.
    """
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    max_length: int = 1024
    """Rows are cut here, in tokens. Memory is sized on the longest batch this allows."""
    attention_mask: bool = False
    """Whether batches are padded, so that the model gets a mask that is not all ones."""
    packing: bool = False
    """Texts, an end-of-text token after each, are one stream, cut into rows of max_length tokens.

    Every row is full and the borders of texts are not respected (TRL's `packing_strategy` wrapped).
    """
    padding_free: bool = False
    """A batch's rows are one row whose position_ids start anew (DataCollatorWithFlattening)."""
    offload: Literal["none"] = "none"
    devices: int = 1
    """Data-parallel devices; more than one without `fsdp` are replicas (DDP)."""
    use_cpu: bool = False
    fsdp: bool | None = None
    """Weights, gradients and optimizer states are sharded over the devices (FSDP2)."""
    fsdp_config: FsdpConfig | None = None
    ddp_bucket_cap_mb: int | None = None
    """Gradients that replicas send together, MiB; None is 25."""
    ddp_find_unused_parameters: bool | None = None
    """None as Trainer decides."""

    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    num_train_epochs: float | None = 3.0
    """Passes over the data; None when max_steps decides."""
    max_steps: int = -1
    """Optimizer steps; above 0 it wins over num_train_epochs."""
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """0 switches clipping off."""
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.0
    """Below 1 a share of all steps, from 1 on a number of steps."""
    optim: str = "adamw_torch_fused"
    optim_args: str | None = None
    """Options of some optimizers: key=value pairs, divided by commas."""
    optim_target_modules: tuple[str, ...] | str | None = None
    """Modules whose weights a low-rank optimizer projects; a regular expression or "all-linear"."""
    bf16: bool = False
    fp16: bool = False
    tf32: bool | None = None
    use_liger_kernel: bool = False
    liger_kernel_config: LigerKernels | None = None
    """Liger's Triton operators in the place of the model's own, with Liger's defaults."""
    activation_checkpointing: bool = False
    activation_checkpointing_kwargs: Checkpointing | None = None
    """None checkpoints every layer on the device; without effect where checkpointing is off."""
    logging_steps: int = 500
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    eval_steps: int | None = None
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_steps: int = 500
    save_total_limit: int | None = None
    dataloader_num_workers: int = 0
    dataloader_pin_memory: bool = True
    dataloader_prefetch_factor: int | None = None
    dataloader_persistent_workers: bool = False
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = "random"
    seed: int = 42

    def __post_init__(self) -> None:
        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "max_length",
            "devices",
            "logging_steps",
            "save_steps",
        ):
            _require(getattr(self, name) >= 1, name, _AT_LEAST_1, getattr(self, name))
        _require(self.learning_rate > 0, "learning_rate", _ABOVE_0, self.learning_rate)
        _require(self.weight_decay >= 0, "weight_decay", _AT_LEAST_0, self.weight_decay)
        _require(self.warmup_steps >= 0, "warmup_steps", _AT_LEAST_0, self.warmup_steps)
        _require(self.max_grad_norm >= 0, "max_grad_norm", _AT_LEAST_0, self.max_grad_norm)
        for name in ("adam_beta1", "adam_beta2"):
            _require(0 <= getattr(self, name) < 1, name, _SHARE, getattr(self, name))
        _require(
            self.dataloader_num_workers >= 0,
            "dataloader_num_workers",
            _AT_LEAST_0,
            self.dataloader_num_workers,
        )
        for name in (
            "learning_rate",
            "weight_decay",
            "warmup_steps",
            "max_grad_norm",
            "adam_epsilon",
        ):
            _require(math.isfinite(getattr(self, name)), name, _FINITE, getattr(self, name))
        if self.max_steps <= 0 and (self.num_train_epochs is None or not self.num_train_epochs > 0):
            raise PlanError(
                "plan.duration",
                epochs=self.num_train_epochs,
                steps=self.max_steps,
                field="num_train_epochs",
            )
        if self.bf16 and self.fp16:
            raise PlanError("plan.bf16_fp16", field="fp16")
        if self.fp16 and self.use_cpu:
            raise PlanError("plan.fp16_cpu", field="fp16")
        if self.use_liger_kernel and self.use_cpu:
            raise PlanError("plan.liger_cpu", field="use_liger_kernel")
        if self.fp16 and self.dtype == "float16" and self.method == "full":
            raise PlanError("plan.fp16_weights", field="dtype")
        if (self.lora is not None) != (self.method in ("lora", "qlora")):
            raise PlanError(
                "plan.lora_settings", method=self.method, needs=_needs(self.lora), field="lora"
            )
        if (self.quantization is not None) != (self.method == "qlora"):
            raise PlanError(
                "plan.quantization",
                method=self.method,
                needs=_needs(self.quantization),
                field="quantization",
            )
        if self.dataloader_num_workers == 0 and (
            self.dataloader_prefetch_factor is not None or self.dataloader_persistent_workers
        ):
            raise PlanError("plan.workers", field="dataloader_num_workers")
        check_batches(
            packing=self.packing,
            padding_free=self.padding_free,
            task=self.task,
            attn_implementation=self.attn_implementation,
        )
        if self.attention_mask and (self.packing or self.padding_free):
            raise PlanError("plan.no_padding", field="attention_mask")
        self._check_parallel()

    def _check_parallel(self) -> None:
        if self.fsdp and self.use_cpu:
            raise PlanError("plan.fsdp_cpu", field="fsdp")
        if self.fsdp_config is not None and not self.fsdp:
            raise PlanError("plan.fsdp_config", field="fsdp_config")
        if self.sharded().activation_checkpointing and self.activation_checkpointing:
            raise PlanError("plan.fsdp_checkpointing", field="activation_checkpointing")
        cap = self.ddp_bucket_cap_mb
        _require(cap is None or cap >= 1, "ddp_bucket_cap_mb", _AT_LEAST_1, cap)

    def sharded(self) -> FsdpConfig:
        """`fsdp_config` or its defaults."""
        return self.fsdp_config or FsdpConfig()

    def is_sharded(self) -> bool:
        """Whether FSDP2 changes the step: one device holds everything anyway."""
        return bool(self.fsdp) and self.devices > 1

    def is_replicated(self) -> bool:
        """Whether Trainer wraps the model into DistributedDataParallel."""
        return not self.fsdp and self.devices > 1

    def finds_unused_parameters(self) -> bool:
        """As Trainer asks DDP to (trainer.py, _build_accelerator_args): a PEFT model always."""
        if self.ddp_find_unused_parameters is not None:
            return self.ddp_find_unused_parameters
        return self.method != "full" or not self.activation_checkpointing

    def replace(self, **changes: Any) -> "TrainingPlan":
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)

    def effective_batch_size(self) -> int:
        """Rows per optimizer step over all devices."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.devices

    def updates_per_epoch(self, num_rows: int) -> int:
        """Optimizer steps in one pass over `num_rows` rows.

        Counted as transformers.Trainer does.
        """
        batches = math.ceil(num_rows / (self.per_device_train_batch_size * self.devices))
        return max(math.ceil(batches / self.gradient_accumulation_steps), 1)

    def optimizer_steps(self, num_rows: int) -> int:
        """Optimizer steps of the whole run over `num_rows` training rows."""
        if self.max_steps > 0:
            return self.max_steps
        assert self.num_train_epochs is not None
        return math.ceil(self.num_train_epochs * self.updates_per_epoch(num_rows))

    def epochs(self, num_rows: int) -> float:
        """Passes over `num_rows` rows, whichever of max_steps and num_train_epochs decides."""
        if self.max_steps > 0:
            return self.max_steps / self.updates_per_epoch(num_rows)
        assert self.num_train_epochs is not None
        return self.num_train_epochs

    def tokens_per_update(self, mean_tokens: float) -> float:
        """Tokens the optimizer sees a step, for rows of `mean_tokens` tokens on average."""
        return self.effective_batch_size() * mean_tokens

    def warmup_updates(self, num_rows: int) -> int:
        """Warm-up in optimizer steps, resolved as TrainingArguments.get_warmup_steps does."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(self.warmup_steps * self.optimizer_steps(num_rows))

    def pad_to_multiple_of(self) -> int | None:
        """Tokens a padded batch is rounded up to.

        CUDA's attention kernels take masks of multiples of 16.
        """
        return 16 if self.attention_mask and not self.use_cpu else None

    def to_dict(self) -> dict[str, Any]:
        """The `plan` object of SPEC, plan.json and the UI's state."""
        return records.encode(self)

    @staticmethod
    def from_dict(data: Any) -> "TrainingPlan":
        """Read a `plan` object; fields left out take TrainingArguments' defaults.

        Raises:
            InputError: an unknown or ill-typed field.
            PlanError: values that cannot run together.
        """
        return records.decode(TrainingPlan, data, "plan")


def check_batches(
    *, packing: bool, padding_free: bool, task: str, attn_implementation: str
) -> None:
    """Whether batches can be made like this, of a plan or of an arguments file.

    Raises:
        PlanError: another task than causal-lm, both at once (packed rows have no padding; TRL warns
            of it), or attention that needs a mask to keep rows apart.
    """
    name = "packing" if packing else "padding_free"
    if (packing or padding_free) and not find_task(task).ends_texts:
        raise PlanError("plan.packing_task", name=name, task=task, field=name)
    if packing and padding_free:
        raise PlanError("plan.packing_twice", field="padding_free")
    if padding_free and attn_implementation != "flash_attention_2":
        raise PlanError("plan.padding_free", got=attn_implementation, field="padding_free")


def _require(holds: bool, name: str, rule: Message, got: Any) -> None:
    if not holds:
        raise PlanError("plan.value", rule=rule, got=got, field=name)


def _needs(settings: object | None) -> Message:
    return words("words.needs") if settings is None else words("words.takes_no")
