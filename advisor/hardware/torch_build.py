"""The installed torch wheel and the GPUs it can use. Reads its files and never imports torch."""

import ast
import functools
import importlib.metadata
import importlib.util
import mmap
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advisor.hardware.catalogue import headline
from advisor.hardware.machine import Gpu, TorchBuild
from advisor.units import UNKNOWN

Version = tuple[int, int]
"""Major and minor, of CUDA or of a compute capability."""

MINIMUM_DRIVER = {11: 450, 12: 525, 13: 580}
"""First driver branch that runs a CUDA major version, whatever the minor one (NVIDIA, "CUDA
Compatibility", table 1 of Minor Version Compatibility)."""

DEFAULT_CUDA = {"2.13": "13.0", "2.14": "13.2"}
"""CUDA of the wheel that plain `pip install torch==...` gets on Linux x86-64 (read in version.py of
torch 2.13.0; pytorch/pytorch issue 190355 for 2.14)."""

_INTEGRATED = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1)})
"""Jetson-class chips: kernels for the discrete GPUs of their family do not run on them
(DEVICE_REQUIREMENT in torch/cuda/__init__.py)."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """What the files of a torch installation say."""

    version: str
    cuda_version: str | None = None
    """CUDA it was built for; None for other builds."""
    other: str | None = None
    """"ROCm" or "XPU" for such a build."""
    architectures: frozenset[Version] | None = None
    """Compute capabilities it has kernels for; None when they cannot be read."""
    published: dict[str, frozenset[Version]]
    """Builds of this version for this processor: CUDA version -> compute capabilities."""


def read_wheel() -> Wheel | None:
    """The torch that this interpreter would import, or None without one."""
    spec = importlib.util.find_spec("torch")
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    return _read_directory(Path(spec.origin).parent, version)


def torch_build(
    wheel: Wheel,
    gpus: Sequence[Gpu],
    *,
    driver_version: str | None = None,
    driver_cuda: Version | None = None,
) -> TorchBuild:
    """Whether a torch installation can use the GPUs that CUDA shows.

    Args:
        wheel: see `read_wheel`.
        gpus: of the machine; hidden ones (index None) are left out.
        driver_version: for the sentence.
        driver_cuda: newest CUDA that the driver runs.
    """
    visible = tuple(gpu for gpu in gpus if gpu.index is not None)
    usable, problem = None, None
    if visible:
        usable, problem = _judge(wheel, visible, driver_version, driver_cuda)
    return TorchBuild(
        version=wheel.version, cuda_version=wheel.cuda_version, usable=usable, problem=problem
    )


def runs_on(architectures: frozenset[Version] | None, capability: Version | None) -> bool | None:
    """Whether kernels for some compute capabilities run on a GPU of another.

    Kernels run on the same major version from their minor version on (NVIDIA, CUDA C++ Programming
    Guide, "Binary Compatibility").

    Returns:
        None when one of the two is unknown, or the GPU is newer than all kernels (PTX may help).
    """
    if architectures is None or capability is None:
        return None
    if capability in _INTEGRATED:
        return capability in architectures
    if any(a[0] == capability[0] and a <= capability for a in architectures - _INTEGRATED):
        return True
    return None if capability > max(architectures) else False


def _judge(
    wheel: Wheel, gpus: tuple[Gpu, ...], driver_version: str | None, driver_cuda: Version | None
) -> tuple[bool | None, str | None]:
    """`usable` and `problem` for GPUs that CUDA shows."""
    torch = f"torch {wheel.version}"
    stay = f"the {headline(gpus)} {'stays' if len(gpus) == 1 else 'stay'} unused"
    if wheel.cuda_version is None:
        kind = {"ROCm": "a ROCm", "XPU": "an XPU", None: "a CPU"}[wheel.other]
        return False, f"{torch} is {kind} build; {stay}. {_remedy(wheel, gpus, driver_cuda)}"
    major = _version(wheel.cuda_version)[0]
    if driver_cuda is not None and driver_cuda[0] < major:
        driver = f"driver {driver_version}" if driver_version else "the driver"
        return False, (
            f"{torch} is built for CUDA {wheel.cuda_version}, but {driver} runs CUDA up to "
            f"{_dotted(driver_cuda)}; {stay}. {_remedy(wheel, gpus, driver_cuda, keep=major)}"
        )
    verdicts = [runs_on(wheel.architectures, gpu.compute_capability) for gpu in gpus]
    usable = True if True in verdicts else None if None in verdicts else False
    bad = tuple(gpu for gpu, verdict in zip(gpus, verdicts, strict=True) if verdict is False)
    if not bad:
        return usable, None
    needs = ", ".join(sorted({_dotted(gpu.compute_capability) for gpu in bad}))
    has = ", ".join(_dotted(a) for a in sorted(wheel.architectures or ()))
    return usable, (
        f"{torch} for CUDA {wheel.cuda_version} has no kernels for the {headline(bad)}: compute "
        f"capability {needs}, and it is built for {has}. {_remedy(wheel, gpus, driver_cuda)}"
    )


def _remedy(
    wheel: Wheel, gpus: tuple[Gpu, ...], driver_cuda: Version | None, *, keep: int | None = None
) -> str:
    """What to do so that all of `gpus` are used, as a sentence.

    `keep` is the CUDA major version of the installed wheel, given where a newer driver would do.
    """
    base = wheel.version.split("+")[0]
    if not wheel.published:
        return _sentence([_newer_driver(keep)] if keep else [_plain_install(base)])
    covering = _covering(wheel, gpus)
    if not covering and len(gpus) == 1:
        return (
            f"No published build of torch {base} has kernels for it; "
            "use another GPU, or a torch built for this one."
        )
    if not covering:
        return (
            f"No build of torch {base} has kernels for all of them; "
            "set CUDA_VISIBLE_DEVICES to the UUIDs of those of one kind."
        )
    fitting = [c for c in covering if driver_cuda is None or _version(c)[0] <= driver_cuda[0]]
    steps = [_newer_driver(keep)] if keep else []
    if fitting:
        steps.append(_install(base, fitting, driver_cuda))
    elif not keep:
        steps.append(_newer_driver(min(_version(cuda)[0] for cuda in covering)))
    return _sentence(steps)


def _covering(wheel: Wheel, gpus: tuple[Gpu, ...]) -> list[str]:
    """Published builds that run on all of `gpus`.

    A GPU that no build surely runs on, but some may (unknown or newer than all kernels), only rules
    out the builds that surely do not.
    """
    builds = set(wheel.published)
    for gpu in gpus:
        verdicts = {c: runs_on(a, gpu.compute_capability) for c, a in wheel.published.items()}
        accepted = (True,) if True in verdicts.values() else (None,)
        builds &= {cuda for cuda, verdict in verdicts.items() if verdict in accepted}
    return sorted(builds, key=_version)


def _install(base: str, fitting: list[str], driver_cuda: Version | None) -> str:
    """How to get one of some CUDA builds: the default one, else the newest the driver knows."""
    default = DEFAULT_CUDA.get(".".join(base.split(".")[:2]))
    if default in fitting and sys.platform == "linux" and platform.machine() == "x86_64":
        return _plain_install(base)
    known = [cuda for cuda in fitting if driver_cuda is None or _version(cuda) <= driver_cuda]
    cuda = max(known, key=_version) if known else min(fitting, key=_version)
    return (
        f"install the CUDA {cuda} build of it, torch=={base}+cu{cuda.replace('.', '')} "
        '(PyTorch\'s "Start Locally" page prints the command)'
    )


def _plain_install(base: str) -> str:
    return f"reinstall torch with CUDA: pip uninstall -y torch && pip install torch=={base}"


def _newer_driver(major: int) -> str:
    minimum = MINIMUM_DRIVER.get(major)
    return f"update the NVIDIA driver{f' to {minimum} or newer' if minimum else ''}"


def _sentence(steps: list[str]) -> str:
    text = ", or ".join(steps)
    end = "" if "pip install" in steps[-1] else "."  # a command is there to be copied
    return f"{text[0].upper()}{text[1:]}{end}"


def _read_directory(directory: Path, version: str) -> Wheel:
    text = _read(directory / "version.py")
    cuda, hip, xpu = (_assigned(text, name) for name in ("cuda", "hip", "xpu"))
    return Wheel(
        version=version,
        cuda_version=cuda,
        other="ROCm" if hip else "XPU" if xpu else None,
        architectures=_architectures(directory / "lib") if cuda else None,
        published=_published(_read(directory / "cuda" / "__init__.py")),
    )


def _assigned(text: str, name: str) -> str | None:
    """The text that version.py assigns to a name."""
    match = re.search(rf"^{name}(?::[^=\n]*)?\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


def _architectures(lib: Path) -> frozenset[Version] | None:
    """The list behind `torch.cuda.get_arch_list()`: a literal in libtorch_python, "sm_75 sm_80"."""
    for name in ("libtorch_python.so", "torch_python.dll"):
        try:
            return _scan(lib / name, (lib / name).stat().st_mtime_ns)
        except OSError:
            continue
    return None


@functools.cache
def _scan(path: Path, mtime_ns: int) -> frozenset[Version] | None:  # noqa: ARG001 - part of the key
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(b"\0sm_")
        while start >= 0:
            literal = data[start + 1 : start + 500].split(b"\0")[0]
            if re.fullmatch(rb"((sm|compute)_\d+[af]? ?)+", literal):
                numbers = re.findall(rb"sm_(\d+)", literal)
                return frozenset(divmod(int(number), 10) for number in numbers)
            start = data.find(b"\0sm_", start + 1)
    return None


def _published(text: str) -> dict[str, frozenset[Version]]:
    """PYTORCH_RELEASES_CODE_CC of torch/cuda/__init__.py for this processor; empty without it."""
    match = re.search(r"(?ms)^PYTORCH_RELEASES_CODE_CC\b[^=]*= (\{.*?^\})", text)
    if match is None:
        return {}
    processor = "aarch64" if platform.machine().lower() == "aarch64" else "x86_64"
    try:
        table = ast.literal_eval(match[1])
        return {
            cuda: frozenset(divmod(number, 10) for number in by_processor[processor])
            for cuda, by_processor in table.items()
            if by_processor.get(processor)
        }
    except (ValueError, SyntaxError, TypeError, AttributeError):
        return {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(text: str) -> Version:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _dotted(version: Version | None) -> str:
    return UNKNOWN if version is None else f"{version[0]}.{version[1]}"
