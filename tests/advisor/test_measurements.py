"""Calibration: a busy machine is refused and what was known is kept."""

import os
import subprocess
import sys

import psutil
import pytest

from advisor import measurements
from advisor.__main__ import EXIT_USER_ERROR, main
from advisor.errors import InputError, WorkerError
from advisor.hardware.load import Busy, Foreign, busiest
from advisor.hardware.machine import Cpu

FOUND = {
    "curves": {"kind:elementwise single": [[1000.0, 1e-6]]},
    "matmul": {"single": {"rates": [0.0, 1e-11, 0.0, 0.0, 0.0, 0.0], "shapes": []}},
    "attention": {},
    "host_seconds": {"forward": 1e-6, "backward": 1e-6, "view": 1e-7, "step": 1e-3},
    "in_situ": 1.0,
    "half_known": True,
    "num_threads": 2,
    "spread": 0.02,
    "foreign": 0.01,
}


class Others:
    used = 0.0

    def processors(self):
        return self.used


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path))
    monkeypatch.setattr(measurements, "Foreign", Others)
    monkeypatch.setattr(Others, "used", 0.0)
    monkeypatch.setattr(measurements, "busiest", lambda: (Busy(pid=7, name="make", processors=1),))
    monkeypatch.setattr(measurements, "_run_probe", lambda *_: FOUND)
    return tmp_path


def test_a_calibration_is_kept_and_found_again(home):
    assert measurements.calibration_state() == "never"
    made = measurements.calibrate()
    assert measurements.calibration_state() == "current"
    assert measurements.calibration().measured_at == made.measured_at
    assert made.tables.matmul_flops_per_second("single") == pytest.approx(2e11)


@pytest.mark.parametrize("changes", [{"foreign": 0.5}, {"spread": 0.6}, {"in_situ": 2.0}])
def test_a_machine_that_turns_out_busy_keeps_the_old_rates(home, monkeypatch, changes):
    kept = measurements.calibrate()
    monkeypatch.setattr(measurements, "_run_probe", lambda *_: {**FOUND, **changes})
    with pytest.raises(InputError, match="known before are kept"):
        measurements.calibrate()
    assert measurements.calibration().measured_at == kept.measured_at


def test_a_busy_machine_is_refused_by_name_before_anything_is_measured(home, monkeypatch, capsys):
    monkeypatch.setattr(Others, "used", 0.9)
    monkeypatch.setattr(measurements, "_run_probe", lambda *_: pytest.fail("measured"))
    assert main(["calibrate"]) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert "make (7)" in said
    assert "0.9 processors" in said


def test_other_libraries_make_it_stale(home, monkeypatch):
    measurements.calibrate()
    monkeypatch.setattr(measurements, "_made_for", lambda: ("3.0", "6.0", "2 processors"))
    assert measurements.calibration_state() == "stale"
    assert measurements.calibration() is None


@pytest.fixture
def on(monkeypatch):
    """Pretends another processor or number of threads."""

    def pretend(model="A", cores=2, **environ):
        for name in measurements._THREADS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        cpu = Cpu(model=model, usable_cores=cores)
        monkeypatch.setattr(measurements.host, "read_cpu", lambda _limits: cpu)
        measurements._made_for.cache_clear()

    yield pretend
    measurements._made_for.cache_clear()


OTHERS = [{"model": "B"}, {"cores": 1}, {"OMP_NUM_THREADS": "1"}]


@pytest.mark.parametrize("other", OTHERS)
def test_another_processor_quota_or_number_of_threads_makes_it_stale(home, on, other):
    on()
    measurements.calibrate()
    on(**other)
    assert measurements.calibration_state() == "stale"
    on()
    assert measurements.calibration_state() == "current"


class Asked:
    def __init__(self):
        self.num_calls = 0

    def call(self, _method, _params, **_):
        self.num_calls += 1
        return self.num_calls


def test_a_small_measurement_is_kept_for_each_processor(home, on):
    worker, seen = Asked(), []
    for machine in ({}, *OTHERS, {}, *OTHERS):
        on(**machine)
        seen.append(measurements.measured("baseline", worker, None))
    assert seen == [1, 2, 3, 4] * 2


def test_a_damaged_file_is_none(home):
    measurements.calibrate()
    next((home / "cache").glob("calibration-*.json")).write_text("{")
    assert measurements.calibration_state() == "never"


def test_a_calibration_can_be_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_ADVISOR_HOME", str(tmp_path))
    with pytest.raises(WorkerError, match="Cancelled"):
        measurements._run_probe(["advisor.simulate.cpu_probe"], {}, None, lambda: True)


def test_a_program_that_computes_is_seen():
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        seen = {b.pid for b in busiest(seconds=0.5, least=0.05)}
    finally:
        spinning.kill()
        spinning.wait()
    assert spinning.pid in seen
    assert os.getpid() not in seen


def test_programs_of_a_lower_priority_count(monkeypatch):
    class Times:
        user = system = nice = 0.0

    monkeypatch.setattr(psutil, "cpu_times", Times)
    counted = Foreign()
    monkeypatch.setattr(Times, "nice", 1e6)
    assert counted.processors() > 1
