"""Machine: what a probe found or a catalogue row says.

Every figure may be None, which means unknown.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

Vendor = Literal["nvidia", "amd", "intel", "apple"]
MemoryKind = Literal["dedicated", "shared", "unified"]
"""dedicated: the card's own. shared: an integrated GPU borrows RAM as it needs it. unified: GPU and
processor have one pool, so what is free for one is free for the other and is not counted twice."""
Connection = Literal["nvlink", "pcie switch", "host bridge", "numa node", "between processors"]
"""What connects two GPUs, fastest first."""


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process that holds memory on a GPU."""

    pid: int
    name: str | None = None
    user: str | None = None
    """Login name of its owner."""
    used_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Link:
    """How a GPU is connected."""

    pcie_generation: int | None = None
    """As it runs now; an idle card steps down."""
    pcie_width: int | None = None
    """Lanes in use."""
    pcie_max_generation: int | None = None
    pcie_max_width: int | None = None
    """What card and slot could do."""
    nvlinks: int | None = None
    """Active NVLink connections; 0 is none."""
    peers: dict[str, Connection] = field(default_factory=dict)
    """UUID of another GPU of this machine -> what the two talk over."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One accelerator."""

    name: str
    """As the driver or the catalogue spells it, e.g. "Tesla T4"."""
    index: int | None = None
    """Index as CUDA counts inside CUDA_VISIBLE_DEVICES; None when hidden or not probed."""
    uuid: str | None = None
    compute_capability: tuple[int, int] | None = None
    total_bytes: int | None = None
    """What PyTorch can see of it: below the nominal size."""
    used_bytes: int | None = None
    free_bytes: int | None = None
    processes: tuple[GpuProcess, ...] | None = ()
    """Largest first; None where they cannot be listed."""
    vendor: Vendor | None = None
    memory_kind: MemoryKind | None = None
    parent_uuid: str | None = None
    """Of a MIG instance: its card's."""
    link: Link | None = None
    bandwidth_bytes_per_second: float | None = None
    """Memory bandwidth of the data sheet."""
    peak_flops: dict[str, float] = field(default_factory=dict)
    """Dense data-sheet FLOP/s by dtype name (float32, tf32, float16, bfloat16).

    Absent is unknown.
    """
    bf16_native: bool | None = None
    """Whether bfloat16 runs on the hardware's own units (False: emulated, slow)."""
    usable_by_torch: bool | None = None
    """Whether the installed torch has kernels for it; None where that cannot be told."""
    source: Literal["measured", "read"] = "read"
    """measured: probed on this machine; read: from the catalogue."""


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The host processor."""

    model: str | None = None
    usable_cores: int | None = None
    """Cores this process may use: affinity and cgroup quota, rounded down, at least 1."""
    bf16_native: bool | None = None
    """avx512_bf16 or amx_bf16 (x86), bf16 (arm): bfloat16 matmuls are not emulated."""
    flags: tuple[str, ...] = ()
    """The vector extensions that matter, e.g. ("avx2", "avx512f", "amx_bf16")."""


@dataclass(frozen=True, kw_only=True)
class TorchBuild:
    """The installed torch wheel, read from its files without importing it."""

    version: str
    cuda_version: str | None = None
    """CUDA the wheel was built for, e.g. "12.8"; None for a CPU build."""
    usable: bool | None = None
    """Whether this wheel can use the GPUs of this machine.

    None when there is no GPU or it cannot be told.
    """
    problem: str | None = None
    """Why not, as one sentence: what, got what, do what."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine to train on: this one, or one from the catalogue."""

    name: str
    """Short, for a headline: "Tesla T4", "2 x Tesla T4", "Intel Xeon, 2 cores"."""
    source: Literal["probe", "catalogue"] = "probe"
    gpus: tuple[Gpu, ...] = ()
    cpu: Cpu = Cpu()
    ram_total_bytes: int | None = None
    """Physical RAM or the cgroup limit, whichever is less."""
    ram_free_bytes: int | None = None
    """What a new process can still take: MemAvailable, at most what the cgroup leaves."""
    ram_limit_source: Literal["physical", "cgroup"] | None = None
    disk_free_bytes: int | None = None
    """Where runs are written."""
    driver_version: str | None = None
    cuda_visible_devices: str | None = None
    """The variable as set, or None."""
    torch: TorchBuild | None = None
    platform: str | None = None
    python_version: str | None = None
    is_wsl: bool = False
    """Linux inside Windows (WSL2)."""
    is_container: bool | None = None
    chosen_uuid: str | None = None
    """The GPU of this machine that was asked for; None leaves the choice to `accelerator`."""
    notes: tuple[str, ...] = ()
    """What could not be probed, one sentence each."""

    def accelerator(self) -> Gpu | None:
        """The GPU training would use.

        Of the visible ones that this torch can use, the one with most free memory; None means the
        CPU trains.
        """
        if self.torch is not None and self.torch.usable is False:
            return None
        if self.chosen_uuid is not None:
            return next((g for g in self.gpus if g.uuid == self.chosen_uuid), None)
        visible = [
            g
            for g in self.gpus
            if g.usable_by_torch is not False
            and (self.source == "catalogue" or g.index is not None)
        ]
        return max(visible, key=lambda g: g.free_bytes or g.total_bytes or 0, default=None)

    def with_gpu(self, uuid: str) -> "Machine":
        """The same machine, training on one of its GPUs."""
        chosen = next(g for g in self.gpus if g.uuid == uuid)
        return replace(self, name=chosen.name, chosen_uuid=uuid)

    def num_devices(self) -> int:
        """GPUs that a launcher could train on together, at least 1."""
        if self.chosen_uuid is not None:
            return 1
        listed = [g for g in self.gpus if self.source == "catalogue" or g.index is not None]
        return max(len(listed), 1)

    def capacity_bytes(self) -> int | None:
        """Memory a new training process can get: free memory of the GPU, or free RAM."""
        gpu = self.accelerator()
        if gpu is None:
            return self.ram_free_bytes
        return gpu.free_bytes if gpu.free_bytes is not None else gpu.total_bytes
