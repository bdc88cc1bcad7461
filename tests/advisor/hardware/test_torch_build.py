"""The torch wheel: what its files say, and what it can run."""

import platform
import sys

import pytest

from advisor.hardware import torch_build
from advisor.hardware.machine import Gpu
from advisor.hardware.torch_build import Wheel, read_wheel, runs_on

TURING_ON = frozenset({(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)})
LEGACY = frozenset({(5, 0), (6, 0), (7, 0), (7, 5), (8, 0), (8, 6), (9, 0)})
PUBLISHED = {"12.6": LEGACY, "12.9": TURING_ON, "13.0": TURING_ON, "13.2": TURING_ON}
CU130 = Wheel(version="2.13.0", cuda_version="13.0", architectures=TURING_ON, published=PUBLISHED)
CPU = Wheel(version="2.13.0+cpu", published=PUBLISHED)


@pytest.fixture(autouse=True)
def linux_x86_64(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def gpu(name, capability, index=0):
    return Gpu(name=name, compute_capability=capability, index=index)


T4 = gpu("Tesla T4", (7, 5))
V100 = gpu("Tesla V100-SXM2-16GB", (7, 0))
RTX5090 = gpu("NVIDIA GeForce RTX 5090", (12, 0))


def judge(wheel, *gpus, cuda=(13, 0), driver="580.65.06"):
    return torch_build.torch_build(wheel, gpus, driver_version=driver, driver_cuda=cuda)


def test_a_fitting_wheel_has_no_problem():
    build = judge(CU130, T4)
    assert (build.version, build.cuda_version) == ("2.13.0", "13.0")
    assert (build.usable, build.problem) == (True, None)


def test_a_cpu_wheel_on_a_gpu_machine_says_what_to_install():
    build = judge(CPU, T4)
    assert build.usable is False
    assert build.problem == (
        "torch 2.13.0+cpu is a CPU build; the Tesla T4 stays unused. Reinstall torch with CUDA: "
        "pip uninstall -y torch && pip install torch==2.13.0"
    )


def test_without_a_visible_gpu_there_is_nothing_to_judge():
    for gpus in ((), (gpu("Tesla T4", (7, 5), index=None),)):
        build = judge(CPU, *gpus)
        assert (build.usable, build.problem) == (None, None)


def test_a_cpu_wheel_gets_a_build_that_knows_the_gpu():
    problem = judge(CPU, V100).problem
    assert "CUDA 12.6" in problem
    assert "torch==2.13.0+cu126" in problem
    assert "pip install torch==2.13.0" not in problem  # the default build lacks Volta


def test_a_cpu_wheel_gets_a_build_that_the_driver_runs():
    problem = judge(CPU, T4, cuda=(12, 8)).problem
    assert "torch==2.13.0+cu126" in problem
    assert "cu129" in judge(CPU, RTX5090, cuda=(12, 8)).problem
    assert "Update the NVIDIA driver to 525 or newer." in judge(CPU, T4, cuda=(11, 8)).problem


def test_other_platforms_are_told_the_build_because_plain_pip_differs(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "+cu130" in judge(CPU, RTX5090).problem


def test_a_driver_too_old_for_the_wheel_makes_it_unusable():
    build = judge(CU130, T4, cuda=(12, 4), driver="550.54.15")
    assert build.usable is False
    assert build.problem.startswith(
        "torch 2.13.0 is built for CUDA 13.0, but driver 550.54.15 runs CUDA up to 12.4; "
        "the Tesla T4 stays unused. Update the NVIDIA driver to 580 or newer, or install "
        "the CUDA 12.6 build"
    )


def test_a_much_older_driver_is_only_told_to_update():
    problem = judge(CU130, T4, cuda=(11, 4), driver="470.1").problem
    assert problem.endswith("Update the NVIDIA driver to 580 or newer.")


def test_an_older_driver_of_the_same_major_version_runs_the_wheel():
    wheel = Wheel(
        version="2.13.0+cu132", cuda_version="13.2", architectures=TURING_ON, published={}
    )
    assert judge(wheel, T4, cuda=(13, 0)).usable is True


def test_a_capability_the_wheel_lacks_makes_it_unusable():
    build = judge(CU130, V100)
    assert build.usable is False
    for words in ("no kernels for the Tesla V100-SXM2-16GB", "capability 7.0", "7.5, 8.0", "cu126"):
        assert words in build.problem


def test_one_of_two_gpus_that_fits_leaves_the_wheel_usable():
    build = judge(CU130, V100, T4)
    assert build.usable is True
    assert "Tesla V100" in build.problem
    assert "cu126" in build.problem
    assert "Tesla T4" not in build.problem


def test_gpus_that_no_single_build_covers_are_told_apart():
    problem = judge(CU130, V100, RTX5090).problem
    assert "No build of torch 2.13.0 has kernels for all of them" in problem
    assert "CUDA_VISIBLE_DEVICES" in problem


def test_a_gpu_that_no_build_covers_is_not_promised_one():
    problem = judge(CPU, gpu("Tesla K80", (3, 7))).problem
    assert "No published build" in problem
    assert "pip install" not in problem


def test_a_gpu_newer_than_all_builds_gets_the_default_one():
    assert judge(CPU, gpu("NVIDIA X1", (13, 0))).problem.endswith("pip install torch==2.13.0")


def test_unknown_architectures_or_capability_are_unknown_not_wrong():
    unknown = Wheel(version="2.13.0a0", cuda_version="13.0", published={})
    assert (judge(unknown, T4).usable, judge(unknown, T4).problem) == (None, None)
    assert judge(CU130, gpu("GPU", None)).usable is None


def test_a_rocm_wheel_is_called_one():
    wheel = Wheel(version="2.13.0+rocm7.0", other="ROCm", published=PUBLISHED)
    assert "is a ROCm build" in judge(wheel, T4).problem


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 5), True),
        ((8, 0), True),
        ((8, 6), True),
        ((8, 9), True),  # by the kernels of 8.6
        ((9, 0), True),
        ((10, 3), True),
        ((12, 1), True),
        ((7, 0), False),
        ((6, 1), False),
        ((8, 7), False),  # Jetson Orin
        ((11, 0), False),
        ((13, 0), None),  # newer than the wheel
    ],
)
def test_kernels_run_within_their_major_version(capability, runs):
    assert runs_on(TURING_ON, capability) is runs


