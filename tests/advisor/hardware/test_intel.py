"""Intel GPUs from a faked sysfs and a fake xpu-smi."""

import json

import pytest

from advisor.hardware import intel

GIB = 2**30
MIB = 2**20


@pytest.fixture
def sysfs(tmp_path):
    """Builds /sys of a card; its device is a link to its PCI address, as the kernel has it."""

    def build(number, address, *, driver="xe", vendor="0x8086", **files):
        device = tmp_path / "sys/devices" / address
        device.mkdir(parents=True)
        for name, text in {"vendor": vendor, "device": "0xe20b", **files}.items():
            path = device / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text}\n")
        target = tmp_path / "sys/bus/pci/drivers" / driver
        target.mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(target)
        card = tmp_path / f"sys/class/drm/card{number}"
        card.mkdir(parents=True)
        (card / "device").symlink_to(device)
        return tmp_path

    return build


def silent(_command):
    return None


def xpu_smi(command):
    """A B580 with 2 GiB in use, as xpu-smi prints it."""
    if command[1] == "discovery":
        entry = {
            "device_id": 0,
            "device_function_type": "physical",
            "device_name": "Intel(R) Arc(TM) B580 Graphics",
            "uuid": "u-1",
            "pci_bdf_address": "0000:03:00.0",
            "memory_physical_size_byte": str(12 * GIB),
        }
        return json.dumps({"device_list": [entry]})
    assert command == ["xpu-smi", "stats", "-d", "0", "-j"]
    level = [{"metrics_type": "XPUM_STATS_MEMORY_USED", "value": 2048.0}]
    return json.dumps({"device_level": level})


def test_xpu_smi_names_the_card_and_its_memory(sysfs):
    found = intel.probe(sysfs(1, "0000:03:00.0"), xpu_smi)
    (gpu,) = found.gpus
    assert (gpu.name, gpu.uuid, gpu.vendor) == ("Intel Arc B580 Graphics", "u-1", "intel")
    assert (gpu.total_bytes, gpu.used_bytes, gpu.free_bytes) == (12 * GIB, 2 * GIB, 10 * GIB)
    assert (gpu.memory_kind, gpu.index, gpu.processes) == ("dedicated", None, None)
    assert found.notes == ()


def test_sysfs_alone_has_the_size_and_the_note_says_what_is_missing(sysfs):
    tiles = {"tile0__physical_vram_size_bytes": 8 * GIB, "tile1__physical_vram_size_bytes": GIB}
    found = intel.probe(sysfs(0, "0000:03:00.0", **tiles), silent)
    (gpu,) = found.gpus
    assert (gpu.name, gpu.total_bytes, gpu.free_bytes) == ("Intel GPU e20b", 9 * GIB, None)
    assert "install xpu-smi" in found.notes[0]


def test_the_gpu_of_a_processor_borrows_ram(sysfs):
    found = intel.probe(sysfs(0, "0000:00:02.0", driver="i915"), silent)
    (gpu,) = found.gpus
    assert (gpu.memory_kind, gpu.total_bytes) == ("shared", None)
    assert found.notes == ()


def test_cards_of_others_or_without_a_driver_are_left_out(sysfs):
    sysfs(0, "0000:04:00.0", vendor="0x10de")
    root = sysfs(1, "0000:05:00.0", driver="vfio-pci")
    assert intel.probe(root, silent) == intel.Found()


@pytest.mark.parametrize("printed", ["", "no devices", "[]", '{"device_list": null}', "{}"])
def test_what_xpu_smi_cannot_say_is_unknown(sysfs, printed):
    (gpu,) = intel.probe(sysfs(0, "0000:03:00.0"), lambda _command: printed).gpus
    assert (gpu.total_bytes, gpu.used_bytes) == (None, None)


def test_memory_of_tiles_is_added_where_the_device_has_none():
    used = {"metrics_type": "XPUM_STATS_MEMORY_USED", "value": 61}
    tiles = {"tile_level": [{"data_list": [used]}] * 2}
    assert intel._used(json.dumps(tiles)) == 122 * MIB
    other = {"device_level": [{"metrics_type": "XPUM_STATS_POWER", "value": 5}]}
    assert intel._used(json.dumps(tiles | other)) == 122 * MIB
    whole = {"device_level": [{**used, "value": 130}]}
    assert intel._used(json.dumps(tiles | whole)) == 130 * MIB


def test_a_program_that_is_missing_or_fails_prints_nothing():
    assert intel.run(["no-such-program-here"]) is None
    assert intel.run(["false"]) is None
    assert intel.run(["echo", "x"]) == "x\n"
