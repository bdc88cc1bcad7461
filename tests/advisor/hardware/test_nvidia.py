"""NVIDIA GPUs through a fake driver."""

import logging
import os

import psutil
import pynvml
import pytest

from advisor.hardware import nvidia, owners
from advisor.hardware.nvidia import Board, probe, visible_devices

GIB = 2**30
MIB = 2**20


def uuid(number):
    return f"GPU-{number:08d}-aaaa-bbbb-cccc-dddddddddddd"


def indices(found):
    """UUID prefix -> index CUDA gives it."""
    return {gpu.uuid[:12]: gpu.index for gpu in found.gpus}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "libnvidia-ml.so.1"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "/dev/nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "restart"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML says"),
    ],
)
def test_without_a_driver_there_are_no_gpus_and_one_note_says_why(driver, code, words):
    driver(init_error=code)
    found = probe({})
    assert found.gpus == ()
    assert found.driver_version is None
    assert len(found.notes) == 1
    assert words in found.notes[0]


def test_one_t4_is_read_in_full(driver):
    fake = driver([driver.t4(used=2 * GIB, compute=[(os.getpid(), 2 * GIB)])])
    found = probe({})
    (gpu,) = found.gpus
    assert (gpu.name, gpu.index, gpu.uuid) == ("Tesla T4", 0, uuid(0))
    assert gpu.compute_capability == (7, 5)
    assert gpu.total_bytes == (15360 - 448) * MIB
    assert gpu.used_bytes == 2 * GIB
    assert gpu.free_bytes == gpu.total_bytes - 2 * GIB
    assert gpu.source == "measured"
    assert [(p.pid, p.used_bytes) for p in gpu.processes] == [(os.getpid(), 2 * GIB)]
    assert (found.driver_version, found.cuda_version) == ("580.65.06", (13, 0))
    assert found.notes == ()
    assert fake.open == 0


def test_an_older_driver_reports_memory_by_version_1(driver):
    driver([driver.t4(nvmlDeviceGetMemoryInfo_v2=pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)])
    (gpu,) = probe({}).gpus
    assert gpu.total_bytes == 15360 * MIB
    assert gpu.free_bytes == (15360 - 448) * MIB


def test_a_process_has_name_and_owner_only_where_pids_are_ours(driver, monkeypatch):
    driver([driver.t4(compute=[(os.getpid(), GIB)])])
    monkeypatch.setattr(owners, "in_host_pid_namespace", lambda: True)
    (process,) = probe({}).gpus[0].processes
    mine = psutil.Process()
    assert (process.name, process.user) == (mine.name(), mine.username())
    monkeypatch.setattr(owners, "in_host_pid_namespace", lambda: False)
    (process,) = probe({}).gpus[0].processes
    assert (process.pid, process.name, process.user) == (os.getpid(), None, None)


def test_processes_are_merged_and_largest_comes_first(driver, monkeypatch):
    monkeypatch.setattr(owners, "in_host_pid_namespace", lambda: True)
    gone = 2**22 + 7  # above the largest pid Linux gives
    driver([driver.t4(compute=[(gone, MIB), (2, None)], graphics=[(gone, 3 * MIB), (1, GIB)])])
    processes = probe({}).gpus[0].processes
    assert [(p.pid, p.used_bytes) for p in processes] == [(1, GIB), (gone, 3 * MIB), (2, None)]
    assert processes[1].name is None


def test_refused_process_list_is_a_note_and_not_an_error(driver):
    refusal = pynvml.NVML_ERROR_NO_PERMISSION
    driver(
        [
            driver.t4(
                nvmlDeviceGetComputeRunningProcesses=refusal,
                nvmlDeviceGetGraphicsRunningProcesses=refusal,
            )
        ]
    )
    found = probe({})
    assert found.gpus[0].processes is None
    assert found.gpus[0].free_bytes is not None
    assert found.notes == (
        "Processes on GPU 0 could not be listed (no permission or not supported).",
    )


