"""Names to data sheets."""

import csv
from importlib import resources

import pytest

from advisor.errors import InputError, UnknownNameError
from advisor.hardware.catalogue import (
    accelerator_names,
    data_sheet,
    find_accelerator,
    headline,
    machine_from_name,
    with_data_sheet,
)
from advisor.hardware.machine import Gpu

GIB = 2**30


def rows():
    text = (resources.files("advisor.hardware") / "accelerators.csv").read_text(encoding="utf-8")
    return [row for row in csv.DictReader(text.splitlines()) if row["class"] != "cpu"]


def test_every_row_is_found_by_its_own_name_with_its_own_figures():
    assert len(rows()) >= 160
    assert accelerator_names() == tuple(row["name"] for row in rows())
    for row in rows():
        gpu = find_accelerator(row["name"])
        assert gpu.name == row["name"]
        assert gpu.total_bytes == pytest.approx(float(row["usable_gib"]) * GIB, abs=1)
        assert gpu.bandwidth_bytes_per_second == float(row["bandwidth_gbs"]) * 1e9
        assert all(value > 0 for value in gpu.peak_flops.values())
        assert set(gpu.peak_flops) <= {"float32", "tf32", "float16", "bfloat16"}
        if row["vendor"] == "NVIDIA":
            assert gpu.bf16_native == (gpu.compute_capability >= (8, 0)), gpu.name
        assert (gpu.index, gpu.free_bytes, gpu.source) == (None, None, "read")


def test_names_are_unique():
    assert len(set(accelerator_names())) == len(accelerator_names())


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIE-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-PCIE-40GB"),
        ("Tesla T4", "Tesla T4"),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", "GeForce RTX 4090 D"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "GeForce RTX 4090 Mobile"),
        ("NVIDIA GeForce RTX 2080 Ti", "GeForce RTX 2080 Ti"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIE-80GB"),
        ("NVIDIA H100 NVL", "H100-NVL-94GB"),
        ("NVIDIA H200", "H200-SXM-141GB"),
        ("NVIDIA GH200 480GB", "GH200-96GB"),
        ("NVIDIA B200", "B200-180GB"),
        ("NVIDIA B300 SXM6 AC", "B300-288GB"),
        ("NVIDIA GB10", "GB10 (DGX Spark)"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-16GB"),
        ("Tesla P100-PCIE-16GB", "Tesla P100-PCIE-16GB"),
        ("Quadro RTX 6000", "Quadro RTX 6000"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada Generation"),
        (
            "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            "RTX PRO 6000 Blackwell Workstation",
        ),
        (
            "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
            "RTX PRO 6000 Blackwell Max-Q",
        ),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell Server"),
    ],
)
def test_the_drivers_names_are_found(name, row):
    usable = find_accelerator(row).total_bytes
    assert find_accelerator(name).name == row
    assert data_sheet(name, usable).name == row


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("t4", "Tesla T4"),
        ("TESLA-T4", "Tesla T4"),
        ("TeslaT4", "Tesla T4"),
        ("T4 16 GB", "Tesla T4"),
        ("A100 80GB", "A100-SXM4-80GB"),
        ("a100-80gb", "A100-SXM4-80GB"),
        ("A100 PCIe 80 GB", "A100-PCIE-80GB"),
        ("V100 32GB", "Tesla V100-SXM2-32GB"),
        ("H100", "H100-SXM5-80GB"),
        ("H200", "H200-SXM-141GB"),
        ("RTX 4090", "GeForce RTX 4090"),
        ("rtx4090", "GeForce RTX 4090"),
        ("4090", "GeForce RTX 4090"),
        ("RTX 4090 24GB", "GeForce RTX 4090"),
        ("RTX 3080", "GeForce RTX 3080"),
        ("RTX 4060 Ti 16GB", "GeForce RTX 4060 Ti 16 GB"),
        ("A6000", "RTX A6000"),
        ("RTX 4000 Ada", "RTX 4000 Ada Generation"),
        ("AMD Instinct MI300X", "MI300X-192GB"),
        ("Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("M1 Pro", "Apple M1 Pro (16)"),
        ("DGX Spark", "GB10 (DGX Spark)"),
    ],
)
def test_short_names_are_found_where_they_mean_one_thing(name, row):
    assert find_accelerator(name).name == row


@pytest.mark.parametrize(
    ("name", "among"),
    [
        ("V100", {"Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"}),
        ("A100", {"A100-SXM4-40GB", "A100-SXM4-80GB"}),
        ("RTX 6000", {"Quadro RTX 6000", "RTX 6000 Ada Generation"}),
        ("RTX 4060 Ti", {"GeForce RTX 4060 Ti 8 GB", "GeForce RTX 4060 Ti 16 GB"}),
    ],
)
def test_a_name_that_means_several_is_refused_with_all_of_them(name, among):
    with pytest.raises(UnknownNameError, match="more than one") as caught:
        find_accelerator(name)
    assert among <= set(caught.value.nearest)
    assert len(caught.value.nearest) == 5


