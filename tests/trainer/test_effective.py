"""What is recorded is what the live objects are, not what the arguments wished for."""

from pathlib import Path

import pytest

from trainer import record


@pytest.mark.full
def test_live_objects_are_told_from_arguments(bench):
    """Checkpointing, autocast, accumulation and adapters on 16-bit weights, on a CPU."""
    done = bench.train(
        bench.write(
            max_steps=1,
            method="lora",
            dtype="bfloat16",
            bf16=True,
            attn_implementation="eager",
            activation_checkpointing=True,
            gradient_accumulation_steps=4,
            optim="adafactor",
            eval_strategy="no",
        )
    )
    run_dir = Path(done.stdout.splitlines()[0])
    used = record.read_object(run_dir / record.RECORD)["effective"]
    assert used["weights_dtype"].split(", ")[0] == "bfloat16"
    assert used["trained_dtype"] == "float32"
    assert used["autocast"] == "bfloat16"
    assert used["attn_implementation"] == "eager"
    assert used["activation_checkpointing"] is True
    assert used["optimizer_class"].endswith(".Adafactor")
    assert used["effective_batch_size"] == 12
