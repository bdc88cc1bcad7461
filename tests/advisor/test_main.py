"""The command line: what it prints, where, and its exit codes."""

import dataclasses
import json
import subprocess
import sys

import pytest

import advisor.locale
from advisor import __main__ as cli
from advisor import console, records
from advisor.data import DataDescription
from advisor.errors import InputError, SimulationError
from advisor.hardware.machine import Cpu, Gpu, GpuProcess, Link, Machine, TorchBuild
from advisor.locale import Message
from advisor.memory import MemoryEstimate
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.recommendation import Advice, Alternative, Conflict, Recommendation
from advisor.speed import TimeEstimate

GIB = 2**30
REASONS = {
    "en": {
        "lr": "scaled to {batch:int} rows",
        "way": "would need {gib:gib} GiB",
        "less": "less memory",
    },
    "zh": {"lr": "\u6309 {batch:int} \u884c", "way": "{gib:gib}", "less": "\u7701"},
}


@pytest.fixture(autouse=True)
def reasons(monkeypatch):
    """Three reasons of our own; the command line's own words stay real."""
    real = advisor.locale.catalogue
    monkeypatch.setattr(
        advisor.locale,
        "catalogue",
        lambda package, lang: REASONS[lang] if package == "advisor.locale" else real(package, lang),
    )


MACHINE = Machine(
    name="1 x Tesla T4",
    gpus=(
        Gpu(
            name="Tesla T4",
            index=0,
            uuid="GPU-1",
            compute_capability=(7, 5),
            total_bytes=15 * GIB,
            free_bytes=14 * GIB,
            source="measured",
        ),
    ),
    cpu=Cpu(model="Xeon", usable_cores=4, flags=("avx2",)),
    ram_total_bytes=32 * GIB,
    ram_free_bytes=30 * GIB,
    ram_limit_source="cgroup",
    torch=TorchBuild(version="2.13.0", cuda_version="12.8", usable=True),
    notes=("Driver version could not be read.",),
)
BROKEN_TORCH = TorchBuild(
    version="2.13.0", usable=False, problem="This torch has no CUDA; install a CUDA build."
)
MEMORY = MemoryEstimate(
    allocated_bytes=3 * GIB,
    reserved_bytes=4 * GIB,
    process_bytes=5 * GIB,
    interval={"process_bytes": (4 * GIB, 6 * GIB)},
    capacity_bytes=14 * GIB,
    verdict="fits",
    assumptions=("The longest batch sizes the peak.",),
)
TIME = TimeEstimate(step_seconds=0.5, tokens_per_second=12000.0, num_steps=375, total_seconds=187.5)
PLAN = TrainingPlan(learning_rate=2e-4, max_length=256, bf16=True)
FOUND = Recommendation(
    plan=PLAN,
    advice=(
        Advice(
            field="learning_rate",
            value=2e-4,
            reason=Message(id="lr", params={"batch": 8}),
            source="rule",
        ),
        Advice(field="bf16", value=True, reason=Message(id="less"), source="user", pinned=True),
    ),
    memory=MEMORY,
    time=TIME,
    alternatives=(
        Alternative(
            label=Message(id="less"),
            plan=PLAN,
            memory=MEMORY,
            time=TIME,
            pins={"activation_checkpointing": True},
        ),
    ),
    conflicts=(),
    machine=MACHINE,
    model=ModelDescription(
        name="tiny",
        path="/models/tiny",
        config={},
        model_type="llama",
        architecture="LlamaForCausalLM",
        num_parameters=3_200_000,
    ),
    data=DataDescription(
        name="rows.jsonl",
        path="/data/rows.jsonl",
        format="jsonl",
        columns=("text",),
        text_column="text",
        num_rows=1000,
        num_eval_rows=50,
        num_measured_rows=1050,
        lengths=(1,),
        length_source="tokenizer",
        mean_tokens=1.0,
        p50_tokens=1,
        p95_tokens=1,
        p99_tokens=1,
        max_tokens=1,
    ),
    versions={"python": "3.11"},
)
NONE = dataclasses.replace(
    FOUND,
    plan=None,
    memory=None,
    time=None,
    advice=(),
    alternatives=(),
    conflicts=(
        Conflict(
            fields=("max_length", "per_device_train_batch_size"),
            reason=Message(id="way", params={"gib": 20 * GIB}),
            ways_out=(("max_length", Message(id="less")),),
        ),
    ),
)


