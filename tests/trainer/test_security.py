"""What comes with a model, a checkpoint or an arguments file cannot make us run code or tell.

Each test makes a row of the security table. The payloads would write a file; none may be there.
"""

import json
import os
import pickle
import re
import shlex
import stat
import subprocess
import sys

import pytest

from advisor import calibration
from advisor.errors import InputError
from app import run_source, run_texts
from app.run_data import RunData
from trainer import launch, record, runs

SECRETS = {
    "HF_TOKEN": "hf_" + "s3cret" * 5,
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "wandbkey",
    "AWS_SECRET_ACCESS_KEY": "aws/not/to/be/seen",
}


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "code-ran"


def pickled(path, mark):
    """The payload where torch.save would have written, as torch reads it."""
    import torch

    torch.save({"state": Payload(mark)}, path)
    with path.with_name("proof").open("wb") as file:
        pickle.dump(Payload(mark), file)
    pickle.loads(path.with_name("proof").read_bytes())  # it does work where pickles are trusted
    assert mark.exists()
    mark.unlink()
    path.with_name("proof").unlink()


def copied(model, folder):
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shell_words(command, cwd=None):
    """How bash reads a command line."""
    script = f'printf "%s\\0" {command}'
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=cwd
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.full
def test_pickle_as_weights_of_a_model(bench, tmp_path, mark, table_row):
    model = copied(bench.model, tmp_path / "model")
    pickled(model / "pytorch_model.bin", mark)
    arguments = bench.arguments(model_name_or_path=str(model), max_steps=2)
    del arguments["config_name"]
    path = tmp_path / "args.json"
    path.write_text(json.dumps(arguments))
    done = bench.train(path, check=False)
    assert not mark.exists()
    assert done.returncode == 2, done.stderr
    assert "cannot be loaded" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    table_row(
        "security",
        "a pickle that runs code as pytorch_model.bin",
        "trained from",
        "refused in one line, exit 2; read with weights_only alone",
    )


@pytest.mark.full
def test_pickles_in_a_checkpoint(bench, mark, table_row):
    """What Trainer reads on resume, one file at a time; training_args.bin it never reads."""
    arguments = bench.write(max_steps=20, save_strategy="steps", save_steps=10)
    run_dir = bench.root / "pickles"
    bench.train(arguments, "--run-dir", run_dir)
    checkpoint = run_dir / "checkpoints" / "checkpoint-10"
    for path in (run_dir / "checkpoints").glob("checkpoint-20/*"):
        path.unlink()
    files = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")
    for name in files:
        record.update(run_dir, state="stopped")
        whole = (checkpoint / name).read_bytes()
        pickled(checkpoint / name, mark)
        done = bench.train(arguments, "--run-dir", run_dir, check=False)
        assert not mark.exists(), name
        if name == "training_args.bin":
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode == 1, name
            assert "eights_only" in done.stderr or "eights only" in done.stderr, name
            assert runs.read_status(run_dir).state == "failed"
        (checkpoint / name).write_bytes(whole)
    table_row(
        "security",
        "pickles that run code in a checkpoint: " + ", ".join(files),
        "resumed from",
        "the first three are refused (weights_only), the last is never read",
    )


@pytest.mark.full
def test_code_that_comes_with_a_model(bench, tmp_path, mark, table_row):
    """auto_map in every file that may have one, switches and all."""
    model = copied(bench.model, tmp_path / "coded")
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    switches = {"trust_remote_code": True, "trust_code": True}
    edit(
        model / "config.json",
        model_type="evil",
        auto_map=dict.fromkeys(names, "evil.Evil"),
        **switches,
    )
    done = bench.train(
        bench.write(config_name=str(model), tokenizer_name=str(bench.model)), check=False
    )
    assert (done.returncode, mark.exists()) == (2, False), done.stderr
    tokenizer = copied(bench.model, tmp_path / "tokenizer")
    (tokenizer / "evil.py").write_bytes((model / "evil.py").read_bytes())
    edit(
        tokenizer / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
        **switches,
    )
    bench.train(bench.write(tokenizer_name=str(tokenizer), max_steps=1), check=False)
    assert not mark.exists()
    for command in ("estimate", "recommend"):
        argv = ["--model", str(model), "--data", str(bench.data)]
        if command == "estimate":
            spec = tmp_path / "spec.json"
            spec.write_text(json.dumps({"model": {"path": str(model)}, "plan": {}}))
            argv = [str(spec)]
        done = subprocess.run(
            [sys.executable, "-m", "advisor", command, *argv],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, mark.exists()) == (2, False), (command, done.stderr)
    table_row(
        "security",
        "code beside a model (auto_map, *.py, trust_remote_code in its files)",
        "described, estimated, recommended for, trained from; a tokenizer too",
        "never run; a type that transformers does not know is refused, exit 2",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_implementation", "kernels-community/flash-attn"),
        ("trust_remote_code", True),
        ("hub_token", "hf_abcdefghijklmnopqrst"),
        ("lr_scheduler_kwargs", {"api_key": "x"}),
    ],
)
def test_arguments_that_bring_code_or_secrets_are_refused(bench, name, value, table_row):
    before = runs.list_runs()
    done = bench.train(bench.write(**{name: value}), check=False)
    assert done.returncode == 2, done.stdout
    assert (name if name != "lr_scheduler_kwargs" else "api_key") in done.stderr
    assert runs.list_runs() == before
    if isinstance(value, str) and value.startswith("hf_"):
        assert value not in done.stderr
    table_row(
        "security",
        f"{name}={json.dumps(value)} in args.json",
        "trained from",
        "refused before a run exists",
    )


