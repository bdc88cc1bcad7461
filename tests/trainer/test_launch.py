"""Starting, stopping and losing runs, with real supervisors and trainers."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from advisor import records
from advisor.errors import InputError
from advisor.hardware.choice import choose
from advisor.hardware.machine import Gpu, Machine
from trainer import launch, process, record, runs

LONG = {"max_steps": 1_000_000, "logging_steps": 20}


@pytest.fixture(scope="module")
def killed(bench):
    """Two starts at once of a long run whose trainer is then killed from outside."""
    run_dir = runs.create_run("killed", plan=None, arguments=bench.arguments(**LONG))
    barrier, refused = threading.Barrier(2), []

    def start():
        barrier.wait()
        try:
            launch.start(run_dir)
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begun = runs.read_status(run_dir)
    bench.wait(lambda: bench.steps(run_dir) > 20)
    running = runs.read_status(run_dir)
    data = record.read_object(run_dir / record.RECORD)
    children = psutil.Process(data["supervisor"]["pid"]).children()
    trainer = psutil.Process(running.pid)
    facts = {
        "cmdline": trainer.cmdline(),
        "cwd": trainer.cwd(),
        "environment": trainer.environ(),
        "session": os.getsid(trainer.pid),
        "children": [child.pid for child in children],
    }
    trainer.kill()
    bench.wait(lambda: not runs.is_active(run_dir))
    return run_dir, refused, begun, running, facts


def test_two_starts_at_once_make_one_run(bench, killed):
    run_dir, refused, begun, running, facts = killed
    assert len(refused) == 1
    assert "running already" in refused[0]
    assert begun.state == "starting"
    assert running.state == "running"
    assert facts["children"] == [running.pid]
    assert len(bench.events(run_dir, "start")) == 1


def test_command_is_what_runs(killed):
    run_dir, _, _, _, facts = killed
    assert facts["cmdline"] == launch.command(run_dir)
    assert facts["cwd"] == str(run_dir)
    assert facts["environment"]["PYTHONUNBUFFERED"] == "1"
    assert facts["session"] != os.getsid(0)


def test_command_of_a_run_to_be_made_is_the_same(tmp_path):
    coming = launch.command(tmp_path / "later")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / record.PLAN).touch()
    assert coming == launch.command(tmp_path / "later")


def test_killed_trainer_is_failed_with_the_likely_reason(killed):
    run_dir = killed[0]
    status = runs.read_status(run_dir)
    assert (status.state, status.signal, status.exit_code) == ("failed", 9, None)
    assert "from outside" in status.error  # nothing was killed for want of memory meanwhile
    assert status.step > 0
    assert record.read_object(run_dir / record.RECORD)["state"] == "failed"


def test_started_run_is_not_started_again(killed):
    with pytest.raises(InputError, match="resume"):
        launch.start(killed[0])


def test_stopping_what_does_not_run_is_refused(killed):
    with pytest.raises(InputError, match="does not run"):
        launch.stop(killed[0])
    assert not (killed[0] / record.STOP).exists()


def test_stop_while_starting_ends_without_a_checkpoint(bench):
    run_dir = runs.create_run("early", plan=None, arguments=bench.arguments(**LONG))
    launch.start(run_dir)
    bench.wait(lambda: runs.read_status(run_dir).pid)
    time.sleep(1)  # inside the imports of torch and transformers
    launch.stop(run_dir)
    bench.wait(lambda: not runs.is_active(run_dir), seconds=20)
    status = runs.read_status(run_dir)
    assert (status.state, status.exit_code) == ("stopped", 0)
    assert [event["event"] for event in bench.events(run_dir)] == ["end"]
    assert not list(run_dir.glob("checkpoints/*"))
    with pytest.raises(InputError, match="does not run"):
        launch.stop(run_dir)


def test_forced_stop_kills_and_says_so(bench):
    run_dir = runs.create_run("forced", plan=None, arguments=bench.arguments(**LONG))
    launch.start(run_dir)
    bench.wait(lambda: runs.read_status(run_dir).pid)
    launch.stop(run_dir, force=True)
    bench.wait(lambda: not runs.is_active(run_dir), seconds=20)
    status = runs.read_status(run_dir)
    assert (status.state, status.signal) == ("stopped", signal.SIGKILL)
    assert "without a checkpoint" in status.error


def test_reused_pid_is_not_taken_for_ours(bench):
    run_dir = runs.create_run("reused", plan=None, arguments=bench.arguments())
    other = {"pid": os.getpid(), "create_time": psutil.Process().create_time() - 100}
    record.update(run_dir, state="running", trainer=other, supervisor=other)
    record.write_json(run_dir / record.LOCK, other)
    assert not runs.is_active(run_dir)
    assert runs.read_status(run_dir).state == "lost"
    with pytest.raises(InputError, match="does not run"):
        launch.stop(run_dir)  # this very test would get the signal


def test_zombie_does_not_count_as_alive():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    identity = process.identify(child.pid)
    deadline = time.monotonic() + 10
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not process.is_alive(identity)
    child.wait()


def test_trainer_sees_the_gpu_of_its_plan_alone(bench):
    gpus = (
        Gpu(name="A", index=0, uuid="GPU-a", free_bytes=1, source="measured"),
        Gpu(name="B", index=1, uuid="GPU-b", free_bytes=2, source="measured"),
    )
    plan = {"plan": {"devices": 1}, "machine": records.encode(Machine(name="two", gpus=gpus))}
    run_dir = runs.create_run("gpu", plan=plan, arguments=bench.arguments())
    assert launch._environment(run_dir)["CUDA_VISIBLE_DEVICES"] == "GPU-b"


@pytest.mark.parametrize("uuid", ["GPU-a", "MIG-c"])
def test_trainer_sees_the_gpu_that_was_asked_for_alone(bench, uuid):
    gpus = (
        Gpu(name="A", index=0, uuid="GPU-a", free_bytes=1, vendor="nvidia", source="measured"),
        Gpu(name="B", index=1, uuid="GPU-b", free_bytes=2, vendor="nvidia", source="measured"),
        Gpu(name="C", uuid="MIG-c", parent_uuid="GPU-d", vendor="nvidia", source="measured"),
    )
    chosen = choose(Machine(name="three", gpus=gpus), uuid)
    plan = {"plan": {"devices": 1}, "machine": records.encode(chosen)}
    run_dir = runs.create_run("gpu", plan=plan, arguments=bench.arguments())
    assert launch._environment(run_dir)["CUDA_VISIBLE_DEVICES"] == uuid


def test_plan_for_several_devices_is_refused_and_stays_startable(bench):
    plan = {"plan": {"devices": 2}}
    run_dir = runs.create_run("two", plan=plan, arguments=bench.arguments())
    with pytest.raises(InputError, match="torchrun"):
        launch.start(run_dir)
    assert not (run_dir / record.LOCK).exists()


def test_launch_side_imports_nothing_heavy():
    code = (
        "import sys, trainer.launch, trainer.runs, trainer.supervise, trainer.__main__;"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'accelerate', 'pandas'};"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
