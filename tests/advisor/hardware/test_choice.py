"""One GPU of this machine by index or UUID."""

import dataclasses

import pytest

from advisor.errors import InputError
from advisor.hardware.catalogue import accelerator_names
from advisor.hardware.choice import choose, is_local
from advisor.hardware.machine import Gpu, Machine, TorchBuild

GIB = 2**30


def gpu(number, index, **changes):
    fields = {"name": f"Card {number}", "uuid": f"GPU-{number}a-{number}", "vendor": "nvidia"}
    return Gpu(**{**fields, "index": index, "free_bytes": number * GIB, **changes})


MACHINE = Machine(name="three", gpus=(gpu(3, 0), gpu(1, 1), gpu(2, None)))
AMD = Gpu(name="Radeon", uuid="GPU-ff", vendor="amd")


@pytest.mark.parametrize(
    "name", ["1", "cuda:1", "gpu 1", " GPU1 ", "GPU-1a", "gpu-1A-1", "GPU-1a-1"]
)
def test_one_is_found_and_trains(name):
    assert is_local(name)
    found = choose(MACHINE, name)
    assert found.accelerator().uuid == "GPU-1a-1"
    assert found.name == "Card 1"
    assert found.capacity_bytes() == GIB  # although another has more free
    assert found.num_devices() == 1
    assert (MACHINE.accelerator().uuid, MACHINE.num_devices()) == ("GPU-3a-3", 2)


def test_no_name_of_the_catalogue_means_a_gpu_of_this_machine():
    assert not [name for name in (*accelerator_names(), "4090", "T4") if is_local(name)]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("5", {}, "has no GPU '5'. It has: 0 Card 3"),
        ("0", {"gpus": ()}, "no GPU that CUDA could use"),
        ("GPU-", {}, "beginning of several"),
        ("GPU-2a", {"cuda_visible_devices": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1 hides"),
        ("GPU-2a", {}, "cannot use the Card 2"),
        ("GPU-ff", {"gpus": (AMD,)}, "NVIDIA GPUs and CPUs alone"),
        ("0", {"gpus": (gpu(1, 0, uuid=None),)}, "tells no UUID"),
    ],
)
def test_refusals_say_why(name, changes, words):
    with pytest.raises(InputError) as caught:
        choose(dataclasses.replace(MACHINE, **changes), name)
    assert words in str(caught.value)
    assert caught.value.field == "machine"


def test_mig_instances_are_chosen_by_uuid_whichever_cuda_shows_first():
    parent = {"parent_uuid": "GPU-9a"}
    split = Machine(
        name="mig",
        gpus=(
            gpu(1, 0, uuid="MIG-1", **parent),
            gpu(2, None, uuid="MIG-2", **parent),
            gpu(3, None),
        ),
    )
    assert choose(split, "MIG-2").accelerator().uuid == "MIG-2"
    with pytest.raises(InputError, match="one MIG instance"):
        choose(split, "GPU-3a")


@pytest.mark.parametrize(
    "changes",
    [
        {"torch": TorchBuild(version="2.13.0+cpu", usable=False, problem="A CPU build.")},
        {"gpus": (gpu(3, 0, usable_by_torch=False),)},
    ],
)
def test_a_gpu_that_torch_cannot_use_is_refused(changes):
    with pytest.raises(InputError, match="torch cannot use the Card 3"):
        choose(dataclasses.replace(MACHINE, **changes), "0")