def test_secrets_of_the_environment_are_in_no_file(bench, monkeypatch, table_row):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    run_dir = runs.create_run("secrets", plan=None, arguments=bench.arguments(max_steps=2))
    launch.start(run_dir)
    bench.wait(lambda: not runs.is_active(run_dir))
    assert runs.read_status(run_dir).state == "finished"
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        assert not [name for name, value in SECRETS.items() if value.encode() in content], path
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((run_dir / record.OUTPUT).stat().st_mode) == 0o600
    table_row(
        "security",
        "secrets in the environment (" + ", ".join(SECRETS) + ")",
        "a run was started and every byte of its directory was searched",
        "in no file; others may not enter the directory (0700)",
    )


NASTY = (
    *("$(touch {mark})", "`touch {mark}`", "; touch {mark} #", "a'b\"c\\", "sp ace", "*?[x]"),
    *("line\nbreak", "&& touch {mark}", "| tee {mark}", "~", "-rf", "\u7a7a\u767d", "!!", "%s"),
)


def test_shown_commands_are_what_runs_whatever_the_names(tmp_path, table_row):
    unquoted = tmp_path / "unquoted"
    unquoted.mkdir()
    shell_words(NASTY[0].format(mark="ran"), cwd=unquoted)
    assert (unquoted / "ran").exists()  # the names do harm where they are not quoted
    folder = tmp_path / "quoted"
    folder.mkdir()
    for name in (part.format(mark="ran") for part in NASTY):
        run_dir = tmp_path / name / "run"
        shown = shlex.join(launch.command(run_dir))
        assert shell_words(shown, cwd=folder) == launch.command(run_dir)
    assert not list(folder.iterdir())
    table_row(
        "security",
        "shell metacharacters in the path of the runs",
        "the shown command was pasted into bash",
        "the very arguments that are run",
    )


@pytest.mark.full
def test_shell_metacharacters_in_values_stay_values(bench, tmp_path, mark, table_row):
    """A model, data file and output directory of such names is trained with, and nothing else."""
    odd = tmp_path / NASTY[0].format(mark="x").replace("/", "_")
    model = copied(bench.model, odd)
    data = tmp_path / "; touch x #.jsonl"
    data.write_bytes(bench.data.read_bytes())
    run_dir = runs.create_run(
        NASTY[0].format(mark=mark),
        plan=None,
        arguments=bench.arguments(
            config_name=str(model), tokenizer_name=str(model), train_file=str(data),
            output_dir="`touch x`; $(touch x)", max_steps=2,
        ),
    )  # fmt: skip
    assert re.fullmatch(r"[0-9TZ]+-[a-z0-9.-]+", run_dir.name)
    launch.start(run_dir)
    bench.wait(lambda: not runs.is_active(run_dir))
    status = runs.read_status(run_dir)
    assert status.state == "finished", status.error
    assert (run_dir / "`touch x`; $(touch x)" / "checkpoint-2").is_dir() or list(
        (run_dir / "`touch x`; $(touch x)").glob("*.safetensors")
    )
    assert not list(tmp_path.rglob("x"))
    assert not (run_dir / "x").exists()
    assert not mark.exists()
    table_row(
        "security",
        "shell metacharacters as model, data file, run name, output_dir",
        "trained with",
        "they are names: every process gets a list of arguments, no shell",
    )


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..",
        ".",
        "",
        "/etc",
        "a/../../secret",
        "runs/..",
        "..\\secret",
        "x\0y",
        "%2e%2e",
    ],
)
def test_run_names_lead_nowhere_else(name, tmp_path, monkeypatch, table_row):
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "runs").mkdir(parents=True)
    for secret in (tmp_path / "home" / "secret", tmp_path / "secret"):
        secret.mkdir()
        (secret / record.RECORD).write_text("{}")
    assert run_source.find(name) is None
    if name == "../secret":
        table_row(
            "security",
            "path traversal in the name of a run (URL, session)",
            "../secret, /etc, a/../../secret and others were asked for",
            "there is no such run",
        )


