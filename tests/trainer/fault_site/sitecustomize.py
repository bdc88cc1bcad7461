"""Faults that a test puts into a real trainer: named in FAULT, done when the trainer is imported.

Python imports this file at its start when its folder is on PYTHONPATH; the product knows nothing of
it. Everything else of the process is the real thing.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

FAULT = json.loads(os.environ.get("FAULT", "{}"))


class _WhenTheTrainerComes:
    def find_spec(self, name, path=None, target=None):
        if name == "trainer.callback":
            sys.meta_path.remove(self)
            _put_in()
        return


def _put_in() -> None:
    import torch
    from transformers import Trainer

    step, save = Trainer.training_step, torch.save

    def training_step(self, model, inputs, *args, **kwargs):
        done = self.state.global_step
        time.sleep(FAULT.get("seconds_a_step", 0))
        if done == FAULT.get("device_memory_at"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if done == FAULT.get("host_limit_at"):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
            torch.ones(2**28)  # 1 GiB, for which there is no address space any more
        if done == FAULT.get("eat_at"):
            kept = []
            while True:
                kept.append(torch.ones(2**24))
        return step(self, model, inputs, *args, **kwargs)

    def slow_save(value, path, *args, **kwargs):
        if "seconds_a_save" in FAULT and str(path).endswith("optimizer.pt"):
            save(value, path, *args, **kwargs)
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            Path(FAULT["saving"]).touch()
            time.sleep(FAULT["seconds_a_save"])
        save(value, path, *args, **kwargs)

    Trainer.training_step, torch.save = training_step, slow_save


if FAULT:
    sys.meta_path.insert(0, _WhenTheTrainerComes())
