"""A fake NVML driver, and a machine without one."""

from types import SimpleNamespace

import pynvml
import pytest

from advisor.hardware import nvidia

GIB = 2**30
MIB = 2**20


class FakeNvml:
    """Stands in for the pynvml module: its constants and errors are real, its answers are `gpus`.

    Each GPU is a dict: name, uuid, capability, total, reserved, used (bytes), and optionally
    compute, graphics (lists of (pid, bytes)), mig (list of GPUs), pcie ((generation, lanes) now and
    at most), nvlinks (states), peers (uuid -> "nvlink" or an NVML level), or an NVML error code by
    the name of a function, which that function then raises.
    """

    def __init__(self, gpus=(), *, driver="580.65.06", cuda=13000, init_error=None):
        self.gpus = list(gpus)
        self.driver = driver
        self.cuda = cuda
        self.init_error = init_error
        self.open = 0

    def __getattr__(self, name):
        if name.startswith("nvml") and name != "nvmlMemory_v2":
            raise AttributeError(name)
        return getattr(pynvml, name)

    def nvmlInit(self):  # noqa: N802
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return self.driver

    def nvmlSystemGetCudaDriverVersion(self):  # noqa: N802
        return self.cuda

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self._checked(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetName(self, gpu):  # noqa: N802
        return self._checked(gpu, "nvmlDeviceGetName")["name"]

    def nvmlDeviceGetUUID(self, gpu):  # noqa: N802
        return gpu["uuid"]

    def nvmlDeviceGetCudaComputeCapability(self, gpu):  # noqa: N802
        return self._checked(gpu, "nvmlDeviceGetCudaComputeCapability")["capability"]

    def nvmlDeviceGetMemoryInfo(self, gpu, version=None):  # noqa: N802
        self._checked(gpu, "nvmlDeviceGetMemoryInfo" + ("_v2" if version else ""))
        total, reserved, used = gpu["total"], gpu["reserved"], gpu["used"]
        free = total - reserved - used
        if version is None:
            return SimpleNamespace(total=total, used=used + reserved, free=free)
        return SimpleNamespace(total=total, reserved=reserved, used=used, free=free)

    def nvmlDeviceGetMigMode(self, gpu):  # noqa: N802
        if "mig" not in gpu:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, index):  # noqa: N802
        if index >= len(gpu["mig"]):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return gpu["mig"][index]

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):  # noqa: N802
        return self._running(gpu, "nvmlDeviceGetComputeRunningProcesses", "compute")

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu):  # noqa: N802
        return self._running(gpu, "nvmlDeviceGetGraphicsRunningProcesses", "graphics")

    def nvmlDeviceGetCurrPcieLinkGeneration(self, gpu):  # noqa: N802
        return self._known(gpu, "pcie")[0][0]

    def nvmlDeviceGetCurrPcieLinkWidth(self, gpu):  # noqa: N802
        return self._known(gpu, "pcie")[0][1]

    def nvmlDeviceGetMaxPcieLinkGeneration(self, gpu):  # noqa: N802
        return self._known(gpu, "pcie")[1][0]

    def nvmlDeviceGetMaxPcieLinkWidth(self, gpu):  # noqa: N802
        return self._known(gpu, "pcie")[1][1]

    def nvmlDeviceGetNvLinkState(self, gpu, link):  # noqa: N802
        states = self._known(gpu, "nvlinks")
        if link >= len(states):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return states[link]

    def nvmlDeviceGetP2PStatus(self, gpu, other, capability):  # noqa: N802
        assert capability == pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        linked = self._known(gpu, "peers")[other["uuid"]] == "nvlink"
        ok, other_than_ok = pynvml.NVML_P2P_STATUS_OK, pynvml.NVML_P2P_STATUS_NOT_SUPPORTED
        return ok if linked else other_than_ok

    def nvmlDeviceGetTopologyCommonAncestor(self, gpu, other):  # noqa: N802
        return self._known(gpu, "peers")[other["uuid"]]

    @staticmethod
    def _known(gpu, key):
        if key not in gpu:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return gpu[key]

    def _running(self, gpu, function, key):
        self._checked(gpu, function)
        return [SimpleNamespace(pid=p, usedGpuMemory=b) for p, b in gpu.get(key, [])]

    @staticmethod
    def _checked(gpu, function):
        if function in gpu:
            raise pynvml.NVMLError(gpu[function])
        return gpu


def t4(number=0, **changes):
    """A Tesla T4 as driver 580 reports it."""
    return {
        "name": "Tesla T4",
        "uuid": f"GPU-{number:08d}-aaaa-bbbb-cccc-dddddddddddd",
        "capability": (7, 5),
        "total": 15360 * MIB,
        "reserved": 448 * MIB,
        "used": 0,
        **changes,
    }


def a100(number=0, **changes):
    """An A100-SXM4-80GB."""
    return t4(
        number,
        **{
            "name": "NVIDIA A100-SXM4-80GB",
            "capability": (8, 0),
            "total": 81920 * MIB,
            "reserved": 870 * MIB,
            **changes,
        },
    )


def mig(number, **changes):
    """A 1g.10gb slice of an A100."""
    return t4(
        **{
            "name": "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
            "uuid": f"MIG-{number:08d}-aaaa-bbbb-cccc-dddddddddddd",
            "capability": (8, 0),
            "total": 9728 * MIB,
            "reserved": 0,
            **changes,
        }
    )


@pytest.fixture
def driver(monkeypatch):
    """Install a fake driver: `driver([t4()])`; the environment has no CUDA_* variable."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def install(gpus=(), **options):
        fake = FakeNvml(gpus, **options)
        monkeypatch.setattr(nvidia, "pynvml", fake)
        return fake

    install.t4, install.a100, install.mig = t4, a100, mig
    return install
