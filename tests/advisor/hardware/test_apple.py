"""Apple's GPUs through faked programs."""

import json

import pytest

from advisor.hardware import apple
from advisor.hardware.catalogue import with_data_sheet
from advisor.hardware.host import Ram

GIB = 2**30
RAM = Ram(total_bytes=32 * GIB, free_bytes=20 * GIB, limit_source="physical")


@pytest.fixture
def mac(monkeypatch):
    """A Mac whose programs print what is given: sysctl by name, and the profiler's GPU cores."""

    def build(machine="arm64", cores="38", **sysctl):
        monkeypatch.setattr(apple.sys, "platform", "darwin")
        monkeypatch.setattr(apple.platform, "machine", lambda: machine)
        known = {"machdep.cpu.brand_string": "Apple M2 Max", **sysctl}

        def ask(command):
            if command[0] == "sysctl":
                return known.get(command[2])
            entry = {"sppci_model": "Apple M2 Max", "sppci_cores": cores}
            return json.dumps({"SPDisplaysDataType": [entry]})

        return ask

    return build


def test_one_pool_of_which_metal_recommends_a_share(mac):
    found = apple.probe(RAM, mac())
    (gpu,) = found.gpus
    assert "assumed: 72 %" in found.notes[0]
    assert (gpu.name, gpu.vendor, gpu.memory_kind) == ("Apple M2 Max (38)", "apple", "unified")
    assert gpu.total_bytes == round(0.72 * 32 * GIB)
    assert gpu.free_bytes == 20 * GIB  # what RAM has, not more
    assert with_data_sheet(gpu).bandwidth_bytes_per_second == 400e9


def test_a_raised_limit_is_read(mac):
    found = apple.probe(RAM, mac(**{"iogpu.wired_limit_mb": "28672"}))
    assert found.gpus[0].total_bytes == 28 * GIB
    assert found.notes == ()


def test_what_programs_do_not_say_is_left_out(mac):
    (gpu,) = apple.probe(Ram(), mac(cores=None)).gpus
    assert (gpu.name, gpu.total_bytes, gpu.free_bytes) == ("Apple M2 Max", None, None)
    (gpu,) = apple.probe(RAM, lambda _command: None).gpus
    assert gpu.name == "Apple GPU"


def test_macs_with_intel_processors_say_why(mac):
    found = apple.probe(RAM, mac(machine="x86_64"))
    assert found.gpus == ()
    assert "not probed" in found.notes[0]


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(apple.sys, "platform", "linux")

    def refuse(command):
        raise AssertionError(command)

    assert apple.probe(RAM, refuse) == apple.Found()
