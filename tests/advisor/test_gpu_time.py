"""A card's calibration: what is measured, what follows from it, and where it counts."""

import dataclasses

import pytest

from advisor import measurements, records
from advisor.console import calibration_text
from advisor.errors import InputError
from advisor.estimate import Estimator
from advisor.gpu_time import ANCHORS, GpuTables, _expected, calibrated_gpu_rates, fit_anchors
from advisor.hardware.catalogue import machine_from_name
from advisor.hardware.machine import GpuProcess
from advisor.model import ModelDescription
from advisor.plan import TrainingPlan
from advisor.simulate.gpu_probe import measure
from advisor.simulate.make import ProfileStore
from advisor.simulate.worker import Worker

FOUND = {
    "flops_per_second": {"half": 200e12, "single": 17e12},
    "attention": {"half": [150e12, 120e12], "single": [8e12, 6e12]},
    "bytes_per_second": {"elementwise": 1.2e12, "copy": 1.0e12, "reduce": 0.9e12},
    "anchors": {},
    "half": "bfloat16",
    "processors": 108,
    "cache_bytes": 40 * 2**20,
    "spread": 0.01,
}
HOST, RATIO = (1.7, 3e-3), 1.2


@pytest.fixture(scope="module")
def store():
    worker = Worker()
    yield ProfileStore(worker)
    worker.close()


@pytest.fixture(scope="module")
def card():
    gpu = machine_from_name("A100-SXM4-80GB").gpus[0]
    return dataclasses.replace(gpu, uuid="GPU-1", index=0, usable_by_torch=True, processes=())


@pytest.fixture(scope="module")
def tables(card, store):
    """Anchors as long as a card of HOST and RATIO takes."""
    bare = records.decode(GpuTables, FOUND, "test")
    rates = calibrated_gpu_rates(card, bare, HOST, RATIO, "")
    anchors = {name: _expected(card, bare, name, rates, store.get) for name in ANCHORS}
    return dataclasses.replace(bare, anchors=anchors)


def test_the_anchors_give_back_the_host_and_the_ratio(card, tables, store):
    host, ratio = fit_anchors(card, tables, store.get)
    assert host == pytest.approx(HOST, rel=2e-3)
    assert ratio == pytest.approx(RATIO, rel=0.02)


def test_a_card_too_full_for_the_large_anchor_keeps_its_operators(card, tables, store):
    small = {name: took for name, took in tables.anchors.items() if name != "computing"}
    host, ratio = fit_anchors(card, dataclasses.replace(tables, anchors=small), store.get)
    assert host == pytest.approx(HOST, rel=2e-3)
    assert ratio == 1


def test_what_the_probe_finds_is_what_the_tables_hold():
    told = []
    found = measure("cpu", "bfloat16", lambda name, _: told.append(name))
    tables = records.decode(GpuTables, found, "test")
    assert set(tables.anchors) == {"shallow", "deep"}
    assert tables.anchors["deep"] > tables.anchors["shallow"] > 0
    assert min(*tables.flops_per_second.values(), *tables.bytes_per_second.values()) > 0
    assert told[-1] == "calibrate.gpu_trainer"


@pytest.fixture
def calibrated(tmp_path, monkeypatch, card, tables, store):
    monkeypatch.setattr(measurements, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(measurements, "_run_probe", lambda *_: records.encode(tables))
    return lambda gpu=card: measurements.calibrate_gpu(store._worker, gpu)


def test_a_calibration_is_kept_for_its_card(calibrated, card):
    made = calibrated()
    assert measurements.gpu_calibration(card) == made
    assert measurements.gpu_calibration(dataclasses.replace(card, uuid="GPU-2")) is None
    assert "200.0 TFLOP/s (bfloat16)" in calibration_text(made)


def test_a_card_in_use_or_of_another_maker_is_refused(calibrated, card):
    used = GpuProcess(pid=7, name="train", used_bytes=1)
    with pytest.raises(InputError, match=r"train \(7\)"):
        calibrated(dataclasses.replace(card, processes=(used,)))
    with pytest.raises(InputError, match="NVIDIA"):
        calibrated(dataclasses.replace(card, vendor="amd"))


@pytest.mark.parametrize("changes", [{"spread": 0.5}, {"anchors": {"computing": 9.0}}])
def test_a_disturbed_card_keeps_the_old_rates(calibrated, monkeypatch, card, tables, changes):
    kept = calibrated()
    anchors = tables.anchors | changes.get("anchors", {})
    disturbed = dataclasses.replace(tables, **{**changes, "anchors": anchors})
    monkeypatch.setattr(measurements, "_run_probe", lambda *_: records.encode(disturbed))
    with pytest.raises(InputError, match="known before are kept"):
        calibrated()
    assert measurements.gpu_calibration(card) == kept


def test_only_this_machines_card_is_timed_by_it(calibrated, card, store):
    rented = machine_from_name("A100-SXM4-80GB")
    mine = dataclasses.replace(rented, gpus=(card,), source="probe")
    anchor = ANCHORS["computing"]
    model = ModelDescription(
        name="m",
        path="",
        config=anchor.config,
        model_type="llama",
        architecture="",
        num_parameters=0,
    )
    plan = TrainingPlan(per_device_train_batch_size=4, max_length=1024, bf16=True)

    def seconds(machine):
        answer = Estimator(store._worker, model=model, data=None, machine=machine, store=store)
        return answer.time(plan)

    before = seconds(mine).step_seconds
    assert before == seconds(rented).step_seconds
    calibrated()
    assert seconds(rented).step_seconds == before
    after = seconds(mine)
    assert after.step_seconds > 1.1 * before
    assert any("calibrated on" in said for said in after.assumptions)
