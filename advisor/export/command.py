"""command: the command line that trains the plan, quoted for a POSIX shell.

Reads which Python runs: a plan for this machine is trained by the same one.
"""

import shlex
import sys

from advisor.arguments import arguments_for
from advisor.export import hf_json, plan_json
from advisor.plan import TrainingPlan
from advisor.recommendation import Recommendation


def render(recommendation: Recommendation) -> str:
    """One line; it expects the hf-json and plan-json exports under their own names beside it."""
    arguments_for(recommendation)  # refuses what could not be run
    assert recommendation.plan is not None
    return shlex.join(_argv(recommendation, recommendation.plan)) + "\n"


def _argv(recommendation: Recommendation, plan: TrainingPlan) -> list[str]:
    machine = recommendation.machine
    argv = [sys.executable if machine.source == "probe" else "python"]
    gpu = None if plan.use_cpu else machine.accelerator()
    if plan.devices > 1:
        # Several visible GPUs without a launcher would be nn.DataParallel in one process.
        argv += ["-m", "torch.distributed.run", "--standalone"]
        argv += [f"--nproc-per-node={plan.devices}"]
    elif gpu is not None and gpu.uuid is not None:
        argv = ["env", f"CUDA_VISIBLE_DEVICES={gpu.uuid}", *argv]
    return [*argv, "-m", "trainer", hf_json.FILENAME, "--plan", plan_json.FILENAME]