def test_kernels_agree_with_torchs_own_rule():
    torch_cuda = pytest.importorskip("torch.cuda")
    for major, minor in ((m, n) for m in range(5, 13) for n in range(10)):
        device = 10 * major + minor
        for architectures in (TURING_ON, LEGACY):
            theirs = any(
                torch_cuda._code_compatible_with_device(device, 10 * a + b)
                for a, b in architectures
            )
            ours = runs_on(architectures, (major, minor))
            assert theirs == (ours is True), (device, architectures)


def write_wheel(directory, *, cuda="'13.0'", hip="None", literal=b"sm_75 sm_90 compute_90"):
    (directory / "lib").mkdir(parents=True)
    (directory / "cuda").mkdir()
    (directory / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.13.0+cu130'\n"
        f"cuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\nxpu: Optional[str] = None\n"
    )
    (directory / "cuda" / "__init__.py").write_text(
        "X = {\n}\nPYTORCH_RELEASES_CODE_CC: dict[str, dict[str, set[int]]] = {\n"
        '    "12.6": {"x86_64": {50, 90}, "aarch64": {80}},\n'
        '    "13.0": {"x86_64": {75, 120}},\n}\n'
    )
    noise = b"\0sm_ \0sm_75x\0" + bytes(5000)
    (directory / "lib" / "libtorch_python.so").write_bytes(noise + literal + b"\0" + noise)
    return directory


def test_a_wheels_files_are_read_as_text_and_bytes(tmp_path):
    wheel = torch_build._read_directory(write_wheel(tmp_path / "torch"), "2.13.0")
    assert (wheel.cuda_version, wheel.other) == ("13.0", None)
    assert wheel.architectures == {(7, 5), (9, 0)}
    assert wheel.published == {"12.6": {(5, 0), (9, 0)}, "13.0": {(7, 5), (12, 0)}}


def test_builds_are_those_of_this_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    wheel = torch_build._read_directory(write_wheel(tmp_path / "torch"), "2.13.0")
    assert wheel.published == {"12.6": {(8, 0)}}


def test_a_rocm_wheel_is_not_taken_for_a_cpu_wheel(tmp_path):
    directory = write_wheel(tmp_path / "torch", cuda="None", hip="'7.0.1'")
    wheel = torch_build._read_directory(directory, "2.13.0")
    assert (wheel.cuda_version, wheel.other) == (None, "ROCm")


def test_missing_or_damaged_files_are_unknown(tmp_path):
    directory = write_wheel(tmp_path / "torch", literal=b"no list here")
    (directory / "cuda" / "__init__.py").write_text("PYTORCH_RELEASES_CODE_CC = {\n  oops(\n}\n")
    wheel = torch_build._read_directory(directory, "2.13.0")
    assert (wheel.architectures, wheel.published) == (None, {})
    (directory / "lib" / "libtorch_python.so").write_bytes(b"")
    assert torch_build._read_directory(directory, "2.13.0").architectures is None
    empty = torch_build._read_directory(tmp_path / "nothing", "2.13.0")
    assert (empty.cuda_version, empty.architectures, empty.published) == (None, None, {})


def test_the_installed_wheel_agrees_with_torch_itself(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.undo()
    wheel = read_wheel()
    assert wheel.version.split("+")[0] == torch.__version__.split("+")[0]
    assert wheel.cuda_version == torch.version.cuda
    table = torch.cuda.PYTORCH_RELEASES_CODE_CC
    processor = torch.cuda._host_arch_key()
    assert wheel.published == {
        cuda: {divmod(number, 10) for number in by[processor]} for cuda, by in table.items()
    }
    if wheel.cuda_version is not None:
        names = (n for n in torch.cuda.get_arch_list() if n.startswith("sm_"))
        assert wheel.architectures == {divmod(int(n[3:].rstrip("af")), 10) for n in names}


def test_no_torch_is_none(monkeypatch):
    def missing(_):
        raise torch_build.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(torch_build.importlib.metadata, "version", missing)
    assert read_wheel() is None
