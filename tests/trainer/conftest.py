"""A tiny model, 40 rows and real trainer processes on the CPU, shared by this folder."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from advisor import demo, events
from trainer import record


@dataclass(frozen=True)
class Bench:
    """Where the tests' files are, and how a trainer is started on them."""

    root: Path
    model: Path
    data: Path
    validation: Path

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """40 steps of 13 an epoch: shuffled rows, dropout, every step logged."""
        return {
            "config_name": str(self.model),
            "tokenizer_name": str(self.model),
            "train_file": str(self.data),
            "validation_file": str(self.validation),
            "max_seq_length": 48,
            "per_device_train_batch_size": 3,
            "per_device_eval_batch_size": 1,
            "max_steps": 40,
            "learning_rate": 3e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "include_num_input_tokens_seen": "non_padding",
            "use_cpu": True,
            **changes,
        }

    def write(self, **changes: Any) -> Path:
        """An args.json of its own."""
        path = self.root / f"args-{time.monotonic_ns()}.json"
        path.write_text(json.dumps(self.arguments(**changes)))
        return path

    def train(self, *argv: Any, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `python -m trainer` to its end."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "trainer", *map(str, argv)],
            capture_output=True,
            text=True,
            cwd=self.root,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    @staticmethod
    def write_rows(path: Path, texts: list[str]) -> None:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    @staticmethod
    def events(run_dir: Path, *kinds: str) -> list[dict[str, Any]]:
        """Every line of a run, which must all parse; of the given kinds, or all."""
        batch = events.read(run_dir / record.EVENTS)
        assert batch.num_bad_lines == 0
        assert batch.offset == record.events_size(run_dir)
        return [event for event in batch.events if not kinds or event["event"] in kinds]

    @staticmethod
    def losses(run_dir: Path) -> dict[int, float]:
        """Step -> loss, of the last session that made the step."""
        return {e["step"]: e["loss"] for e in Bench.events(run_dir, "log")}

    @staticmethod
    def steps(run_dir: Path) -> int:
        """Optimizer steps done, while the run goes on."""
        batch = events.read(run_dir / record.EVENTS)
        return max((event["step"] for event in batch.events), default=0)

    @staticmethod
    def wait(holds: Callable[[], Any], *, seconds: float = 60) -> Any:
        """What `holds` returns once it is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if result := holds():
                return result
            time.sleep(0.01)
        raise AssertionError(f"not within {seconds} s")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINING_ADVISOR_HOME", str(root / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("RANK", raising=False)
        patch.delenv("WORLD_SIZE", raising=False)
        model = root / "model"
        model.mkdir()
        for file in demo.materialise().model.iterdir():
            (model / file.name).write_bytes(file.read_bytes())
        config = json.loads((model / "config.json").read_text())
        config.update(hidden_size=32, intermediate_size=64, num_hidden_layers=2)
        config.update(num_attention_heads=2, num_key_value_heads=2, attention_dropout=0.1)
        (model / "config.json").write_text(json.dumps(config))
        words = random.Random(0)
        pool = ["red", "green", "blue", "fish", "bird", "stone", "river"]
        texts = [" ".join(words.choices(pool, k=words.randint(3, 14))) for _ in range(40)]
        Bench.write_rows(root / "rows.jsonl", texts[:38])
        Bench.write_rows(root / "validation.jsonl", texts[38:])
        yield Bench(root, model, root / "rows.jsonl", root / "validation.jsonl")
