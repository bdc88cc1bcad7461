"""Faults put into real runs: what is lost, and whether what is said of the run is true.

Each test makes a row of the fault table. `fault_site` holds the faults that need to be inside of
the trainer's process; signals, full disks and limits come from outside.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import save_file

import trainer.__main__
from advisor import calibration
from advisor.errors import AdvisorError, InputError
from app import run_texts
from app.run_data import RunData
from trainer import checkpoints, faults, launch, process, record, runs
from trainer.event_log import EventLog
from trainer.run_trainer import RunTrainer
from trainer.stopping import Stop

SITE = Path(__file__).with_name("fault_site")
SAVED = {"max_steps": 60, "save_strategy": "steps", "save_steps": 10}


@pytest.fixture
def put_in(monkeypatch):
    """Puts faults into the trainers that start from now on; see fault_site/sitecustomize.py."""

    def put(**faults):
        monkeypatch.setenv("FAULT", json.dumps(faults))
        monkeypatch.setenv("PYTHONPATH", f"{SITE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    return put


@pytest.fixture
def heal(monkeypatch):
    """Takes the faults out again."""
    return lambda: monkeypatch.setenv("FAULT", "{}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of the given size; (directory, resize). Needs root."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(size, *options):
        argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", *options, "tmpfs", str(where)]
        if subprocess.run(argv, capture_output=True, check=False).returncode:
            pytest.skip("a small disk is mounted by root alone")
        return where

    def resize(size):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(where)], check=True)

    yield mount, resize
    subprocess.run(["umount", "-l", str(where)], capture_output=True, check=False)


def start(bench, slug, root=None, plan=None, **arguments):
    run_dir = runs.create_run(slug, plan=plan, arguments=bench.arguments(**arguments), root=root)
    launch.start(run_dir)
    return run_dir


def ended(bench, run_dir):
    bench.wait(lambda: not runs.is_active(run_dir), seconds=90)
    return runs.read_status(run_dir)


def goes_on(bench, run_dir, at_step):
    """Resume; the run continues from the checkpoint of `at_step` and finishes."""
    assert runs.resume_step(run_dir) == at_step
    launch.resume(run_dir)
    status = ended(bench, run_dir)
    assert (status.state, status.step) == ("finished", 60), status.error
    start_event = bench.events(run_dir, "start")[-1]
    assert (start_event["step"], start_event["resumed_from_step"]) == (at_step, at_step or None)


def lost(run_dir):
    return f"the steps after {runs.resume_step(run_dir)}, the last checkpoint"


def short(status):
    """The first sentence of what is said, with the directory left out of paths."""
    said = status.error.replace(str(status.run_dir), "RUN")
    for end in (". ", "; ", " (["):
        said = said.partition(end)[0]
    return said.removesuffix(".") + "."


def supervisor_of(run_dir):
    return record.read_object(run_dir / record.RECORD)["supervisor"]["pid"]


# --- killed ----------------------------------------------------------------------------------


@pytest.mark.full
def test_kill_of_the_trainer(bench, put_in, heal, table_row):
    put_in(seconds_a_step=0.05)
    run_dir = start(bench, "kill-trainer", **SAVED)
    bench.wait(lambda: bench.steps(run_dir) >= 14)
    os.kill(runs.read_status(run_dir).pid, signal.SIGKILL)
    status = ended(bench, run_dir)
    assert (status.state, status.signal) == ("failed", signal.SIGKILL)
    assert "from outside" in status.error
    assert status.error.count("GiB") + status.error.count("MiB") >= 1  # what it held
    table_row(
        "faults",
        "kill -9 of the trainer",
        "the supervisor records it; Resume is offered",
        f"failed: {short(status)}",
        lost(run_dir),
    )
    heal()
    goes_on(bench, run_dir, 10)
    losses = bench.losses(run_dir)
    assert list(losses) == list(range(1, 61))


@pytest.mark.full
def test_kill_of_the_supervisor_alone(bench, put_in, table_row):
    put_in(seconds_a_step=0.05)
    run_dir = start(bench, "kill-supervisor", **SAVED)
    bench.wait(lambda: bench.steps(run_dir) >= 5)
    os.kill(supervisor_of(run_dir), signal.SIGKILL)
    assert runs.read_status(run_dir).state == "running"
    with pytest.raises(InputError, match="running already"):
        launch.resume(run_dir)
    status = ended(bench, run_dir)
    assert (status.state, status.step, status.error) == ("finished", 60, None)
    table_row(
        "faults",
        "kill -9 of the supervisor",
        "the trainer goes on",
        "running, then finished",
        "nothing",
    )


@pytest.mark.full
def test_kill_of_supervisor_and_trainer(bench, put_in, heal, table_row):
    put_in(seconds_a_step=0.05)
    run_dir = start(bench, "kill-both", **SAVED)
    bench.wait(lambda: bench.steps(run_dir) >= 24)
    trainer = runs.read_status(run_dir).pid
    os.kill(supervisor_of(run_dir), signal.SIGKILL)
    os.kill(trainer, signal.SIGKILL)
    status = ended(bench, run_dir)
    assert status.state == "lost"
    assert "left no word" in status.error
    table_row(
        "faults",
        "kill -9 of supervisor and trainer",
        "seen by pid and start time; Resume is offered",
        f"lost: {short(status)}",
        lost(run_dir),
    )
    heal()
    goes_on(bench, run_dir, 20)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signal_while_a_checkpoint_is_written(bench, put_in, heal, tmp_path, table_row, number):
    saving = tmp_path / "saving"
    put_in(seconds_a_save=2, saving=str(saving), seconds_a_step=0.01)
    run_dir = start(bench, f"save-{number.name}", **SAVED)
    checkpoints_of = run_dir / "checkpoints"
    bench.wait(saving.exists)
    saving.unlink()
    bench.wait(saving.exists)  # inside the second checkpoint, whose optimizer.pt is cut
    os.kill(runs.read_status(run_dir).pid, number)
    status = ended(bench, run_dir)
    heal()
    if number == signal.SIGTERM:
        assert status.state == "stopped", status.error
        assert status.step >= 20
        said, gone, at = "stopped", "nothing", status.step
        what = "the checkpoint is completed, then it stops"
    else:
        assert (checkpoints_of / "checkpoint-20").is_dir()
        said, gone, at = f"failed: {short(status)}", lost(run_dir), 10
        what = "the checkpoint that is cut is never chosen"
    table_row(
        "faults",
        f"{number.name} while a checkpoint is written",
        what,
        said,
        gone,
    )
    goes_on(bench, run_dir, at)


@pytest.mark.full
def test_files_of_a_checkpoint_cut_short_are_never_resumed_from(bench, table_row):
    """Each file in turn, as a machine that lost power leaves it: there, and not whole."""
    run_dir = Path(
        bench.train(
            bench.write(max_steps=20, save_strategy="steps", save_steps=10)
        ).stdout.splitlines()[0]
    )
    folder = run_dir / "checkpoints"
    newest = folder / "checkpoint-20"
    assert checkpoints.newest_checkpoint(folder) == newest
    names = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt")
    for name in (*names, "rng_state.pth"):
        whole = (newest / name).read_bytes()
        for content in (b"", whole[: len(whole) // 2], whole[:-2]):
            (newest / name).write_bytes(content)
            assert checkpoints.newest_checkpoint(folder) == folder / "checkpoint-10", name
        (newest / name).write_bytes(whole)
    assert checkpoints.newest_checkpoint(folder) == newest
    table_row(
        "faults",
        "power lost: a file of the newest checkpoint is cut or empty",
        "the checkpoint before it is taken",
        "resume goes on from step 10",
        "steps 11 to 20",
    )


# --- disk ------------------------------------------------------------------------------------


@pytest.mark.full
def test_disk_full_while_a_checkpoint_is_written(bench, small_disk, put_in, table_row):
    mount, resize = small_disk
    put_in(seconds_a_step=0.01)
    disk = mount("1400k")
    run_dir = start(bench, "full", root=disk, **SAVED)
    status = ended(bench, run_dir)
    assert (status.state, status.exit_code) == ("failed", 1)
    assert "could not be saved" in status.error
    assert record.read_object(run_dir / record.RECORD)["state"] == "failed"
    saved = sorted(int(p.name.partition("-")[2]) for p in (run_dir / "checkpoints").iterdir())
    assert saved  # and nothing that is not complete
    assert runs.resume_step(run_dir) == saved[-1] == status.step - 10
    table_row(
        "faults",
        "disk full while a checkpoint is written (a disk of 1.4 MB)",
        "what is half written is removed; Resume is offered",
        f"failed: {short(status)}",
        lost(run_dir),
    )
    resize("64m")
    goes_on(bench, run_dir, saved[-1])


def fill(disk):
    """A file that leaves no room on the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    return filler


