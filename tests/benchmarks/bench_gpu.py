"""Measure training steps on this machine's GPU: `make bench-gpu`.

Needs torch, transformers, peft and accelerate, and nothing of this library's. Writes into --out:
probe.json (rates of the device), rows.jsonl (questions with `measured`, as bench.py reads them),
log.txt (what the steps printed) and summary.json. This process never touches the GPU: every
measurement is a forked child, so that each starts clean and a crash costs one row.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu import device as devices
from gpu import measure, probe
from gpu.configurations import MODELS, configurations, tiny

CHILD_SECONDS = 90
PROBE_SECONDS = 90
LEAST_SECONDS = 15
"""Less than this is left: no further configuration is begun."""
FORK_FAILED = ("re-initialize CUDA", "initialization error")


def main() -> None:
    """Probe, then measure configurations until the time is over."""
    options = _options()
    # the driver's library tells whether there is a GPU without starting CUDA in this process
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if options.device == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = first
    deadline = time.monotonic() + options.seconds
    _import_once()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench-gpu: no CUDA GPU on this machine, nothing measured.")
        return
    if options.one:
        _as_child(options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    Runner(options, deadline).run()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="directory to write to")
    parser.add_argument("--seconds", type=float, default=480, help="stop after about this long")
    parser.add_argument("--configurations", type=int, default=None, help="only the first N")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a configuration's id, or "probe"
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _import_once() -> None:
    """Import in the parent what every child needs; a version without one of these goes on."""
    importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    assert transformers.Trainer, "imports transformers.trainer"
    kinds = sorted({config["model_type"] for config in MODELS.values()})
    for name in ["peft", *(f"transformers.models.{kind}.modeling_{kind}" for kind in kinds)]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"bench-gpu: {name} cannot be imported: {error}", file=sys.stderr)


def questions(device: str) -> list[dict[str, Any]]:
    """The configurations to measure; small ones where the device is the CPU."""
    found = configurations()
    return found if device == "cuda" else [tiny(configuration) for configuration in found]


class Runner:
    """The parent: starts children one after the other and writes their rows."""

    def __init__(self, options: argparse.Namespace, deadline: float) -> None:
        self.options = options
        self.deadline = deadline
        self.by_fork = hasattr(os, "fork")
        self.log = options.out / "log.txt"
        self.accelerator = "unknown"
        self.began = _now()

    def run(self) -> None:
        """Everything, in order."""
        asked = questions(self.options.device)[: self.options.configurations]
        probe_path = self.options.out / "probe.json"
        probe_path.unlink(missing_ok=True)
        found = self.child("probe", PROBE_SECONDS, lambda: _probe(probe_path, self.options.device))
        self.accelerator = found.get("accelerator") or self.accelerator
        if "error" in found and not probe_path.exists():
            self.by_fork = False  # a forked child could not even begin
        print(f"bench-gpu: {self.accelerator}, {len(asked)} configurations", flush=True)
        done, counts = [], {"fits": 0, "oom": 0, "error": 0}
        with (self.options.out / "rows.jsonl").open("w", encoding="utf-8") as rows:
            for configuration in asked:
                left = self.deadline - time.monotonic()
                if left < LEAST_SECONDS:
                    break
                row = self.row(configuration, min(CHILD_SECONDS, left))
                if row["measured"].get("error") and time.monotonic() >= self.deadline:
                    break  # cut off by the end of the time, not by its own fault
                rows.write(json.dumps(row) + "\n")
                rows.flush()
                done.append(row["id"])
                print(_line(row), flush=True)
                measured = row["measured"]
                kind = "error" if measured.get("error") else measured["verdict"] or "fits"
                counts[kind] += 1
        summary = {
            "began": self.began,
            "ended": _now(),
            "accelerator": self.accelerator,
            "rows": counts,
            "by_fork": self.by_fork,
            "not_reached": [c["id"] for c in asked if c["id"] not in done],
        }
        path = self.options.out / "summary.json"
        path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")

    def row(self, configuration: dict[str, Any], limit: float) -> dict[str, Any]:
        """One configuration as a row, whatever happens to its child."""
        device, began = self.options.device, time.monotonic()
        found = self.child(configuration["id"], limit, lambda: _measure(configuration, device))
        if "error" in found:
            found = {"measured": {"verdict": None, "error": found["error"]}} | found
        measured = found["measured"] | {"wall_seconds": round(time.monotonic() - began, 2)}
        return configuration | {
            "machine": {"accelerator": found.get("accelerator", self.accelerator), "count": 1},
            "measured": measured,
            "software": found.get("software"),
            "source": f"bench_gpu.py, {self.began}",
        }

    def child(self, name: str, limit: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `work` returns in a process of its own; {"error": ...} if it fails."""
        with tempfile.TemporaryDirectory() as directory:
            answer = Path(directory) / "answer.json"
            with self.log.open("ab") as log:
                log.write(f"\n== {name}\n".encode())
                log.flush()
                if self.by_fork:
                    code = _forked(work, answer, log, limit)
                else:
                    code = self._spawned(name, answer, log, limit)
            if not answer.exists():
                reason = f"no answer in {limit:.0f} s" if code is None else f"ended with {code}"
                return {"error": f"The process {reason}; see log.txt."}
            found = json.loads(answer.read_text(encoding="utf-8"))
        if self.by_fork and any(text in found.get("error", "") for text in FORK_FAILED):
            self.by_fork = False  # something started CUDA in this process: fresh ones from now on
            return self.child(name, limit, work)
        return found

    def _spawned(self, name: str, answer: Path, log: Any, limit: float) -> int | None:
        command = [sys.executable, __file__, "--one", name, "--answer", str(answer)]
        command += ["--device", self.options.device, "--out", str(self.options.out)]
        try:
            done = subprocess.run(command, stdout=log, stderr=log, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return None
        return done.returncode


def _forked(work: Callable[[], dict[str, Any]], answer: Path, log: Any, limit: float) -> int | None:
    """Run `work` in a forked child; its exit code, or None if it had to be killed."""
    pid = os.fork()
    if pid == 0:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        _answer(work, answer)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _answer(work: Callable[[], dict[str, Any]], answer: Path) -> None:
    """Write what `work` returns, or the text of its error: a row, not a crash."""
    try:
        found = work()
    except Exception as error:  # noqa: BLE001 - any failure of any model is a row with its text
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"[:600]}
    answer.write_text(json.dumps(found), encoding="utf-8")


def _as_child(options: argparse.Namespace) -> None:
    if options.one == "probe":
        path = options.out / "probe.json"
        _answer(lambda: _probe(path, options.device), options.answer)
        return
    asked = next(c for c in questions(options.device) if c["id"] == options.one)
    _answer(lambda: _measure(asked, options.device), options.answer)


def _probe(path: Path, device: str) -> dict[str, Any]:
    probe.probe(path, device)
    return {"accelerator": _accelerator(device)}


def _measure(configuration: dict[str, Any], device: str) -> dict[str, Any]:
    return {
        "measured": measure.measure(configuration, device),
        "accelerator": _accelerator(device),
        "software": devices.software(),
    }


def _accelerator(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(0) if device == "cuda" else "cpu"


def _line(row: dict[str, Any]) -> str:
    measured = row["measured"]
    if measured.get("error"):
        return f"{row['id']}: {measured['error'][:150]}"
    if measured["verdict"] == "oom":
        return f"{row['id']}: out of memory"
    gib = [
        "-" if measured[name] is None else f"{measured[name] / 2**30:.3f}"
        for name in ("allocated_bytes", "reserved_bytes", "process_bytes")
    ]
    return f"{row['id']}: {' / '.join(gib)} GiB, {1000 * measured['step_seconds']:.1f} ms"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    main()
