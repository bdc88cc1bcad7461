"""The whole probe: a fake driver, a fake wheel, and the machine it runs on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pynvml
import pytest

from advisor import records
from advisor.hardware import amd, host, probe, surroundings, torch_build
from advisor.hardware.machine import Gpu, Machine
from advisor.hardware.probe import probe_machine
from advisor.hardware.torch_build import Wheel

GIB = 2**30
MIB = 2**20
TURING_ON = frozenset({(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)})


@pytest.fixture
def wheel(monkeypatch):
    """Pretend that a torch is installed; a CUDA 13.0 build to begin with."""

    def install(**changes):
        fields = {"version": "2.13.0", "cuda_version": "13.0", "architectures": TURING_ON}
        found = Wheel(**{**fields, "published": {"13.0": TURING_ON}, **changes})
        monkeypatch.setattr(torch_build, "read_wheel", lambda: found)

    install()
    return install


def test_a_machine_without_a_driver_is_a_cpu_machine(driver, tmp_path):
    driver(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    machine = probe_machine(tmp_path)
    assert machine.gpus == ()
    assert machine.accelerator() is None
    assert machine.capacity_bytes() == machine.ram_free_bytes > 0
    assert machine.ram_free_bytes <= machine.ram_total_bytes
    assert machine.cpu.usable_cores >= 1
    assert machine.disk_free_bytes > 0
    assert machine.name.endswith(("core", "cores"))
    assert machine.source == "probe"
    if sys.platform == "linux":
        assert any("libnvidia-ml.so.1" in note for note in machine.notes)


@pytest.mark.skipif(sys.platform == "darwin", reason="NVML is not asked on macOS")
class TestWithGpus:
    def test_one_t4_has_its_data_sheet_and_free_memory(self, driver, wheel, tmp_path):
        driver([driver.t4(used=GIB)])
        machine = probe_machine(tmp_path)
        gpu = machine.accelerator()
        assert machine.name == "Tesla T4"
        assert machine.driver_version == "580.65.06"
        assert gpu.bandwidth_bytes_per_second == 320e9
        assert gpu.peak_flops["float16"] == 65e12
        assert gpu.bf16_native is False
        assert machine.capacity_bytes() == (15360 - 448) * MIB - GIB
        assert (machine.torch.usable, machine.torch.problem) == (True, None)
        assert machine.notes == ()

    def test_visible_gpus_make_the_headline_and_hidden_ones_are_not_used(
        self, driver, wheel, tmp_path, monkeypatch
    ):
        driver([driver.a100(i, used=i * GIB) for i in range(8)])
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,3")
        machine = probe_machine(tmp_path)
        assert machine.name == "2 x NVIDIA A100-SXM4-80GB"
        assert machine.cuda_visible_devices == "6,3"
        assert len(machine.gpus) == 8
        assert machine.accelerator().index == 1  # board 3 has more free than board 6
        assert any("hides" in note for note in machine.notes)

    def test_hiding_all_gpus_trains_on_the_cpu_without_a_complaint(
        self, driver, wheel, tmp_path, monkeypatch
    ):
        wheel(cuda_version=None, architectures=None, version="2.13.0+cpu")
        driver([driver.t4()])
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        machine = probe_machine(tmp_path)
        assert machine.accelerator() is None
        assert [gpu.index for gpu in machine.gpus] == [None]
        assert machine.torch.problem is None
        assert machine.cuda_visible_devices == ""

    def test_a_cpu_wheel_leaves_the_gpu_unused_and_says_so(self, driver, wheel, tmp_path):
        wheel(cuda_version=None, architectures=None, version="2.13.0+cpu")
        driver([driver.t4()])
        machine = probe_machine(tmp_path)
        assert machine.torch.usable is False
        assert "CPU build; the Tesla T4 stays unused" in machine.torch.problem
        assert machine.accelerator() is None

    def test_an_old_driver_leaves_the_gpu_unused(self, driver, wheel, tmp_path):
        driver([driver.t4()], driver="550.54.15", cuda=12040)
        machine = probe_machine(tmp_path)
        assert machine.torch.usable is False
        assert "driver 550.54.15 runs CUDA up to 12.4" in machine.torch.problem

    def test_a_gpu_older_than_the_wheel_is_unused(self, driver, wheel, tmp_path):
        driver([driver.t4(name="Tesla V100-SXM2-16GB", capability=(7, 0), total=16384 * MIB)])
        machine = probe_machine(tmp_path)
        assert machine.torch.usable is False
        assert "compute capability 7.0" in machine.torch.problem

    def test_a_gpu_that_shares_ram_has_the_hosts_memory(self, driver, wheel, tmp_path):
        refused = {
            "nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED,
            "nvmlDeviceGetMemoryInfo_v2": pynvml.NVML_ERROR_NOT_SUPPORTED,
        }
        driver([driver.t4(name="NVIDIA GB10", capability=(12, 1), **refused)])
        machine = probe_machine(tmp_path)
        assert machine.gpus[0].total_bytes == machine.ram_total_bytes
        assert machine.capacity_bytes() == machine.ram_free_bytes
        driver([driver.t4(**refused)])
        assert probe_machine(tmp_path).gpus[0].total_bytes is None

    def test_a_unified_pool_is_never_freer_than_ram(self, driver, wheel, tmp_path, monkeypatch):
        ram = host.Ram(total_bytes=16 * GIB, free_bytes=3 * GIB, limit_source="physical")
        monkeypatch.setattr(host, "read_ram", lambda limits: ram)
        orin = driver.t4(name="Orin", capability=(8, 7), total=32 * GIB, reserved=0)
        driver([orin, driver.t4(1)])
        unified, own = probe_machine(tmp_path).gpus
        assert (unified.memory_kind, own.memory_kind) == ("unified", "dedicated")
        assert (unified.total_bytes, unified.free_bytes) == (16 * GIB, 3 * GIB)
        assert own.free_bytes > 3 * GIB

    def test_wsl_says_that_windows_processes_are_missing(
        self, driver, wheel, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(surroundings, "is_wsl", lambda: True)
        driver([driver.t4()])
        machine = probe_machine(tmp_path)
        assert machine.is_wsl
        assert any(note.startswith("WSL2") for note in machine.notes)

    def test_gpus_of_other_vendors_are_shown_and_not_planned_for(
        self, driver, wheel, tmp_path, monkeypatch
    ):
        card = Gpu(name="AMD Instinct MI300X", vendor="amd", free_bytes=190 * GIB)
        monkeypatch.setattr(amd, "probe", lambda: amd.Found(gpus=(card,)))
        driver(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        machine = probe_machine(tmp_path)
        assert [gpu.name for gpu in machine.gpus] == ["AMD Instinct MI300X"]
        assert machine.gpus[0].bandwidth_bytes_per_second == 5300e9
        assert machine.accelerator() is None
        assert machine.capacity_bytes() == machine.ram_free_bytes
        assert any("MI300X is shown, not planned for" in note for note in machine.notes)

    def test_a_machine_survives_its_json(self, driver, wheel, tmp_path):
        driver([driver.t4(compute=[(1, GIB)]), driver.a100(1)])
        machine = probe_machine(tmp_path)
        assert records.decode(Machine, records.encode(machine)) == machine


def test_macos_does_not_ask_nvml(driver, monkeypatch, tmp_path):
    fake = driver(init_error=pynvml.NVML_ERROR_UNKNOWN)
    monkeypatch.setattr(probe.sys, "platform", "darwin")
    machine = probe_machine(tmp_path)
    assert machine.gpus == ()
    assert not any("NVML" in note for note in machine.notes)
    assert fake.open == 0


def test_what_cannot_be_read_is_a_note(driver, monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError("no access")

    driver(init_error=pynvml.NVML_ERROR_NO_PERMISSION)
    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    monkeypatch.setattr(shutil, "disk_usage", refuse)
    monkeypatch.setattr(torch_build, "read_wheel", lambda: None)
    machine = probe_machine(tmp_path)
    assert (machine.ram_total_bytes, machine.disk_free_bytes, machine.torch) == (None, None, None)
    for words in ("RAM", "disk", "torch is not installed"):
        assert any(words in note for note in machine.notes), words


def test_a_fresh_process_probes_without_torch():
    code = (
        "import sys\n"
        "from advisor.hardware import catalogue, probe\n"
        "machine = probe.probe_machine()\n"
        "catalogue.machine_from_name('Tesla T4 x 2')\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert machine.torch is not None and machine.torch.version\n"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