@pytest.mark.full
def test_disk_full_while_events_are_written(bench, small_disk, put_in, table_row):
    mount, _ = small_disk
    put_in(seconds_a_step=0.05)
    run_dir = start(bench, "events", root=mount("8m"), max_steps=200)
    bench.wait(lambda: bench.steps(run_dir) >= 5)
    filler = fill(run_dir.parent)
    time.sleep(2)  # events that find no room
    assert runs.read_status(run_dir).state == "running"
    filler.unlink()
    status = ended(bench, run_dir)
    assert (status.state, status.step) == ("finished", 200), status.error
    (warning,) = [e for e in bench.events(run_dir, "warning") if e["code"] == "events_lost"]
    assert "disk full?" in warning["message"]
    table_row(
        "faults",
        "disk full while events are written, then freed",
        "it trains on",
        f"finished; warning: {warning['message']}",
        "those events; no step",
    )


@pytest.mark.full
def test_disk_full_to_the_end_is_still_said(bench, small_disk, put_in, table_row):
    mount, _ = small_disk
    put_in(seconds_a_step=0.05)
    run_dir = start(bench, "full-to-the-end", root=mount("8m"), **SAVED)
    bench.wait(lambda: bench.steps(run_dir) >= 12)
    fill(run_dir.parent)
    status = ended(bench, run_dir)
    assert (status.state, status.exit_code) == ("failed", 1)
    assert "No space left" in status.error or "could not be saved" in status.error
    assert runs.resume_step(run_dir) == 10
    filler = run_dir.parent / "filler"
    fill(run_dir.parent)
    with pytest.raises(InputError, match="is full"):
        launch.resume(run_dir)
    filler.unlink()
    table_row(
        "faults",
        "disk full to the end",
        "how it ended goes into room that was held back",
        f"failed: {short(status)} Resume before space is freed: refused in words",
        "steps since the last checkpoint",
    )
    goes_on(bench, run_dir, 10)