@pytest.mark.parametrize("name", ["RTX 9999", "RTX 4090 48GB", "A100-SXM4-96GB", "D", "NVIDIA", ""])
def test_an_unknown_name_is_refused_with_the_five_nearest(name):
    with pytest.raises(UnknownNameError) as caught:
        find_accelerator(name)
    error = caught.value
    assert len(error.nearest) == len(set(error.nearest)) == 5
    assert set(error.nearest) <= set(accelerator_names())
    assert repr(name) in str(error)
    assert error.nearest[0] in str(error)
    assert error.field == "machine"


def test_the_nearest_name_to_a_misspelt_one_comes_first():
    for misspelt, meant in [("GeForce RTX 4O90", "GeForce RTX 4090"), ("A100-SMX4-80GB", "A100-")]:
        with pytest.raises(UnknownNameError) as caught:
            find_accelerator(misspelt)
        assert caught.value.nearest[0].startswith(meant)


def test_a_processor_is_not_an_accelerator():
    assert not any("Xeon" in name or "EPYC" in name for name in accelerator_names())


@pytest.mark.parametrize("name", ["Tesla T4 x 2", "t4 x2", "T4 X 2", "T4 \u00d7 2", "2 x Tesla T4"])
def test_a_count_may_stand_on_either_side(name):
    machine = machine_from_name(name)
    assert machine.name == "2 x Tesla T4"
    assert [gpu.name for gpu in machine.gpus] == ["Tesla T4"] * 2
    assert machine.source == "catalogue"


def test_a_catalogue_machine_knows_its_gpu_and_nothing_else():
    machine = machine_from_name("NVIDIA Tesla T4")
    assert machine.name == "Tesla T4"
    assert machine.capacity_bytes() == int(14.56 * GIB)
    rates = machine.accelerator().peak_flops
    assert rates == pytest.approx({"float32": 8.14e12, "float16": 65e12})  # no bfloat16, no tf32
    assert machine.accelerator().bf16_native is False
    assert machine.ram_total_bytes is None
    assert machine.cpu.usable_cores is None
    assert machine.torch is None


@pytest.mark.parametrize("name", ["Tesla T4 x 0", "0 x Tesla T4", "Tesla T4 x 999999"])
def test_an_impossible_count_is_refused(name):
    with pytest.raises(InputError, match="1 to 4096"):
        machine_from_name(name)


def test_a_machines_own_name_leads_back_to_it():
    for name in accelerator_names():
        for count in (1, 3):
            machine = machine_from_name(f"{name} x {count}")
            assert machine_from_name(machine.name) == machine


def test_a_headline_counts_each_kind():
    t4, l4 = Gpu(name="Tesla T4"), Gpu(name="NVIDIA L4")
    assert headline((t4,)) == "Tesla T4"
    assert headline((t4, l4, t4)) == "2 x Tesla T4 + NVIDIA L4"


@pytest.mark.parametrize(
    ("name", "gib", "row"),
    [
        ("NVIDIA GeForce RTX 3080", 9.77, "GeForce RTX 3080"),
        ("NVIDIA GeForce RTX 3080", 11.76, "GeForce RTX 3080 12 GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 15.6, "GeForce RTX 4060 Ti 16 GB"),
        ("NVIDIA GeForce RTX 3060", 7.8, None),
        ("NVIDIA GeForce GTX 1660", 5.8, None),
        ("NVIDIA A100-SXM-64GB", 63.4, None),
        ("NVIDIA GeForce RTX 5090 D", 31.4, None),
        ("Some GPU", 8.0, None),
        ("Tesla T4", 15.0, "Tesla T4"),
        ("Tesla T4", None, "Tesla T4"),
        ("NVIDIA GeForce RTX 4060 Ti", None, None),
    ],
)
def test_memory_tells_variants_apart_and_a_wrong_size_matches_nothing(name, gib, row):
    sheet = data_sheet(name, None if gib is None else int(gib * GIB))
    assert (sheet and sheet.name) == row


def test_a_probed_gpu_keeps_its_own_figures_and_takes_the_sheets_rates():
    gpu = with_data_sheet(
        Gpu(
            name="NVIDIA A10G",
            index=0,
            compute_capability=(8, 6),
            total_bytes=int(22.06 * GIB),
            free_bytes=GIB,
            source="measured",
        )
    )
    assert (gpu.name, gpu.index, gpu.free_bytes) == ("NVIDIA A10G", 0, GIB)
    assert gpu.bandwidth_bytes_per_second == 600.2e9
    assert gpu.peak_flops["bfloat16"] == 70e12
    assert gpu.bf16_native is True
    assert gpu.source == "measured"


def test_an_unlisted_gpu_and_a_mig_slice_get_no_invented_rates():
    unlisted = with_data_sheet(Gpu(name="NVIDIA X9", compute_capability=(7, 0)))
    assert (unlisted.bandwidth_bytes_per_second, unlisted.peak_flops) == (None, {})
    assert unlisted.bf16_native is False
    slice_ = Gpu(name="NVIDIA A100-SXM4-80GB", uuid="MIG-1", total_bytes=int(79.1 * GIB))
    assert with_data_sheet(slice_).peak_flops == {}