def test_a_lost_gpu_is_named_and_the_others_are_kept(driver):
    driver([driver.t4(0, nvmlDeviceGetHandleByIndex=pynvml.NVML_ERROR_GPU_IS_LOST), driver.t4(1)])
    found = probe({})
    assert [(g.name, g.index) for g in found.gpus] == [("Tesla T4", 0), ("GPU 0", None)]
    assert "GPU 0 could not be opened" in found.notes[0]


def test_a_refusal_is_logged_once(driver, caplog):
    nvidia._log_once.cache_clear()
    driver([driver.t4(i) for i in range(3)])
    with caplog.at_level(logging.INFO, logger=nvidia.__name__):
        probe({})
        probe({})
    said = [r.getMessage() for r in caplog.records]
    assert said.count("nvmlDeviceGetMigMode: Not Supported") == 1
    assert len(said) == len(set(said))


def test_the_gate_lets_other_errors_through(driver):
    driver([driver.t4()])
    with pytest.raises(TypeError):
        nvidia.query("nvmlDeviceGetName")


EIGHT = [Board(uuid=uuid(i), devices=(nvidia.Gpu(name="A100", uuid=uuid(i)),)) for i in range(8)]


@pytest.mark.parametrize(
    ("variable", "boards"),
    [
        (None, list(range(8))),
        ("0", [0]),
        ("5,2", [5, 2]),
        (" 3 , 1 ", [3, 1]),
        ("", []),
        ("-1", []),
        ("none", []),
        ("NoDevFiles", []),
        ("0,2,-1,1", [0, 2]),
        ("0,8,1", [0]),
        ("0,x,1", [0]),
        ("1gpu2,2ampere", [1, 2]),
        ("0,1,0", []),
        ("0,9,0", []),
        ("0,GPU-00000001", [0]),
        (uuid(3), [3]),
        (f"{uuid(6)},{uuid(1)}", [6, 1]),
        ("GPU-00000004", [4]),
        ("GPU-0000000", []),
        (f"{uuid(1)},GPU-none,{uuid(2)}", [1]),
        (f"{uuid(1)},2", [1]),
        (f"{uuid(1)},{uuid(1)}", []),
        (f"{uuid(1)},GPU-00000001", []),
        ("MIG-00000001", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(variable, boards):
    assert visible_devices(variable, EIGHT) == [(b, 0) for b in boards]


def test_visible_devices_agrees_with_torch(monkeypatch):
    torch_cuda = pytest.importorskip("torch.cuda")
    uuids = [uuid(i) for i in range(8)]
    for variable in ("3,1", "0,8,1", "0,1,0", "0,9,0", "1gpu,+2", "-1", "", uuid(2), "GPU-0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
        parsed = torch_cuda._parse_visible_devices()
        if parsed and isinstance(parsed[0], str):
            parsed = torch_cuda._transform_uuid_to_ordinals(parsed, uuids)
        kept = []
        for i in parsed:
            if i >= 8:
                break
            kept.append(i)
        assert [b for b, _ in visible_devices(variable, EIGHT)] == kept, variable


def test_hidden_gpus_stay_without_index_and_are_named(driver):
    driver([driver.a100(i) for i in range(8)])
    found = probe({"CUDA_VISIBLE_DEVICES": "5,2"})
    assert [g.uuid for g in found.gpus[:2]] == [uuid(5), uuid(2)]
    assert [g.index for g in found.gpus] == [0, 1] + [None] * 6
    assert len(found.notes) == 1
    assert found.notes[0].startswith("CUDA_VISIBLE_DEVICES=5,2 hides NVIDIA A100-SXM4-80GB (GPU 0)")


def test_an_entry_that_cuda_ignores_is_pointed_out(driver):
    driver([driver.t4(0), driver.t4(1)])
    notes = probe({"CUDA_VISIBLE_DEVICES": "1,7,0"}).notes
    assert any("names 3 devices, but CUDA shows 1" in note for note in notes)
    assert not any("names" in n for n in probe({"CUDA_VISIBLE_DEVICES": "-1"}).notes)


def test_unlike_gpus_get_a_note_about_their_order(driver):
    driver([driver.t4(0), driver.a100(1)])
    assert any("CUDA_DEVICE_ORDER" in note for note in probe({}).notes)
    assert probe({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).notes == ()


def test_mig_shows_one_instance_and_no_whole_gpu(driver):
    driver([driver.a100(0), driver.a100(1, mig=[driver.mig(1), driver.mig(2)])])
    found = probe({})
    assert [(g.uuid[:12], g.index) for g in found.gpus] == [
        ("MIG-00000001", 0),
        ("GPU-00000000", None),
        ("MIG-00000002", None),
    ]
    assert found.gpus[0].total_bytes == 9728 * MIB
    assert any("one MIG instance" in note for note in found.notes)


@pytest.mark.parametrize(
    ("variable", "visible"),
    [
        ("MIG-00000002", "MIG-00000002"),
        ("MIG-00000002,MIG-00000001", "MIG-00000002"),
        ("GPU-00000001", "MIG-00000001"),
        ("0,1", "MIG-00000001"),
        ("0", "GPU-00000000"),
    ],
)
def test_mig_instances_are_chosen_by_uuid_or_board(driver, variable, visible):
    driver([driver.a100(0), driver.a100(1, mig=[driver.mig(1), driver.mig(2)])])
    found = probe({"CUDA_VISIBLE_DEVICES": variable})
    assert {u: i for u, i in indices(found).items() if i is not None} == {visible: 0}


def test_mig_without_an_instance_is_not_offered(driver):
    driver([driver.a100(0, mig=[])])
    found = probe({})
    assert [g.index for g in found.gpus] == [None]
    assert "MIG mode without an instance" in found.notes[0]


def test_links_and_topology(driver):
    on, off = pynvml.NVML_FEATURE_ENABLED, pynvml.NVML_FEATURE_DISABLED
    levels = {uuid(1): "nvlink", uuid(2): pynvml.NVML_TOPOLOGY_SYSTEM}
    driver(
        [
            driver.a100(0, pcie=((1, 8), (4, 16)), nvlinks=[on] * 11 + [off], peers=levels),
            driver.a100(1, peers={uuid(0): "nvlink", uuid(2): pynvml.NVML_TOPOLOGY_NODE}),
            driver.a100(2),
        ]
    )
    first, second, third = probe({}).gpus
    assert (first.link.pcie_generation, first.link.pcie_width) == (1, 8)
    assert (first.link.pcie_max_generation, first.link.pcie_max_width) == (4, 16)
    assert first.link.nvlinks == 11
    assert first.link.peers == {uuid(1): "nvlink", uuid(2): "between processors"}
    assert second.link.peers == {uuid(0): "nvlink", uuid(2): "numa node"}
    assert (third.link.pcie_generation, third.link.nvlinks, third.link.peers) == (None, 0, {})


def test_links_that_the_driver_does_not_tell_are_unknown(driver):
    driver([driver.a100(0, nvlinks=[])])  # the fake says "invalid argument" to the first
    assert probe({}).gpus[0].link.nvlinks is None


def test_mig_instances_know_their_card_and_have_memory_of_their_own(driver):
    driver([driver.a100(0, mig=[driver.mig(1), driver.mig(2, used=GIB)]), driver.t4(3)])
    gpus = {gpu.uuid[:12]: gpu for gpu in probe({}).gpus}
    assert gpus["MIG-00000001"].parent_uuid == gpus["MIG-00000002"].parent_uuid == uuid(0)
    assert gpus["MIG-00000002"].free_bytes == 9728 * MIB - GIB
    assert gpus["GPU-00000003"].parent_uuid is None
    assert {gpu.memory_kind for gpu in gpus.values()} == {"dedicated"}