def test_links_and_pipes_in_the_runs_are_not_followed(tmp_path, monkeypatch, table_row):
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path / "home"))
    secret = tmp_path / "secret"
    secret.write_text('{"error": "private"}\nprivate\n')
    run_dir = runs.create_run("linked", plan=None, arguments={"train_file": "x"})
    outside = tmp_path / "outside"
    run_dir.rename(outside)
    (run_dir.parent / "link").symlink_to(outside)
    assert run_source.find("link") is None
    assert runs.list_runs() == []
    outside.rename(run_dir)
    (run_dir.parent / "link").unlink()
    for name in (record.EVENTS, record.OUTPUT, record.PLAN):
        (run_dir / name).unlink(missing_ok=True)
        (run_dir / name).symlink_to(secret)
    assert run_texts.log_tail(run_dir / record.OUTPUT) == ""
    assert runs.last_meaningful_line(run_dir / record.OUTPUT) is None
    assert RunData(run_dir).update().num_events == 0
    assert record.read_object(run_dir / record.PLAN) is None
    with pytest.raises((InputError, OSError)):
        launch.start(run_dir)  # output.log is not appended to through the link
    assert secret.read_text().count("private") == 2
    for name in (record.EVENTS, record.OUTPUT, record.PLAN, record.RECORD):
        (run_dir / name).unlink()
        os.mkfifo(run_dir / name)  # whoever opened it would wait for ever
    assert runs.list_runs() == []
    assert runs.read_status(run_dir).state == "lost"
    assert run_texts.log_tail(run_dir / record.OUTPUT) == ""
    assert RunData(run_dir).update().num_events == 0
    assert list(calibration._tales(run_dir.parent)) == []
    table_row(
        "security",
        "symbolic links and pipes among the runs and their files",
        "listed, opened, started",
        "passed over; no file outside is shown or written",
    )


DEEP = "[" * 200_000 + "]" * 200_000


@pytest.mark.full
def test_huge_and_deeply_nested_files(bench, tmp_path, monkeypatch, table_row):
    nested = tmp_path / "deep.json"
    nested.write_text('{"x": ' + DEEP + "}")
    model = copied(bench.model, tmp_path / "deep-model")
    (model / "config.json").write_text('{"model_type": "llama", "x": ' + DEEP + "}")
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"model": {"path": str(model)}, "plan": {}}))
    asked = {
        "args.json of the trainer": ["trainer", nested],
        "SPEC.json": ["advisor", "estimate", nested],
        "plan.json": ["advisor", "export", nested, "--format", "hf-json"],
        "config.json of a model": ["advisor", "estimate", spec],
    }
    for what, argv in asked.items():
        done = subprocess.run(
            [sys.executable, "-m", *map(str, argv)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, (what, done.stderr[-500:])
        assert len(done.stderr.splitlines()) == 1, what
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path / "home"))
    run_dir = runs.create_run("deep", plan=None, arguments={})
    for name in (record.RECORD, record.PLAN, record.EVENTS):
        (run_dir / name).write_text('{"event": ' + DEEP + "}\n")
    assert runs.read_status(run_dir).state == "lost"
    assert RunData(run_dir).update().num_events == 0
    assert calibration._read(run_dir / record.RECORD) == {}
    with (run_dir / record.RECORD).open("wb") as file:
        file.truncate(record.MAX_JSON_BYTES + 1)
    assert record.read_object(run_dir / record.RECORD) is None
    table_row(
        "security",
        "files nested 200,000 deep: " + ", ".join(asked) + "; run.json, events.jsonl",
        "read by the command line and the page",
        "one line and exit 2; the page says that the file is damaged",
    )


@pytest.mark.full
def test_files_that_are_no_data_are_not_shown(bench, tmp_path, table_row):
    """What a link to the page may name: anything that is no data file is refused by its ending."""
    for path in ("/etc/passwd", "/proc/self/environ", str(tmp_path), "/dev/zero"):
        argv = ["recommend", "--model", str(bench.model), "--data", path]
        done = subprocess.run(
            [sys.executable, "-m", "advisor", *argv],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, path
        assert len(done.stderr.splitlines()) == 1
        assert "root:" not in done.stdout + done.stderr
    table_row(
        "security",
        "/etc/passwd, /proc/self/environ, /dev/zero, a directory as data (field, URL)",
        "recommended for",
        "refused in one line; nothing of them is shown",
    )
