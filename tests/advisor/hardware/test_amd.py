"""AMD GPUs through a fake amdsmi and through a faked sysfs."""

import os
from types import SimpleNamespace

import pytest

from advisor.hardware import amd, owners

GIB = 2**30


class AmdSmiError(Exception):
    """Stands in for the library's own."""


class FakeAmdsmi:
    """Answers as amdsmi 6; a name in `refused` raises the library's exception."""

    AmdSmiException = AmdSmiError
    AmdSmiMemoryType = SimpleNamespace(VRAM="vram")

    def __init__(self, refused=(), processes=None, memory="HBM3"):
        self.refused = set(refused)
        self.processes = processes or []
        self.memory = memory
        self.open = 0

    def __getattr__(self, name):
        def answer(*args):
            if name in self.refused:
                raise AmdSmiError(name)
            return self._answers()[name]

        if not name.startswith("amdsmi_") or name not in self._answers():
            raise AttributeError(name)
        return answer

    def _answers(self):
        return {
            "amdsmi_init": None,
            "amdsmi_shut_down": None,
            "amdsmi_get_processor_handles": ["handle"],
            "amdsmi_get_gpu_asic_info": {"market_name": "AMD Instinct MI300X"},
            "amdsmi_get_gpu_memory_total": 192 * GIB,
            "amdsmi_get_gpu_memory_usage": 2 * GIB,
            "amdsmi_get_gpu_vram_info": {"vram_type": self.memory},
            "amdsmi_get_gpu_device_uuid": "GPU-f1",
            "amdsmi_get_gpu_process_list": self.processes,
        }


@pytest.fixture
def sysfs(tmp_path):
    """Builds /sys of a card: `sysfs(vendor=..., ...)` writes files of its device."""

    def build(number=0, cores=None, **files):
        device = tmp_path / f"sys/class/drm/card{number}/device"
        (device / f"drm/renderD{128 + number}").mkdir(parents=True)
        for name, text in {"vendor": "0x1002", **files}.items():
            (device / name).write_text(f"{text}\n")
        (tmp_path / "sys/class/drm" / f"card{number}-DP-1").mkdir()
        if cores is not None:
            node = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{number}"
            node.mkdir(parents=True)
            text = f"cpu_cores_count {cores}\nsimd_count 40\ndrm_render_minor {128 + number}\n"
            (node / "properties").write_text(text)
        return tmp_path

    return build


def none():
    return None


def test_the_library_tells_memory_and_holders(sysfs, monkeypatch):
    monkeypatch.setattr(owners, "in_host_pid_namespace", lambda: False)
    entries = [
        {"pid": 7, "name": "N/A", "mem": 5, "memory_usage": {"vram_mem": GIB}},
        {"pid": os.getpid(), "name": "python", "memory_usage": {"vram_mem": 2 * GIB}},
    ]
    found = amd.probe(sysfs(), lambda: FakeAmdsmi(processes=entries))
    (gpu,) = found.gpus
    assert (gpu.name, gpu.uuid, gpu.vendor) == ("AMD Instinct MI300X", "GPU-f1", "amd")
    assert (gpu.total_bytes, gpu.free_bytes) == (192 * GIB, 190 * GIB)
    assert gpu.memory_kind == "dedicated"
    assert gpu.index is None
    assert [(p.name, p.used_bytes) for p in gpu.processes] == [("python", 2 * GIB), (None, GIB)]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("memory", "kind"), [("GDDR6", "dedicated"), ("LPDDR5", "shared"), ("DDR5", "shared")]
)
def test_memory_kind_of_the_library(sysfs, memory, kind):
    assert amd.probe(sysfs(), lambda: FakeAmdsmi(memory=memory)).gpus[0].memory_kind == kind


@pytest.mark.parametrize("name", [n for n in FakeAmdsmi()._answers() if "get_gpu" in n])
def test_any_refusal_leaves_the_rest(sysfs, name):
    (gpu,) = amd.probe(sysfs(), lambda: FakeAmdsmi(refused=[name])).gpus
    assert gpu.vendor == "amd"
    if name == "amdsmi_get_gpu_process_list":
        assert gpu.processes is None
        assert gpu.total_bytes == 192 * GIB


def test_an_older_library_lists_handles_which_is_not_listed(sysfs):
    found = amd.probe(sysfs(), lambda: FakeAmdsmi(processes=[object()]))
    assert found.gpus[0].processes is None
    assert "could not be listed" in found.notes[0]


@pytest.mark.parametrize("load", [none, lambda: FakeAmdsmi(refused=["amdsmi_init"])])
def test_without_the_library_sysfs_answers(sysfs, load):
    root = sysfs(
        mem_info_vram_total=24 * GIB,
        mem_info_vram_used=GIB,
        unique_id="5f2c",
        device="0x744c",
        revision="0xc8",
    )
    ids = root / "usr/share/libdrm/amdgpu.ids"
    ids.parent.mkdir(parents=True)
    ids.write_text("# names\n1.0.0\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n")
    found = amd.probe(root, load)
    (gpu,) = found.gpus
    assert (gpu.name, gpu.uuid) == ("AMD Radeon RX 7900 XTX", "GPU-5f2c")
    assert (gpu.total_bytes, gpu.free_bytes) == (24 * GIB, 23 * GIB)
    assert (gpu.memory_kind, gpu.processes) == ("dedicated", None)
    assert "install amdsmi" in found.notes[0]


def test_an_apu_borrows_ram_and_an_empty_sysfs_is_unknown(sysfs):
    sysfs(0, cores=8, mem_info_vram_total=GIB // 2)
    root = sysfs(1)
    apu, bare = amd.probe(root, none).gpus
    assert apu.memory_kind == "shared"
    assert (bare.name, bare.total_bytes, bare.free_bytes, bare.memory_kind) == (
        "AMD GPU", None, None, None,
    )  # fmt: skip


def test_mi300a_has_one_pool():
    assert amd._memory_kind("AMD Instinct MI300A", "HBM3", cores=24) == "unified"


def test_other_vendors_and_nothing_at_all(sysfs, tmp_path):
    assert amd.probe(sysfs(vendor="0x10de"), none) == amd.Found()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    found = amd.probe(tmp_path, none)
    assert found.gpus == ()
    assert "not probed: install amdsmi" in found.notes[0]


def test_a_binding_that_fails_while_it_is_imported_is_absent(tmp_path, monkeypatch):
    (tmp_path / "amdsmi.py").write_text("raise OSError('libamd_smi.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    assert amd._amdsmi() is None