WRITERS = {
    "python": lambda path: path.write_bytes(b"x" * 100_000),
    "safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
    "torch": lambda path: torch.save({"a": torch.zeros(100_000)}, path),
}


@pytest.fixture
def saver(tmp_path, monkeypatch):
    """A trainer of which Trainer's own saving does what a test puts in its place."""

    def build(fail):
        def put(self, *_, **__):
            (tmp_path / "checkpoint-7").mkdir(exist_ok=True)
            fail()

        monkeypatch.setattr(transformers.Trainer, "_save_checkpoint", put)
        monkeypatch.setattr(transformers.Trainer, "save_model", put)
        made = RunTrainer.__new__(RunTrainer)
        made.args = types.SimpleNamespace(output_dir=str(tmp_path))
        made.state = types.SimpleNamespace(global_step=7)
        return made

    return build


def said_by(saver, fail, save):
    with pytest.raises(AdvisorError) as raised:
        save(saver(fail))
    return raised.value


@pytest.mark.parametrize("save", [RunTrainer._save_checkpoint, RunTrainer.save_result])
@pytest.mark.parametrize(
    ("number", "do"), [(errno.ENOSPC, "free some"), (errno.EROFS, "make its directory writable")]
)
def test_what_could_not_be_saved_is_said_by_its_number(tmp_path, saver, save, number, do):
    def fail():
        raise OSError(number, os.strerror(number))

    said = str(said_by(saver, fail, save))
    assert do in said
    assert os.strerror(number) in said
    assert "from step 0" in said
    what = "The trained model" if save is RunTrainer.save_result else "Step 7"
    assert said.startswith(f"{what} could not be saved in {tmp_path}")


