"""Arguments that are each valid and cannot, or do not, work together or on this machine."""

import math
from collections.abc import Callable
from typing import Any

from advisor import training_arguments
from advisor.argument_checks import is_multiple
from advisor.errors import words
from advisor.hardware.machine import Machine
from advisor.review.finding import Draft
from advisor.review.names import known_fields
from advisor.rules.optimizer import package_of

NEEDED_PACKAGES = {
    "deepspeed": ("deepspeed",),
    "use_liger_kernel": ("liger_kernel",),
}
"""Argument -> package that it fails without."""
TRACKERS = {
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "clearml": ("clearml",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "trackio": ("trackio",),
    "dvclive": ("dvclive",),
    "codecarbon": ("codecarbon",),
}
"""Name in report_to -> packages of which one must be installed."""


def mend_combinations(
    draft: Draft, machine: Machine | None, is_installed: Callable[[str], bool]
) -> None:
    """Find and mend them; without a machine only what fails on every one."""

    def got(name: str) -> Any:
        return draft.values.get(name, known_fields()[name].default)

    _precision(draft, got, machine)
    _on_cpu(draft, got, machine)
    _evaluation(draft, got)
    _workers(draft, got)
    _overruled(draft, got)
    _packages(draft, got, is_installed)


Got = Callable[[str], Any]


def _precision(draft: Draft, got: Got, machine: Machine | None) -> None:
    gpu = machine.accelerator() if machine else None
    lacks_bf16 = gpu is not None and gpu.bf16_native is False
    for suffix in ("", "_full_eval"):
        bf16, fp16 = f"bf16{suffix}", f"fp16{suffix}"
        if got(bf16) and got(fp16):
            drop = bf16 if lacks_bf16 and not got("use_cpu") else fp16
            draft.mend("error", drop, words("review.both", first=bf16, second=fp16), {drop: None})
    if got("use_cpu") or gpu is None:
        return
    if got("bf16") and lacks_bf16:
        text, changes = words("review.bf16_gpu", name=gpu.name), {"bf16": None, "fp16": True}
        draft.say("advice", "bf16", True, text, changes)
    if got("tf32") and (gpu.compute_capability or (8, 0)) < (8, 0):
        draft.mend("error", "tf32", words("review.tf32_gpu", name=gpu.name), {"tf32": None})


def _on_cpu(draft: Draft, got: Got, machine: Machine | None) -> None:
    no_gpu = machine is not None and machine.accelerator() is None
    if not (got("use_cpu") or no_gpu):
        return
    for name in ("fp16", "fp16_full_eval", "fsdp", "tf32", "use_liger_kernel"):
        if not got(name):
            continue
        text = words("review.cpu") if got("use_cpu") else words("review.no_gpu")
        fails = name in ("tf32", "use_liger_kernel")
        changes = {name: None, **({"fsdp_config": None} if name == "fsdp" else {})}
        draft.mend("error" if fails else "warning", name, text, changes)
    if no_gpu and not got("use_cpu") and (got("bf16") or got("bf16_full_eval")):
        name = "bf16" if got("bf16") else "bf16_full_eval"
        changes = {"use_cpu": True}
        draft.say("error", name, True, words("review.bf16_cpu"), changes)
        draft.values.update(changes)


def _evaluation(draft: Draft, got: Got) -> None:
    evaluate, save = got("eval_strategy"), got("save_strategy")
    scheduler = got("lr_scheduler_type")
    if scheduler in ("reduce_lr_on_plateau", "greedy") and evaluate == "no":
        text = words("review.needs_evaluation", scheduler=scheduler)
        draft.mend("error", "eval_strategy", text, {"eval_strategy": "epoch"})
        evaluate = "epoch"
    if not got("load_best_model_at_end") or save == "best":
        return
    if evaluate != save:
        # The one that does something says when; both off can find no best model.
        new = evaluate if evaluate != "no" else save if save != "no" else "epoch"
        changes = {"eval_strategy": new, "save_strategy": new}
        text = words("review.strategies", evaluate=evaluate, save=save)
        draft.mend("error", "load_best_model_at_end", text, _changed(draft, got, changes))
        evaluate = new
    elif evaluate == "no":
        changes = {"load_best_model_at_end": None}
        draft.mend("warning", "load_best_model_at_end", words("review.no_best"), changes)
        return
    every = got("eval_steps") or got("logging_steps")
    if evaluate == "steps" and not is_multiple(got("save_steps"), every):
        steps = got("save_steps")
        near = max(math.ceil(steps / every), 1) * every if steps >= 1 <= every else every
        text = words("review.multiple", save=steps, evaluate=every)
        draft.mend("error", "save_steps", text, {"save_steps": near})


def _changed(draft: Draft, got: Got, changes: dict[str, Any]) -> dict[str, Any]:
    """Those changes that change something."""
    return {n: v for n, v in changes.items() if got(n) != v or n not in draft.values}


def _workers(draft: Draft, got: Got) -> None:
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if got(name) and not got("dataloader_num_workers"):
            draft.mend("error", name, words("review.workers"), {name: None})


def _overruled(draft: Draft, got: Got) -> None:
    if got("max_steps") > 0 and "num_train_epochs" in draft.values:
        text = words("review.max_steps", steps=got("max_steps"))
        draft.mend("warning", "num_train_epochs", text, {"num_train_epochs": None})
    if got("eval_strategy") == "no" and got("do_eval") is False and "eval_steps" in draft.values:
        draft.mend("warning", "eval_steps", words("review.no_evaluation"), {"eval_steps": None})
    if draft.values.get("do_eval") is False and got("eval_strategy") != "no":
        draft.mend("warning", "do_eval", words("review.do_eval"), {"do_eval": None})
    warmup = got("warmup_steps")
    if warmup > 1 and warmup != int(warmup):
        text = words("review.warmup_fraction")
        draft.mend("warning", "warmup_steps", text, {"warmup_steps": int(warmup)})
    if isinstance(got("fsdp"), str) and got("fsdp"):
        draft.mend(
            "change",
            "fsdp",
            words("review.fsdp_text"),
            {
                "fsdp": True,
                "fsdp_config": {
                    **_fsdp_options(got("fsdp")),
                    **(got("fsdp_config") if isinstance(got("fsdp_config"), dict) else {}),
                },
            },
        )
    kwargs = got("activation_checkpointing_kwargs")
    if isinstance(kwargs, dict) and kwargs.get("use_reentrant"):
        changes = {"activation_checkpointing_kwargs": {**kwargs, "use_reentrant": False}}
        text = words("review.use_reentrant")
        draft.say("advice", "activation_checkpointing_kwargs", kwargs, text, changes)


def _fsdp_options(text: str) -> dict[str, Any]:
    """The words of the old text as keys of fsdp_config, as the class translates them."""
    words_of = text.split()
    result: dict[str, Any] = {}
    if "shard_grad_op" in words_of or "hybrid_shard_zero2" in words_of:
        result["reshard_after_forward"] = False
    if "offload" in words_of:
        result["cpu_offload"] = True
    return result


def _packages(draft: Draft, got: Got, is_installed: Callable[[str], bool]) -> None:
    for name, packages in NEEDED_PACKAGES.items():
        if got(name) and not any(map(is_installed, packages)):
            text = words("review.package", package=packages[0])
            draft.mend("error", name, text, {name: None})
    optim = got("optim")
    needs = package_of(optim)
    if needs and not is_installed(needs):
        text = words("review.package", package=needs)
        default = training_arguments.fields()["optim"].default
        draft.mend("error", "optim", text, {"optim": default})
    trackers = got("report_to")
    asked = [trackers] if isinstance(trackers, str) else list(trackers or ())
    lacking = [t for t in asked if t in TRACKERS and not any(map(is_installed, TRACKERS[t]))]
    if lacking:
        kept = [t for t in asked if t not in lacking]
        text = words("review.tracker", names=lacking)
        draft.mend("error", "report_to", text, {"report_to": kept or "none"})
