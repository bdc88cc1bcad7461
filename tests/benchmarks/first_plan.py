"""How soon a recommendation has its first plan, and when all of it is there; bench.py prints it.

Cold: a home of its own, nothing of the question was ever traced; the worker runs. Nothing here is a
test: the figures depend on the machine.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import latency

from advisor import front
from advisor.recommend import Advisor, Question

LLAMA = {**latency.LLAMA, "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192}
BERT = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
TINY = {**LLAMA, **latency.SIZES["8B"], "hidden_size": 64, "intermediate_size": 128}
NUM_ROWS = 2000


def report() -> str:
    """A table: the first plan, the whole front, the profiles that were traced."""
    lines = ["| recommend, cold | first plan | whole front | profiles |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as directory:
        for name, question in _questions(Path(directory)).items():
            first, whole, number = _ask(question)
            lines.append(f"| {name} | {first:.1f} s | {whole:.1f} s | {number} |")
    return "\n".join(lines)


def _questions(directory: Path) -> dict[str, Question]:
    rng = random.Random(0)
    texts = [{"text": "word " * rng.randint(20, 500)} for _ in range(NUM_ROWS)]
    labelled = [
        {"text": "word " * rng.randint(5, 80), "label": rng.choice(("good", "bad"))}
        for _ in range(NUM_ROWS)
    ]
    data, classes = _rows(directory / "t.jsonl", texts), _rows(directory / "c.jsonl", labelled)
    small, large = (
        _model(directory / name, {**LLAMA, **latency.SIZES[name]}) for name in ("8B", "70B")
    )
    return {
        "8B, A100 80 GB": Question(model=small, data=data, machine=latency.MACHINE),
        "70B, A100 80 GB": Question(model=large, data=data, machine=latency.MACHINE),
        "BERT, classification, T4": Question(
            model=_model(directory / "bert", BERT),
            data=classes,
            task="text-classification",
            machine="T4",
        ),
        "demo, this processor": Question(),
    }


def _rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _model(path: Path, config: dict[str, Any]) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def _ask(question: Question) -> tuple[float, float, int]:
    with tempfile.TemporaryDirectory() as home, latency._at_home(home), _counting() as counted:
        tiny = _model(Path(home) / "tiny", TINY)
        advisor = Advisor()
        try:  # starts the worker, and measures this machine where it is the one asked for
            advisor.recommend(Question(model=tiny, machine=question.machine))
            told: list[float] = []
            started = time.perf_counter()
            advisor.recommend(question, on_first=lambda _: told.append(time.perf_counter()))
            whole = time.perf_counter() - started
        finally:
            advisor.close()
        return told[0] - started, whole, len(counted[-1].used)


@contextmanager
def _counting() -> Iterator[list[front.Counted]]:
    """The profiles of each answer that is asked for inside the block."""
    made: list[front.Counted] = []
    before = front.Counted.__init__

    def count(self: front.Counted, *args: Any) -> None:
        before(self, *args)
        made.append(self)

    front.Counted.__init__ = count  # type: ignore[method-assign]
    try:
        yield made
    finally:
        front.Counted.__init__ = before  # type: ignore[method-assign]


if __name__ == "__main__":
    print(report())