@pytest.mark.parametrize("library", WRITERS)
def test_each_library_that_finds_no_place_is_understood(tmp_path, saver, library):
    said = said_by(
        saver,
        lambda: WRITERS[library](tmp_path / "not" / "there"),
        RunTrainer._save_checkpoint,
    )
    assert said.id == "faults.checkpoint_unwritable"
    assert not (tmp_path / "checkpoint-7").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_torch_that_finds_no_room_is_understood(saver):
    said = said_by(saver, lambda: WRITERS["torch"]("/dev/full"), RunTrainer._save_checkpoint)
    assert said.id == "faults.checkpoint"


def test_safetensors_that_finds_no_room_is_understood():
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    said = faults.saving_error(SafetensorError(text), Path("/x/checkpoint-7"), step=7, last=None)
    assert said.id == "faults.checkpoint"


@pytest.mark.parametrize("save", [RunTrainer._save_checkpoint, RunTrainer.save_result])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled system error"),
        SafetensorError("Error while serializing: header too large"),
    ],
)
def test_other_failures_while_saving_are_not_taken_for_the_disk(saver, save, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as raised:
        save(saver(fail))
    assert raised.value is error


def test_output_on_a_full_disk(bench, table_row):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "trainer", bench.write(max_steps=2)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    table_row(
        "faults",
        "disk full while output.log is written (/dev/full)",
        "it trains on",
        "finished",
        "those lines",
    )


def test_event_that_finds_no_room_is_left_out_as_a_whole(tmp_path):
    log = EventLog(Path("/dev/full"))
    assert not log.write("log", step=1)
    log.close()
    log = EventLog(tmp_path / "events.jsonl")
    room = log._file

    class Short:
        """Room for 10 bytes."""

        def write(self, line):
            room.write(line[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(room, name)

    assert log.write("log", step=1)
    log._file = Short()
    assert not log.write("log", step=2)
    log._file = room
    assert log.write("log", step=3)
    log.close()
    lines = [json.loads(x) for x in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(e["event"], e["step"]) for e in lines] == [("log", 1), ("log", 3), ("warning", 3)]


@pytest.mark.full
def test_last_line_of_the_events_is_half_written(bench, put_in, heal, table_row):
    put_in(seconds_a_step=0.05)
    run_dir = start(bench, "half", **SAVED)
    bench.wait(lambda: bench.steps(run_dir) >= 14)
    os.kill(runs.read_status(run_dir).pid, signal.SIGKILL)
    before = ended(bench, run_dir)
    with (run_dir / record.EVENTS).open("a") as file:
        file.write('{"v": 1, "event": "log", "time": 17000')
    assert runs.read_status(run_dir) == before
    heal()
    launch.resume(run_dir)
    assert ended(bench, run_dir).state == "finished"
    seen = RunData(run_dir).update()
    assert seen.series["loss"].steps.tolist() == list(range(1, 61))
    table_row(
        "faults",
        "last line of events.jsonl half written",
        "readers stop before it, a resumed run closes it",
        "state and step of the line before",
        "that line",
    )


# --- the directory ---------------------------------------------------------------------------


@pytest.mark.full
def test_run_directory_deleted_while_it_trains(bench, put_in, table_row):
    put_in(seconds_a_step=0.05)
    run_dir = start(bench, "deleted", max_steps=100_000)
    bench.wait(lambda: bench.steps(run_dir) >= 5)
    data = record.read_object(run_dir / record.RECORD)
    shutil.rmtree(run_dir)
    alive = [process.find(data[name]) for name in ("supervisor", "trainer")]
    gone, still = psutil.wait_procs([p for p in alive if p], timeout=30)
    assert not still
    assert gone
    assert not run_dir.exists()
    assert runs.resume_step(run_dir) is None
    table_row(
        "faults",
        "run directory deleted while it trains",
        "the trainer notices within a step and ends: nobody could see or stop it",
        "the page: there is no such run",
        "the run",
    )


@pytest.mark.full
def test_run_directory_becomes_read_only(bench, put_in, table_row):
    """Root without the capability that lets it write everywhere, where we are root."""
    bound = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("permissions do not bind root, and setpriv of util-linux is not there")
        held = "-dac_override,-dac_read_search"
        bound = ["setpriv", f"--bounding-set={held}", f"--inh-caps={held}", "--"]
    put_in(seconds_a_step=0.05)
    folder = bench.root / "read-only"
    argv = [*bound, sys.executable, "-P", "-m", "trainer", bench.write(**SAVED)]
    with subprocess.Popen(
        [*argv, "--run-dir", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            bench.wait(lambda: child.poll() is not None or bench.steps(folder) >= 14)
            for path in (folder, folder / "checkpoints"):
                path.chmod(0o500)
            said = child.communicate(timeout=60)[1]
        finally:
            folder.chmod(0o700)
            (folder / "checkpoints").chmod(0o700)
    assert child.returncode == 1, said
    assert "Step 20 could not be saved" in said.splitlines()[-1]
    assert "ermission denied" in said.splitlines()[-1]
    status = runs.read_status(folder)
    assert (status.state, status.step) == ("failed", 20)
    assert "could not be saved" in status.error  # events.jsonl itself could be written
    assert runs.resume_step(folder) == 10
    table_row(
        "faults",
        "run directory becomes read-only",
        "it ends at the next checkpoint; Resume is offered once it can be written to",
        f"failed: {short(status)}",
        lost(folder),
    )


# --- memory ----------------------------------------------------------------------------------


def test_accelerator_out_of_memory(bench, put_in, table_row):
    """The class that torch raises, in the step of a CPU run: words, record and calibration."""
    put_in(device_memory_at=3)
    run_dir = start(bench, "oom", plan={"memory": {"process_bytes": 5 * 2**30}}, max_steps=20)
    status = ended(bench, run_dir)
    assert (status.state, status.exit_code) == ("failed", 1)
    for part in ("at step 4", "3 rows", "the plan predicted a peak of 5.0 GiB", "2.00 GiB"):
        assert part in status.error
    longest = max(len(t) for t in bench.data.read_text().splitlines())
    tokens = int(status.error.partition("longest of ")[2].split()[0])
    assert 1 < tokens <= min(48, longest)
    assert status.measured["out_of_memory"] is True
    assert calibration._read(run_dir / record.RECORD)["measured"]["out_of_memory"] is True
    chinese = run_texts.cause(
        run_texts.Run(status=status, recommendation=None, data=RunData(run_dir)), "zh"
    )
    assert "\u7b2c 4 \u6b65" in chinese
    assert "Traceback" in (run_dir / record.OUTPUT).read_text()
    table_row(
        "faults",
        "the accelerator runs out of memory (the exception raised inside a CPU step)",
        "run.json says so, calibration hears of it; Resume is offered",
        f"failed: {short(status)}",
        "steps since the last checkpoint",
    )


def device_failure():
    return type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")


def raised_from(cause):
    error = AdvisorError("runs.said", said="no memory")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("use_cpu", [True, False])
@pytest.mark.parametrize(
    ("cause", "of_the_host"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (device_failure(), False),
        (RuntimeError("CUDA error: an illegal memory access"), None),
    ],
)
def test_only_the_memory_that_the_plan_predicts_speaks_against_it(
    tmp_path, monkeypatch, cause, of_the_host, use_cpu
):
    """A host without memory does not say that the plan of a GPU was wrong."""
    run_dir = runs.create_run("x", plan=None, arguments={"use_cpu": use_cpu}, root=tmp_path)
    failing = types.ModuleType("trainer.train")

    def train(*_, **__):
        raise raised_from(cause)

    failing.train = train
    monkeypatch.setitem(sys.modules, "trainer.train", failing)
    monkeypatch.setattr(Stop, "listen", lambda self: None)
    with pytest.raises(AdvisorError):
        trainer.__main__._train(run_dir)
    expected = of_the_host is not None and (use_cpu or not of_the_host)
    assert runs.read_status(run_dir).measured == ({"out_of_memory": True} if expected else {})


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux")
def test_host_memory_at_its_limit(bench, put_in, table_row):
    put_in(host_limit_at=3)
    run_dir = start(bench, "limit", **SAVED)
    status = ended(bench, run_dir)
    assert (status.state, status.exit_code) == ("failed", 1)
    for part in ("memory (RAM) did not suffice at step 4", "held", "were free", "3 rows"):
        assert part in status.error
    assert status.measured["out_of_memory"] is True  # the memory that the plan of a CPU predicts
    table_row(
        "faults",
        "host memory at its limit (RLIMIT_AS)",
        "Resume is offered",
        f"failed: {short(status)}",
        "steps since the last checkpoint",
    )


@pytest.fixture
def small_cgroup():
    """A cgroup of 1.5 GB without swap; its cgroup.procs. Needs root."""
    v1 = Path("/sys/fs/cgroup/memory")
    parent = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
    folder = parent / f"training-advisor-test-{os.getpid()}"
    try:
        folder.mkdir()
        if v1.is_dir():
            (folder / "memory.limit_in_bytes").write_text("1500000000")
        else:
            (folder / "memory.max").write_text("1500000000")
            (folder / "memory.swap.max").write_text("0")
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no memory cgroup can be made: {error}")
    yield folder / "cgroup.procs"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # its last process is still there
            folder.rmdir()
            break
        time.sleep(0.1)


@pytest.mark.full
def test_kernel_kills_for_want_of_memory(bench, put_in, heal, small_cgroup, table_row):
    put_in(eat_at=13)
    run_dir = runs.create_run("eaten", plan=None, arguments=bench.arguments(**SAVED))
    code = (
        "import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()));"
        "from trainer import launch; launch.start(pathlib.Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, small_cgroup, run_dir], check=True)
    status = ended(bench, run_dir)
    assert (status.state, status.signal) == ("failed", signal.SIGKILL)
    assert "ran out of memory (RAM), so the kernel killed it" in status.error
    assert "MiB" in status.error or "GiB" in status.error
    table_row(
        "faults",
        "the kernel kills the trainer for want of RAM (a cgroup of 1.5 GB)",
        "told from a kill -9 by the kernel's own count; Resume is offered",
        f"failed: {short(status)}",
        lost(run_dir),
    )
    heal()
    goes_on(bench, run_dir, 10)


# --- numbers and clocks ----------------------------------------------------------------------


@pytest.mark.full
def test_loss_that_is_no_number(bench, table_row):
    done = bench.train(bench.write(learning_rate=1e9, **{**SAVED, "max_steps": 20}))
    run_dir = Path(done.stdout.splitlines()[0])
    (warning,) = [e for e in bench.events(run_dir, "warning") if e["code"] == "loss_not_finite"]
    assert "most likely lost" in warning["message"]
    assert "smaller learning_rate" in warning["message"]
    seen = RunData(run_dir).update()
    assert seen.series["loss"].bad_steps()
    table_row(
        "faults",
        "the loss becomes NaN",
        "it trains on",
        f"warning: {warning['message']}",
        "what was learned",
    )


def test_clock_set_back_takes_no_process_for_gone(tmp_path, monkeypatch, table_row):
    me = process.identify(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: me["create_time"] - 3600)
    assert process.is_alive(me) is (me["since_boot"] is not None)
    assert not process.is_alive({**me, "since_boot": "another-boot 1"})
    log = EventLog(tmp_path / record.EVENTS)
    for step, moment in enumerate((1000.0, 1010.0, 1020.0, 20.0, 30.0)):
        log.write("log" if step else "start", step=step, time=moment, loss=1.0)
    log.close()
    seen = RunData(tmp_path).update()
    assert seen.active_seconds == 30.0
    assert seen.seconds_per_step() == 7.5
    table_row(
        "faults",
        "clock set back while it trains",
        "processes are known by clock ticks since boot; times between events never count below 0",
        "running, with a time left that is not negative",
        "nothing",
    )


def test_pid_is_another_process_now(bench, table_row):
    run_dir = runs.create_run("reused-pid", plan=None, arguments=bench.arguments())
    me = process.identify(os.getpid())
    other = {**me, "create_time": me["create_time"] - 100, "since_boot": "earlier-boot 7"}
    record.update(run_dir, state="running", trainer=other, supervisor=other)
    record.write_json(run_dir / record.LOCK, other)
    status = runs.read_status(run_dir)
    assert status.state == "lost"
    with pytest.raises(InputError, match="does not run"):
        launch.stop(run_dir)  # this very test would get the signal
    table_row(
        "faults",
        "the pid belongs to another process now",
        "pid and start are compared",
        f"lost: {short(status)}",
        "steps since the last checkpoint; the other process gets no signal",
    )
