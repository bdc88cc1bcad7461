"""Failures of a training in words: where it was, how much it took, what to change.

torch's exceptions are known by their names and texts, so that the light side may import this.
"""

import errno
import re
import shutil
from pathlib import Path

import psutil

from advisor.errors import AdvisorError

_TORCH_WRITES = ("inline_container.cc", "PytorchStreamWriter", "Parent directory")
"""What RuntimeErrors of torch.save hold; those of a device or of a collective do not."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def ran_out_of_device_memory(error: BaseException) -> bool:
    """Whether this, or what it was raised from, is an accelerator without memory."""
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return error.__cause__ is not None and ran_out_of_device_memory(error.__cause__)


def _ran_out_of_host_memory(error: BaseException) -> bool:
    """Whether this, or what it was raised from, is a host without memory."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate" in str(error):
        return True
    return error.__cause__ is not None and _ran_out_of_host_memory(error.__cause__)


def ran_out_of_planned_memory(error: BaseException, *, on_cpu: bool) -> bool:
    """Whether what did not suffice is what a plan predicts: the device, or the RAM of a CPU run.

    The host of an accelerator may run short too, which says nothing about the plan.
    """
    return ran_out_of_device_memory(error) or (on_cpu and _ran_out_of_host_memory(error))


def memory_error(
    error: BaseException,
    *,
    step: int,
    shape: tuple[int, ...] | None,
    predicted_bytes: int | None,
) -> AdvisorError | None:
    """A failure to allocate as a sentence; None for other errors.

    Args:
        error: what was raised.
        step: optimizer step it happened in, counted from 1.
        shape: rows and tokens of the micro-batch, padding included; None before the first.
        predicted_bytes: peak of the process by the plan.
    """
    reason = _words_of(error)
    rows, tokens = (*(shape or ()), None, None)[:2]
    if ran_out_of_device_memory(error):
        return AdvisorError(
            "faults.device_memory",
            step=step,
            rows=rows,
            tokens=tokens,
            peak=predicted_bytes,
            reason=reason,
        )
    if _ran_out_of_host_memory(error):
        return AdvisorError(
            "faults.host_memory",
            step=step,
            rows=rows,
            tokens=tokens,
            peak=predicted_bytes,
            took=psutil.Process().memory_info().rss,
            free=psutil.virtual_memory().available,
            reason=reason,
        )
    return None


def failed_to_write(error: BaseException) -> bool:
    """Whether a file could not be written, in the words of Python, safetensors or torch."""
    if isinstance(error, OSError):
        return True
    if type(error).__name__ == "SafetensorError":
        return "I/O error" in str(error)
    return isinstance(error, RuntimeError) and any(p in str(error) for p in _TORCH_WRITES)


def saving_error(
    error: BaseException, path: Path, *, step: int | None, last: Path | None
) -> AdvisorError:
    """What could not be saved as a sentence.

    Args:
        error: what was raised; one of which `failed_to_write` is true.
        path: of the checkpoint, or of the trained model.
        step: of the checkpoint; None for the trained model.
        last: the newest complete checkpoint.
    """
    last_step = "0" if last is None else last.name.removeprefix("checkpoint-")
    why, free = _words_of(error), _free_bytes(path)
    if step is None and _is_full(error):
        return AdvisorError("faults.model", path=path, reason=why, last=last_step, free=free)
    if step is None:
        return AdvisorError("faults.model_unwritable", path=path, reason=why, last=last_step)
    if _is_full(error):
        return AdvisorError(
            "faults.checkpoint", step=step, path=path, reason=why, last=last_step, free=free
        )
    return AdvisorError(
        "faults.checkpoint_unwritable", step=step, path=path, reason=why, last=last_step
    )


def _is_full(error: BaseException) -> bool:
    """Torch says only that less was written than it gave; safetensors says the number."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) in _FULL if number else "unexpected pos" in str(error)


def _words_of(error: BaseException) -> str:
    """What a library said, on one line and not without end."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _free_bytes(path: Path) -> int | None:
    for parent in (path, *path.parents):
        try:
            return shutil.disk_usage(parent).free
        except OSError:
            continue
    return None
