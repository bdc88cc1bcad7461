"""fitcheck-llm, another estimator, on the same questions.

Installed from PyPI into a virtual environment of its own under the cache directory, since nothing
else needs it. Run by that environment's Python, this file reads questions on stdin and answers
them; a question it refuses gets the reason instead.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = "0.3.1"
MIB = 2**20
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_bnb_8bit": "adam8bit",
    "sgd": "sgd",
}
_CARDS = {
    "T4": "t4",
    "V100-SXM2-16GB": "v100-16",
    "A100-SXM4-40GB": "a100-40",
    "A100-SXM4-80GB": "a100-80",
    "H100 80GB": "h100-80",
    "H200": "h200",
    "B200": "b200",
}
_USED = ("model", "plan", "machine")


def ask(rows: Sequence[Mapping[str, Any]], cache: Path) -> list[dict[str, Any]]:
    """fitcheck's answers, or refusals, to all rows.

    Args:
        rows: questions, each with `num_params`, the model's exact parameter count.
        cache: directory for the virtual environment.

    Raises:
        OSError: it could not be installed.
        subprocess.SubprocessError: it could not be installed or did not run.
    """
    home = cache / f"fitcheck-llm-{VERSION}"
    python = home / "bin" / "python"
    mark = home / ".installed"
    if not mark.exists():
        venv.create(home, clear=True, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", f"fitcheck-llm=={VERSION}"]
        subprocess.run(command, check=True, timeout=600)
        mark.touch()
    # isolated: this file's directory must not hide the package of the same name
    done = subprocess.run(
        [python, "-I", __file__],
        input=json.dumps(list(rows)),
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return json.loads(done.stdout)


def question(row: Mapping[str, Any], num_params: int) -> dict[str, Any]:
    """What fitcheck needs of a row; not what was measured."""
    return {name: row[name] for name in _USED} | {"num_params": num_params}


def main() -> None:
    """Answer the questions on stdin, in the environment that has fitcheck."""
    answers = []
    for asked in json.load(sys.stdin):
        try:
            answers.append(_answer(asked))
        except (ValueError, KeyError) as error:  # its refusals are ValueErrors
            answers.append({"refused": f"{type(error).__name__}: {error}"})
    json.dump(answers, sys.stdout)


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    from fitcheck import TrainingConfig, estimate, get_gpu

    plan = asked["plan"]
    if plan["task"] != "causal-lm":
        raise ValueError("decoders only")
    if (plan.get("lora") or {}).get("target_modules") == "all-linear":
        raise ValueError("adapted modules must be named")
    quantization = plan.get("quantization") or {}
    nf4, lora = quantization.get("load_in_4bit"), plan.get("lora") or {}
    training = TrainingConfig(
        precision=_PRECISIONS[quantization.get("bnb_4bit_compute_dtype") or plan["dtype"]],
        quantization="none" if not quantization else "nf4" if nf4 else "int8",
        double_quant=quantization.get("bnb_4bit_use_double_quant", False),
        optimizer=_OPTIMIZERS[plan["optim"]],
        batch_size=plan["per_device_train_batch_size"],
        seq_len=plan["max_length"],
        lora_rank=lora.get("r"),
        lora_targets=list(lora.get("target_modules", ())),
        grad_checkpoint=plan["activation_checkpointing"],
        flash_attn=plan["attn_implementation"] != "eager",
    )
    name = asked["machine"]["accelerator"]
    card = next((key for word, key in _CARDS.items() if word in name), name)
    report = estimate(_model(asked), training, get_gpu(card))
    return {
        "allocated_bytes": (report.total_mib - report.overhead_mib) * MIB,
        "process_bytes": report.total_mib * MIB,
        "verdict": "fits" if report.fits else "does_not_fit",
    }


def _model(asked: Mapping[str, Any]) -> Any:
    """The model as fitcheck reads it from the hub, with its own refusals.

    Those are private functions of the pinned version: the public one downloads.
    """
    from fitcheck import ModelConfig, config_parser

    config, name = asked["model"]["config"], asked["model"].get("name", "model")
    config_parser._reject_unsupported(config, name)
    fields = config_parser._parse_fields(config)
    derived = config_parser._count_params(fields)
    params = config_parser._reconcile_param_count(name, asked["num_params"], derived)
    return ModelConfig(name=name, num_params=params, **vars(fields))


if __name__ == "__main__":
    main()
