"""Processor, RAM and cgroups, on trees written by the tests."""

import os
import sys
from types import SimpleNamespace

import psutil
import pytest

from advisor.hardware import host
from advisor.hardware.host import Limits, cgroup_limits, read_cpu, read_ram, usable_cores

GIB = 2**30
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"""


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def v2_group(root, path, *, limit, used=0, cache=0, cpu="max 100000"):
    group = f"sys/fs/cgroup/{path}"
    write(root, f"{group}/memory.max", limit)
    write(root, f"{group}/memory.current", used)
    write(root, f"{group}/memory.stat", f"anon 5\nfile 7\ninactive_file {cache}\nactive_file 3")
    write(root, f"{group}/cpu.max", cpu)


def v2_tree(root, path="/"):
    write(root, "proc/self/cgroup", f"0::{path}")
    write(root, "proc/self/mountinfo", V2_MOUNT)


def v1_tree(root, path="/", mounted="/"):
    write(root, "proc/self/cgroup", f"4:memory:{path}\n1:cpu,cpuacct:{path}\n0::/")
    write(root, "proc/self/mountinfo", V1_MOUNTS.format(root=mounted))


def v1_memory(root, path, *, limit, used=0, cache=0):
    group = f"sys/fs/cgroup/memory/{path}"
    write(root, f"{group}/memory.limit_in_bytes", limit)
    write(root, f"{group}/memory.usage_in_bytes", used)
    write(root, f"{group}/memory.stat", f"inactive_file 1\ntotal_inactive_file {cache}")


def test_v2_limit_counts_reclaimable_cache_as_free(tmp_path):
    v2_tree(tmp_path)
    v2_group(tmp_path, "", limit=8 * GIB, used=5 * GIB, cache=2 * GIB, cpu="250000 100000")
    limits = cgroup_limits(tmp_path)
    assert limits == Limits(cores=2.5, memory_bytes=8 * GIB, memory_free_bytes=5 * GIB)


def test_v2_takes_the_tightest_of_all_parents(tmp_path):
    v2_tree(tmp_path, "/user.slice/job.scope")
    v2_group(tmp_path, "user.slice/job.scope", limit=20 * GIB, used=GIB, cpu="800000 100000")
    v2_group(tmp_path, "user.slice", limit=16 * GIB, used=15 * GIB, cpu="300000 100000")
    limits = cgroup_limits(tmp_path)
    assert limits == Limits(cores=3.0, memory_bytes=16 * GIB, memory_free_bytes=GIB)


def test_v2_free_may_be_tightest_where_the_limit_is_not(tmp_path):
    v2_tree(tmp_path, "/a/b")
    v2_group(tmp_path, "a/b", limit=10 * GIB, used=2 * GIB)
    v2_group(tmp_path, "a", limit=40 * GIB, used=37 * GIB)
    limits = cgroup_limits(tmp_path)
    assert (limits.memory_bytes, limits.memory_free_bytes) == (10 * GIB, 3 * GIB)


def test_v2_without_a_limit_is_no_limit(tmp_path):
    v2_tree(tmp_path, "/a")
    v2_group(tmp_path, "a", limit="max", used=3 * GIB)
    assert cgroup_limits(tmp_path) == Limits()


def test_a_group_over_its_limit_has_nothing_free(tmp_path):
    v2_tree(tmp_path)
    v2_group(tmp_path, "", limit=GIB, used=2 * GIB)
    assert cgroup_limits(tmp_path).memory_free_bytes == 0


def test_a_sibling_group_is_not_ours(tmp_path):
    v2_tree(tmp_path, "/a")
    v2_group(tmp_path, "a", limit="max")
    v2_group(tmp_path, "b", limit=GIB, cpu="100000 100000")
    assert cgroup_limits(tmp_path) == Limits()


def test_v1_reads_memory_and_cpu_from_their_own_hierarchies(tmp_path):
    v1_tree(tmp_path, "/job")
    v1_memory(tmp_path, "job", limit=4 * GIB, used=3 * GIB, cache=GIB)
    v1_memory(tmp_path, "", limit=9223372036854771712, used=50 * GIB)
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", 150000)
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", 100000)
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", -1)
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100000)
    limits = cgroup_limits(tmp_path)
    assert limits == Limits(cores=1.5, memory_bytes=4 * GIB, memory_free_bytes=2 * GIB)


def test_v1_unlimited_is_no_limit(tmp_path):
    v1_tree(tmp_path)
    v1_memory(tmp_path, "", limit=9223372036854771712, used=GIB)
    assert cgroup_limits(tmp_path) == Limits()


@pytest.mark.parametrize("path", ["/docker/abc", "/../../elsewhere", "/kubepods/pod1"])
def test_v1_container_that_sees_only_its_own_group(tmp_path, path):
    v1_tree(tmp_path, path, mounted="/docker/abc")
    v1_memory(tmp_path, "", limit=6 * GIB, used=GIB)
    assert cgroup_limits(tmp_path).memory_free_bytes == 5 * GIB


def test_no_cgroups_is_no_limit(tmp_path):
    assert cgroup_limits(tmp_path) == Limits()
    write(tmp_path, "proc/self/cgroup", "0::/")
    write(tmp_path, "proc/self/mountinfo", "garbage\n- \n")
    assert cgroup_limits(tmp_path) == Limits()


def test_kills_for_want_of_memory_are_of_the_own_group_else_of_the_host(tmp_path):
    assert host.out_of_memory_kills(tmp_path) is None
    write(tmp_path, "proc/vmstat", "nr_free_pages 5\noom_kill 9\npgfault 1")
    assert host.out_of_memory_kills(tmp_path) == 9
    v2_tree(tmp_path, "/user/job")
    write(
        tmp_path, "sys/fs/cgroup/user/memory.events", "low 0\noom 5\noom_kill 4\noom_group_kill 0"
    )
    assert host.out_of_memory_kills(tmp_path) == 4
    events = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0"
    write(tmp_path, "sys/fs/cgroup/user/job/memory.events", events)
    assert host.out_of_memory_kills(tmp_path) == 1
    v1_tree(tmp_path, "/job")
    control = "oom_kill_disable 0\nunder_oom 0\noom_kill 7"
    write(tmp_path, "sys/fs/cgroup/memory/job/memory.oom_control", control)
    assert host.out_of_memory_kills(tmp_path) == 7


@pytest.mark.parametrize(
    ("allowed", "quota", "cores"),
    [(8, None, 8), (8, 2.9, 2), (8, 0.5, 1), (2, 16.0, 2), (8, 8.0, 8)],
)
def test_usable_cores_are_the_least_of_affinity_and_quota(monkeypatch, allowed, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: frozenset(range(allowed)), raising=False)
    assert usable_cores(Limits(cores=quota)) == cores


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(), (64 * GIB, 40 * GIB, "physical")),
        (
            Limits(memory_bytes=16 * GIB, memory_free_bytes=9 * GIB),
            (16 * GIB, 9 * GIB, "cgroup"),
        ),
        (
            Limits(memory_bytes=60 * GIB, memory_free_bytes=50 * GIB),
            (60 * GIB, 40 * GIB, "cgroup"),
        ),
        (
            Limits(memory_bytes=128 * GIB, memory_free_bytes=90 * GIB),
            (64 * GIB, 40 * GIB, "physical"),
        ),
    ],
)
def test_ram_is_the_least_of_machine_and_cgroup(monkeypatch, limits, expected):
    memory = SimpleNamespace(total=64 * GIB, available=40 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    ram = read_ram(limits)
    assert (ram.total_bytes, ram.free_bytes, ram.limit_source) == expected


X86 = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse avx avx2 fma avx512f avx512_vnni {extra}

processor\t: 1
model name\t: Another
flags\t\t: fpu"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve {extra}\nCPU part\t: 0xd40"


@pytest.mark.skipif(sys.platform != "linux", reason="reads a Linux /proc/cpuinfo")
@pytest.mark.parametrize(
    ("cpuinfo", "extra", "native"),
    [
        (X86, "", False),
        (X86, "amx_bf16", True),
        (X86, "avx512_bf16", True),
        (ARM, "", False),
        (ARM, "bf16", True),
        ("", "", None),
    ],
)
def test_bf16_follows_the_flags_and_is_unknown_without_them(tmp_path, cpuinfo, extra, native):
    write(tmp_path, "proc/cpuinfo", cpuinfo.format(extra=extra))
    assert read_cpu(Limits(), tmp_path).bf16_native is native


@pytest.mark.skipif(sys.platform != "linux", reason="reads a Linux /proc/cpuinfo")
def test_the_cpu_keeps_its_model_and_the_flags_that_matter(tmp_path):
    write(tmp_path, "proc/cpuinfo", X86.format(extra="amx_bf16 amx_tile"))
    cpu = read_cpu(Limits(cores=1.0), tmp_path)
    assert cpu.model == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert cpu.usable_cores == 1
    assert cpu.flags == ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "amx_bf16")


def test_macos_is_read_through_sysctl(monkeypatch):
    values = {
        "machdep.cpu.brand_string": b"Apple M2 Pro\0",
        "hw.optional.arm.FEAT_BF16": (1).to_bytes(4, sys.byteorder),
    }
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(host, "_sysctl", values.get)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    cpu = read_cpu(Limits())
    assert (cpu.model, cpu.usable_cores, cpu.bf16_native) == ("Apple M2 Pro", 10, True)


def test_sysctl_is_unknown_where_it_does_not_exist():
    if sys.platform == "linux":
        assert host._sysctl("machdep.cpu.brand_string") is None


def test_disk_is_read_where_the_directory_would_be(tmp_path):
    free = host.disk_free_bytes(tmp_path / "not" / "there" / "yet")
    assert free > 0
    assert not (tmp_path / "not").exists()