@pytest.fixture
def fake(monkeypatch):
    """An Advisor that answers with `fake.answer` and remembers what it was asked."""

    class FakeAdvisor:
        answer = FOUND
        asked = None
        closed = 0

        def recommend(self, question, *, on_progress=None):
            FakeAdvisor.asked = question
            if on_progress:
                on_progress("trace", {"done": 1})
            if isinstance(FakeAdvisor.answer, Exception):
                raise FakeAdvisor.answer
            return FakeAdvisor.answer

        def close(self):
            FakeAdvisor.closed += 1

    monkeypatch.setattr("advisor.recommend.Advisor", FakeAdvisor)
    return FakeAdvisor


def run(capsys, *argv):
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


RECOMMEND = ("recommend", "--model", "m", "--data", "d")


# --- recommend -------------------------------------------------------------------------------


def test_recommend_json_is_the_content_of_plan_json(capsys, fake):
    code, out, err = run(capsys, *RECOMMEND, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(FOUND.to_dict("en")))
    assert fake.closed == 1


def test_recommend_passes_every_option_on(capsys, fake):
    options = {
        "--task": "causal-lm",
        "--text-column": "body",
        "--validation": "v.jsonl",
        "--method": "lora",
        "--machine": "T4 x 2",
        "--goal": "smallest",
    }
    flat = [part for pair in options.items() for part in pair]
    pins = ["--pin", "learning_rate=1e-4", "--pin", "bf16=true", "--pin", "optim=adamw_torch"]
    code, _, _ = run(capsys, *RECOMMEND, *flat, *pins, "--pin", "run_name=a=b", "--pin", "x=NaN")
    assert code == 0
    asked = fake.asked
    assert (asked.model, asked.data, asked.task) == ("m", "d", "causal-lm")
    assert (asked.text_column, asked.validation) == ("body", "v.jsonl")
    assert (asked.method, asked.machine, asked.goal) == ("lora", "T4 x 2", "smallest")
    assert asked.pins == {
        "learning_rate": 1e-4,
        "bf16": True,
        "optim": "adamw_torch",
        "run_name": "a=b",
        "x": "NaN",
    }


def test_recommend_without_data_asks_without_data(capsys, fake):
    run(capsys, "recommend", "--model", "m")
    assert fake.asked.data is None


def test_recommend_text_starts_with_the_verdict_and_aligns_its_table(capsys, fake):
    _, out, _ = run(capsys, *RECOMMEND)
    lines = out.splitlines()
    assert lines[0] == ("Fits: the peak is 5.0 GiB (4.0 to 6.0) of the 14.0 GiB that are free.")
    assert lines[1].startswith("Takes 3 min (3 min to 3 min) for 375 steps at 12,000 tokens")
    table = lines[lines.index("field          value  reason") :]
    assert table[1] == "learning_rate  2e-4   scaled to 8 rows"
    assert table[2] == "bf16           true   less memory"
    assert "  less memory  5.0 GiB  3 min  --pin activation_checkpointing=true" in table
    assert table[-1] == "  The longest batch sizes the peak."


def test_recommend_speaks_chinese(capsys, fake):
    _, out, _ = run(capsys, *RECOMMEND, "--lang", "zh")
    assert out.startswith("\u653e\u5f97\u4e0b")
    assert "\u6309 8 \u884c" in out
    assert "Fits" not in out
    _, out, _ = run(capsys, *RECOMMEND, "--lang", "zh", "--json")
    assert json.loads(out)["advice"][0]["reason"]["text"] == "\u6309 8 \u884c"


