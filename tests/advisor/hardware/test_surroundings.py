"""WSL2, containers and a missing driver library, from a faked root."""

import pytest

from advisor.hardware import surroundings


def write(root, path, text):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


@pytest.mark.parametrize(
    ("release", "expected"),
    [("5.15.153.1-microsoft-standard-WSL2", True), ("6.8.0-45-generic", False), (None, False)],
)
def test_wsl_is_told_by_the_kernel(tmp_path, release, expected):
    if release:
        write(tmp_path, "proc/sys/kernel/osrelease", release)
    assert surroundings.is_wsl(tmp_path) is expected


@pytest.mark.parametrize(
    ("files", "environ", "expected"),
    [
        ({".dockerenv": ""}, {}, True),
        ({"run/.containerenv": ""}, {}, True),
        ({"proc/1/cgroup": "0::/kubepods/besteffort/pod1"}, {}, True),
        ({"proc/1/cgroup": "0::/init.scope"}, {}, False),
        ({"proc/1/cgroup": "0::/init.scope"}, {"container": "podman"}, True),
        ({}, {}, None),
    ],
)
def test_container(tmp_path, files, environ, expected):
    for path, text in files.items():
        write(tmp_path, path, text)
    assert surroundings.is_container(tmp_path, environ) is expected


def test_a_card_without_its_library_is_named_with_the_way_out(tmp_path):
    path = "proc/driver/nvidia/gpus/0000:01:00.0/information"
    write(tmp_path, path, "Model: \t\t Tesla T4\nIRQ: 42\n")
    said = surroundings.without_nvml(tmp_path, container=True)
    assert "Tesla T4" in said
    assert "NVIDIA_DRIVER_CAPABILITIES" in said


def test_a_device_file_alone_is_enough(tmp_path):
    write(tmp_path, "dev/nvidia0", "")
    assert "an NVIDIA GPU" in surroundings.without_nvml(tmp_path, container=False)


def test_without_any_sign_only_a_container_gets_a_hint(tmp_path):
    write(tmp_path, "dev/nvidiactl", "")
    assert "--gpus" in surroundings.without_nvml(tmp_path, container=True)
    assert surroundings.without_nvml(tmp_path, container=False) is None


def test_what_is_no_number_is_none(tmp_path):
    write(tmp_path, "a", "0x1002\n")
    write(tmp_path, "b", "n/a")
    found = [surroundings.number(tmp_path / name) for name in "abc"]
    assert found == [0x1002, None, None]
