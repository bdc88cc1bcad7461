"""Classes of texts: what a batch holds, and that loss and gradient do not know accumulation."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import transformers

from advisor.own_arguments import DataArguments, ModelArguments
from trainer import runs
from trainer.model import build_model, build_tokenizer
from trainer.run_trainer import RunTrainer
from trainer.tasks import text_classification as task
from trainer.train import read_rows

WORDS = [
    "good",
    "bad",
    "fine",
    "poor",
    "film",
    "song",
    "story",
    "very",
    "quite",
    "rather",
    "long",
    "short",
]
BERT = transformers.BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
LLAMA = transformers.LlamaConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    bos_token_id=2,
    eos_token_id=3,
)


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_tokenizer, bench):
    """Two checkpoints without a head, a tokenizer beside each, and labelled rows."""
    root = tmp_path_factory.mktemp("classes")
    for name, model in (
        ("bert", transformers.BertModel(BERT)),
        ("llama", transformers.LlamaForCausalLM(LLAMA)),
        ("three", transformers.BertForSequenceClassification(_with_classes("abc"))),
    ):
        model.save_pretrained(root / name)
        save_tokenizer(root / name)
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, n)) for n in draw.integers(1, 12, 24)]
    write(root / "rows.csv", ("text", "label"), zip(texts, "cab" * 8, strict=True))
    pairs = zip(texts, texts[::-1], ["1", "0"] * 12, strict=True)
    write(root / "pairs.csv", ("premise", "hypothesis", "label"), pairs)
    return root


def _with_classes(names):
    config = transformers.BertConfig(**BERT.to_dict())
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    return config


@dataclasses.dataclass
class Prepared:
    rows: object
    tokenizer: object
    model: object
    warnings: list
    features: object
    args: DataArguments


def prepare(root, model, file, tmp_path, *, method="full", limit=16, scratch=False):
    args = DataArguments(
        task="text-classification", train_file=str(root / file), max_seq_length=limit
    )
    where = "config_name" if scratch else "model_name_or_path"
    model_args = ModelArguments(**{where: str(root / model)}, method=method, lora_r=4)
    rows, tokenizer = read_rows(args), build_tokenizer(model_args)
    torch.manual_seed(1)
    built, warnings = build_model(model_args, args.task, rows, tokenizer, with_checkpointing=False)
    features = task.features(
        rows.train,
        rows=rows,
        tokenizer=tokenizer,
        model=built,
        args=args,
        cache=tmp_path / "rows.arrow",
    )
    return Prepared(rows, tokenizer, built, warnings, features, args)


def test_a_pair_is_one_row_with_types_that_is_cut_from_its_longer_text(folder, tmp_path):
    made = prepare(folder, "bert", "pairs.csv", tmp_path, limit=9)
    assert set(made.features.column_names) == {
        "input_ids", "token_type_ids", "label", "length", "whole_length",
    }  # fmt: skip
    for row, source in zip(made.features, made.rows.train, strict=True):
        first, second = (len(source[name].split()) for name in ("premise", "hypothesis"))
        assert row["whole_length"] == first + second + 3
        assert row["length"] == min(first + second + 3, 9) == len(row["input_ids"])
        assert row["input_ids"][-1] == 3  # special tokens outlast the cut
        assert max(row["token_type_ids"]) == 1
        assert row["label"] == int(source["label"])


def test_pairs_of_a_directory_of_parquet_files(folder, tmp_path):
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    source = tmp_path / "source"
    source.mkdir()
    for name, part in (("train-0", rows[:9]), ("train-1", rows[9:20]), ("dev", rows[20:])):
        pq.write_table(pa.Table.from_pylist(part), source / f"{name}.parquet")
    made = prepare(folder, "bert", source, tmp_path)
    assert (len(made.features), len(made.rows.evaluation)) == (20, 4)
    assert made.features["label"][:] == [int(row["label"]) for row in rows[:20]]
    texts = [row["premise"].split() + row["hypothesis"].split() for row in rows[:20]]
    assert made.features["whole_length"][:] == [len(words) + 3 for words in texts]


def test_a_batch_is_padded_with_a_mask(folder, tmp_path):
    made = prepare(folder, "llama", "rows.csv", tmp_path)
    keep = ("input_ids", "label")
    batch = task.collator(made.tokenizer, made.args)(
        [{name: row[name] for name in keep} for row in list(made.features)[:4]]
    )
    lengths = made.features["length"][:4]
    assert batch["input_ids"].shape == (4, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == list(lengths)
    assert batch["labels"].tolist() == made.features["label"][:4]


def test_the_config_names_the_classes_and_the_padding(folder, tmp_path):
    made = prepare(folder, "llama", "rows.csv", tmp_path)
    assert made.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert made.model.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert made.model.config.pad_token_id == 0
    assert made.model.score.out_features == 3
    assert [code for code, _ in made.warnings] == ["new_weights"]
    assert "score.weight" in made.warnings[0][1]


def test_a_checkpoint_with_these_classes_keeps_its_head_and_their_order(
    folder, tmp_path, save_tokenizer
):
    head = transformers.BertForSequenceClassification(_with_classes("bca"))
    head.save_pretrained(tmp_path / "ordered")
    save_tokenizer(tmp_path / "ordered")
    made = prepare(folder, tmp_path / "ordered", "rows.csv", tmp_path)
    assert made.warnings == []
    assert made.model.classifier.weight.equal(head.classifier.weight)
    assert made.model.config.label2id == {"b": 0, "c": 1, "a": 2}
    numbers = [made.model.config.label2id[name] for name in made.rows.train["label"]]
    assert made.features["label"][:] == numbers


def test_a_head_of_another_size_is_new(folder, tmp_path):
    made = prepare(folder, "three", "pairs.csv", tmp_path)
    assert made.model.classifier.out_features == 2
    assert "another size" in made.warnings[0][1]


def test_numbers_are_the_ids_of_a_checkpoints_own_classes(folder, tmp_path, save_tokenizer):
    head = transformers.BertForSequenceClassification(_with_classes(["bad", "good"]))
    head.save_pretrained(tmp_path / "named")
    save_tokenizer(tmp_path / "named")
    made = prepare(folder, tmp_path / "named", "pairs.csv", tmp_path)
    assert made.model.config.id2label == {0: "bad", 1: "good"}
    assert made.features["label"][:] == [int(v) for v in made.rows.train["label"]]


def test_from_random_weights(folder, tmp_path):
    made = prepare(folder, "bert", "rows.csv", tmp_path, scratch=True)
    assert type(made.model).__name__ == "BertForSequenceClassification"
    assert made.model.config.num_labels == 3


def test_adapters_train_the_head_whole(folder, tmp_path):
    made = prepare(folder, "bert", "rows.csv", tmp_path, method="lora")
    trained = [n for n, p in made.model.named_parameters() if p.requires_grad]
    assert any("classifier.modules_to_save" in name for name in trained)
    assert all("lora_" in name or "classifier" in name for name in trained)


@pytest.mark.parametrize(
    ("answers", "labels", "f1"),
    [([0, 1, 1, 0], [0, 1, 0, 0], 2 / 3), ([0, 0], [0, 0], 0.0), ([1, 1], [1, 1], 1.0)],
)
def test_accuracy_and_f1_of_two_classes(folder, tmp_path, answers, labels, f1):
    rows = prepare(folder, "bert", "pairs.csv", tmp_path).rows
    found = task.metrics(rows)(
        transformers.EvalPrediction(predictions=np.array(answers), label_ids=np.array(labels))
    )
    assert found["accuracy"] == np.mean(np.array(answers) == np.array(labels))
    assert found["f1"] == pytest.approx(f1)


def test_three_classes_have_no_f1(folder, tmp_path):
    rows = prepare(folder, "bert", "rows.csv", tmp_path).rows
    found = task.metrics(rows)(
        transformers.EvalPrediction(predictions=np.array([2, 1]), label_ids=np.array([2, 0]))
    )
    assert found == {"accuracy": 0.5}


# --- accumulation ------------------------------------------------------------------------------


class Watched(transformers.TrainerCallback):
    """The gradients before each update, and the logs."""

    def __init__(self):
        self.gradients, self.losses, self.norms = [], [], []

    def on_pre_optimizer_step(self, _args, _state, _control, model=None, **_others):
        self.gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )

    def on_log(self, _args, _state, _control, logs=None, **_others):
        if "grad_norm" in logs:
            self.losses.append(logs["loss"])
            self.norms.append(logs["grad_norm"])


def trained(root, name, tmp_path, micro, accumulation, *, ours=True, **more):
    """As `trainer.train` does; of 21 rows, so that the last micro-batch has one row."""
    made = prepare(root, name, "rows.csv", tmp_path)
    watched = Watched()
    trainer = RunTrainer(
        model=made.model,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"),
            use_cpu=True,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=2,
            learning_rate=1e-2,
            max_grad_norm=0.05,
            optim="sgd",  # of another size of gradient it would make other weights
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            **more,
        ),
        data_collator=task.collator(made.tokenizer, made.args),
        train_dataset=made.features.select([i % len(made.features) for i in range(21)]),
        compute_loss_func=task.compute_loss(more.get("label_smoothing_factor", 0.0))
        if ours
        else None,
        callbacks=[watched],
    )
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in made.model.parameters()])
    return watched, weights


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_loss_gradient_and_weights_do_not_depend_on_accumulation(folder, tmp_path, name, smoothing):
    more = {"label_smoothing_factor": smoothing}
    whole, weights = trained(folder, name, tmp_path, 8, 1, **more)
    parts, same_weights = trained(folder, name, tmp_path, 2, 4, **more)
    assert len(whole.losses) == len(parts.losses) == 6  # 8, 8 and 5 rows an epoch
    assert parts.losses == pytest.approx(whole.losses, rel=2e-5)
    assert parts.norms == pytest.approx(whole.norms, rel=2e-5)
    for one, four in zip(whole.gradients, parts.gradients, strict=True):
        torch.testing.assert_close(four, one, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(same_weights, weights, rtol=1e-4, atol=1e-7)


def test_the_loss_is_the_models_own_at_one_micro_batch(folder, tmp_path):
    ours, weights = trained(folder, "bert", tmp_path, 8, 1)
    theirs, same_weights = trained(folder, "bert", tmp_path, 8, 1, ours=False)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
    torch.testing.assert_close(same_weights, weights, rtol=1e-4, atol=1e-7)


@pytest.mark.full
def test_trainer_alone_is_four_times_off_for_bert(folder, tmp_path):
    """Why the loss is ours; when this fails, transformers has mended it."""
    whole, _ = trained(folder, "bert", tmp_path, 8, 1, ours=False)
    parts, _ = trained(folder, "bert", tmp_path, 2, 4, ours=False)
    assert parts.losses[0] == pytest.approx(4 * whole.losses[0], rel=1e-4)
    assert parts.norms[0] == pytest.approx(4 * whole.norms[0], rel=1e-4)


# --- the program -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arguments(bench, reviews):
    """12 updates an epoch, dropout on, evaluated twice; it learns the eight words that count."""

    def write(**changes):
        names = ("config_name", "tokenizer_name", "train_file", "validation_file")
        return bench.write(
            **(
                dict.fromkeys(names)
                | {
                    "model_name_or_path": str(reviews / "bert"),
                    "train_file": str(reviews / "reviews.csv"),
                    "task": "text-classification",
                    "per_device_train_batch_size": 4,
                    "gradient_accumulation_steps": 2,
                    "max_steps": 120,
                    "learning_rate": 2e-3,
                    "warmup_steps": 12,
                    "logging_steps": 5,
                    "eval_strategy": "steps",
                    "eval_steps": 60,
                    "save_strategy": "steps",
                    "save_steps": 60,
                }
                | changes
            )
        )

    return write


def test_a_run_reports_accuracy_and_keeps_the_names_of_the_classes(bench, arguments):
    lines = bench.train(arguments()).stdout.splitlines()
    run_dir = Path(lines[0])
    evals = bench.events(run_dir, "eval")
    assert [e["step"] for e in evals] == [60, 120]
    assert evals[-1]["eval_accuracy"] == evals[-1]["eval_f1"] == 1.0  # five rows
    assert "eval_perplexity" not in evals[-1]
    (end,) = bench.events(run_dir, "end")
    config = json.loads((Path(end["model_path"]) / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert "new_weights" in [e["code"] for e in bench.events(run_dir, "warning")]
    rows = bench.events(run_dir, "start")[0]["num_eval_rows"]
    said = f"evaluation  accuracy 1, f1 1, loss {evals[-1]['eval_loss']:.4g} "
    assert f"{said}(after step 120, on {rows} rows)" in lines
    assert f"model       {end['model_path']}" in lines


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.full)])
def test_the_code_that_a_run_ends_with_loads_what_was_trained(bench, arguments, method, reviews):
    adapters = {"method": "lora", "lora_r": 2, "lora_target_modules": ["query"]}
    changes = adapters if method == "lora" else {}
    lines = bench.train(arguments(**changes)).stdout.splitlines()
    begin = lines.index("load it with")
    there = {}
    exec("\n".join(line.strip() for line in lines[begin + 1 :]), there)
    model, tokenizer = there["model"], there["tokenizer"]
    assert model.config.id2label == {0: "negative", 1: "positive"}
    data = DataArguments(task="text-classification", train_file=str(reviews / "reviews.csv"))
    rows = read_rows(data).evaluation
    batch = tokenizer(rows["text"][:], padding=True, return_tensors="pt")
    labels = torch.tensor([model.config.label2id[name] for name in rows["label"]])
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    evaluation = runs.read_status(Path(lines[0])).measured["evaluation"]
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert loss == pytest.approx(evaluation["eval_loss"], rel=1e-3)
    assert (logits.argmax(-1) == labels).double().mean() == evaluation["eval_accuracy"]


def test_the_head_beside_adapters_on_half_weights_is_trained_in_float32(bench, arguments):
    half = {"method": "lora", "lora_r": 2, "lora_target_modules": ["query"], "dtype": "bfloat16"}
    short = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1}
    run_dir = Path(bench.train(arguments(bf16=True, **half, **short)).stdout.splitlines()[0])
    (end,) = bench.events(run_dir, "end")
    saved = safetensors.torch.load_file(Path(end["model_path"]) / "adapter_model.safetensors")
    assert any("classifier" in name for name in saved)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


@pytest.mark.full
def test_a_resumed_run_equals_the_uninterrupted_one(bench, arguments):
    file = arguments(logging_steps=1)
    whole = Path(bench.train(file).stdout.splitlines()[0])
    run_dir = bench.root / "classes-cut"
    argv = [sys.executable, "-P", "-m", "trainer", str(file), "--run-dir", str(run_dir)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        bench.wait(lambda: bench.steps(run_dir) > 30)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 0, child.stderr.read()
    stopped = runs.read_status(run_dir)
    assert (stopped.state, stopped.step < 120) == ("stopped", True)
    bench.train(file, "--run-dir", run_dir)
    assert bench.losses(run_dir) == bench.losses(whole)
    keys = ("step", "eval_loss", "eval_accuracy", "eval_f1")
    last = [[e[k] for k in keys] for r in (run_dir, whole) for e in bench.events(r, "eval")[-1:]]
    assert last[0] == last[1]