def test_recommend_says_first_what_torch_cannot_use(capsys, fake):
    machine = dataclasses.replace(MACHINE, torch=BROKEN_TORCH)
    fake.answer = dataclasses.replace(FOUND, machine=machine)
    _, out, _ = run(capsys, *RECOMMEND)
    assert out.splitlines()[0] == BROKEN_TORCH.problem


@pytest.mark.parametrize(
    ("verdict", "word"),
    [("tight", "Tight"), ("does_not_fit", "Does not fit"), ("unknown", "Unknown")],
)
def test_bad_verdicts_are_the_first_line(capsys, fake, verdict, word):
    memory = dataclasses.replace(MEMORY, verdict=verdict)
    fake.answer = dataclasses.replace(FOUND, memory=memory)
    code, out, _ = run(capsys, *RECOMMEND)
    assert code == 0
    assert out.startswith(word)


def test_no_plan_exits_3_and_names_the_conflict(capsys, fake):
    fake.answer = NONE
    code, out, err = run(capsys, *RECOMMEND)
    assert (code, err) == (3, "")
    lines = out.splitlines()
    assert lines[0] == "No plan fits 1 x Tesla T4."
    assert lines[1] == "max_length + per_device_train_batch_size: would need 20.0 GiB"
    assert lines[2] == "  give up max_length: less memory"
    code, out, _ = run(capsys, *RECOMMEND, "--json")
    assert code == 3
    assert json.loads(out)["plan"] is None
    assert json.loads(out)["conflicts"][0]["fields"][0] == "max_length"


def test_errors_are_in_the_language_asked_for(capsys, fake):
    fake.answer = InputError("rows.empty", path="/d.jsonl", field="data")
    _, _, err = run(capsys, *RECOMMEND)
    assert err == "error: /d.jsonl is empty; give a file with rows.\n"
    code, _, err = run(capsys, *RECOMMEND, "--lang", "zh")
    assert (code, err) == (2, f"{console.error_line(fake.answer, 'zh')}\n")
    assert "/d.jsonl 是空文件" in err


def test_errors_are_one_line_on_stderr(capsys, fake):
    fake.answer = InputError("task must be causal-lm,\n got 'x'; choose it.")
    code, out, err = run(capsys, *RECOMMEND, "--json")
    assert (code, out) == (2, "")
    assert err == "error: task must be causal-lm, got 'x'; choose it.\n"
    assert fake.closed == 1
    fake.answer = SimulationError("transformers lacks a symbol.")
    code, out, err = run(capsys, *RECOMMEND)
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_progress_is_shown_only_to_a_person(capsys, fake, monkeypatch):
    assert run(capsys, *RECOMMEND)[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run(capsys, *RECOMMEND)[2] == "trace done=1\n"


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("recomend",),
        ("recommend",),
        ("recommend", "--model"),
        ("recommend", "--model", "m", "--goal", "cheapest"),
        ("recommend", "--model", "m", "--pin", "bf16"),
        ("recommend", "--model", "m", "--pin", "=1"),
        ("recommend", "--model", "m", "--pin", "seed=1", "--pin", "seed=2"),
        ("recommend", "--model", "m", "--lang", "fr"),
        ("recommend", "--mod", "m"),
        ("export", "plan.json"),
        ("export", "--format", "hf-json"),
        ("export", "--format", "yaml"),
        ("export", "/no/such/plan.json", "--format", "hf-json"),
        ("estimate", "/no/such/spec.json"),
        ("probe", "--gpu"),
    ],
)
def test_wrong_use_exits_2_with_one_line(capsys, fake, argv):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


# --- probe -----------------------------------------------------------------------------------


def test_probe_shows_links_holders_and_kinds_of_memory(capsys, monkeypatch):
    (first,) = MACHINE.gpus
    holder = GpuProcess(pid=7, name="python", user="ada", used_bytes=2**30)
    link = Link(
        pcie_generation=3, pcie_width=8, pcie_max_generation=4, pcie_max_width=16, nvlinks=4
    )
    link = dataclasses.replace(link, peers={"GPU-2": "nvlink"})
    first = dataclasses.replace(first, vendor="nvidia", processes=(holder,), link=link)
    second = Gpu(name="GB10", uuid="GPU-2", index=1, memory_kind="unified", vendor="nvidia")
    machine = dataclasses.replace(MACHINE, gpus=(first, second), is_wsl=True)
    monkeypatch.setattr("advisor.hardware.probe.probe_machine", lambda: machine)
    _, out, _ = run(capsys, "probe")
    for words in (
        "PCIe 3 x8 of 4 x16, 4 NVLinks", "held by 7 python (ada) 1.0 GiB", "unified with RAM",
        "gpu 0 to", "gpu 1: nvlink", "WSL2",
    ):  # fmt: skip
        assert words in out, words


def test_a_gpu_that_this_machine_lacks_is_one_line(capsys):
    code, _, err = run(capsys, "recommend", "--model", "demo", "--machine", "GPU-0000")
    assert code == 2
    assert "This machine has no GPU 'GPU-0000'" in err


def test_probe_prints_facts_problem_first_notes_last(capsys, monkeypatch):
    broken = dataclasses.replace(MACHINE, torch=BROKEN_TORCH)
    monkeypatch.setattr("advisor.hardware.probe.probe_machine", lambda: broken)
    code, out, _ = run(capsys, "probe")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == BROKEN_TORCH.problem
    assert lines[1] == "machine    1 x Tesla T4"
    assert (
        lines[2] == "gpu 0      Tesla T4, GPU-1, 14.0 GiB free of 15.0 GiB, compute capability 7.5"
    )
    assert "ram        30.0 GiB free of 32.0 GiB (the container's limit)" in lines
    assert "trains on  the CPU" in lines
    assert "disk       unknown free" in lines
    assert lines[-1] == "note: Driver version could not be read."


def test_probe_json_is_the_machine(capsys, monkeypatch):
    monkeypatch.setattr("advisor.hardware.probe.probe_machine", lambda: MACHINE)
    _, out, _ = run(capsys, "probe", "--json")
    assert records.decode(Machine, json.loads(out)) == MACHINE


def test_probe_in_a_process_of_its_own_is_light():
    script = (
        "import sys; from advisor.__main__ import main; code = main(['probe', '--json']);"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'accelerate', 'streamlit'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    machine = records.decode(Machine, json.loads(done.stdout))
    assert machine.source == "probe"
    assert machine.cpu.usable_cores


# --- estimate --------------------------------------------------------------------------------

ANSWER = {
    "allocated_bytes": 3 * GIB,
    "reserved_bytes": 4 * GIB,
    "process_bytes": 16 * GIB,
    "interval": {"process_bytes": [15 * GIB, 17 * GIB], "step_seconds": [0.4, 0.6]},
    "capacity_bytes": 14 * GIB,
    "verdict": "does_not_fit",
    "phases": {"forward": GIB, "backward": 3 * GIB},
    "categories": {"weights": 2 * GIB},
    "step_seconds": 0.5,
    "tokens_per_second": None,
    "assumptions": ["Every batch is full."],
    "elapsed_seconds": 1.0,
}


@pytest.fixture
def workers(monkeypatch):
    class FakeWorker:
        closed = 0

        def close(self):
            FakeWorker.closed += 1

    monkeypatch.setattr("advisor.simulate.worker.Worker", FakeWorker)
    monkeypatch.setattr("advisor.spec.answer", lambda document, *, worker: {**document, **ANSWER})
    return FakeWorker


def test_estimate_prints_the_answer_to_the_document(capsys, workers, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text('{"id": 7}', encoding="utf-8")
    code, out, _ = run(capsys, "estimate", str(path), "--json")
    assert code == 0
    assert json.loads(out) == {"id": 7, **ANSWER}
    assert workers.closed == 1


def test_estimate_text_has_bad_news_first_and_intervals(capsys, workers, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text("{}", encoding="utf-8")
    code, out, _ = run(capsys, "estimate", str(path))
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("Does not fit: the peak is 16.0 GiB (15.0 to 17.0), and 14.0 GiB")
    assert "process            16.0 GiB  15.0 GiB to 17.0 GiB" in lines
    assert "allocated          3.0 GiB   unknown" in lines
    assert "step               0.5 s     0.4 s to 0.6 s" in lines
    assert "tokens per second  unknown" in lines
    assert "  backward  3.0 GiB" in lines
    assert lines[-1] == "  Every batch is full."


def test_estimate_text_of_an_unknown_answer(capsys, workers, tmp_path, monkeypatch):
    nothing = dict.fromkeys(ANSWER)
    monkeypatch.setattr("advisor.spec.answer", lambda document, *, worker: nothing)
    path = tmp_path / "spec.json"
    path.write_text("{}", encoding="utf-8")
    code, out, _ = run(capsys, "estimate", str(path))
    assert code == 0
    assert out.startswith("Unknown whether it fits: the peak is unknown; unknown free.")


# --- export ----------------------------------------------------------------------------------


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(FOUND.to_dict("zh")), encoding="utf-8")
    return path


@pytest.fixture
def verified(monkeypatch):
    """The parse-back, which test_arguments runs for real, as a list of what it was given."""
    calls = []
    monkeypatch.setattr(cli, "verify", lambda values, name: calls.append((values, name)))
    return calls


@pytest.mark.parametrize("name", ["hf-json", "training-arguments-json"])
def test_export_verifies_what_it_prints(capsys, plan_file, verified, name):
    code, out, _ = run(capsys, "export", str(plan_file), "--format", name)
    assert code == 0
    assert verified == [(json.loads(out), name)]
    assert json.loads(out)["learning_rate"] == 2e-4


def test_export_prints_nothing_that_does_not_verify(capsys, plan_file, monkeypatch):
    def fail(values, name):
        raise InputError("seed reads back as 1.", field="seed")

    monkeypatch.setattr(cli, "verify", fail)
    code, out, err = run(capsys, "export", str(plan_file), "--format", "hf-json")
    assert (code, out, err) == (2, "", "error: seed reads back as 1.\n")


def test_export_text_is_byte_identical_to_the_library(capsys, plan_file, verified):
    from advisor.export import FORMATS, export

    for name in FORMATS:
        _, out, _ = run(capsys, "export", str(plan_file), "--format", name)
        assert out == export(FOUND, name).text
        _, out, _ = run(capsys, "export", str(plan_file), "--format", name, "--json")
        assert json.loads(out) == records.encode(export(FOUND, name))


def test_export_list_names_the_formats(capsys):
    code, out, _ = run(capsys, "export", "--format", "list")
    assert code == 0
    assert out.startswith("hf-json")
    _, out, _ = run(capsys, "export", "--format", "list", "--json")
    assert {row["name"] for row in json.loads(out)} >= {"hf-json", "command", "plan-json"}


def test_export_of_something_else_says_so(capsys, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"x": 1}', encoding="utf-8")
    code, _, err = run(capsys, "export", str(path), "--format", "command")
    assert code == 2
    assert "plan.json" in err


# --- catalogues ------------------------------------------------------------------------------


def test_both_languages_say_the_same_with_the_same_places():
    import string

    def places(text):
        return sorted(p[1:3] for p in string.Formatter().parse(text) if p[1])

    english = advisor.locale.catalogue("advisor.console", "en")
    chinese = advisor.locale.catalogue("advisor.console", "zh")
    assert list(english) == list(chinese)
    for name in english:
        assert places(english[name]) == places(chinese[name]), name


def test_a_closed_pipe_is_no_error():
    script = (
        "import sys; from advisor.__main__ import main;"
        "sys.exit(main(['export', '--format', 'list', '--json']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0
