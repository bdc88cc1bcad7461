"""What a card does otherwise than a CPU: each entry says what it rests on."""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from advisor.simulate import cuda, temporaries
from advisor.simulate.stand_ins import STAND_INS
from advisor.simulate.trace import Recorder

ENTRIES = {
    **temporaries.RULES,
    **{str(operator): stand_in for operator, stand_in in STAND_INS.items()},
    "cublas_workspace_bytes": temporaries.cublas_workspace_bytes,
    "softmax": cuda._softmax,
    "dropout": cuda._dropout,
    "choose_attention": cuda.choose_attention,
    "flash": cuda._flash,
    "efficient": cuda._efficient,
    "math": cuda._math,
    "autocast to float32": cuda._cast_arguments,
    "autocast with a dtype": cuda._set_dtype,
}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_has_its_rows_or_says_that_it_was_read(name):
    said = " ".join(ENTRIES[name].__doc__.split())
    assert re.search(r"read in source|measured.* rows?\b", said, re.IGNORECASE)


def test_the_backward_of_ctc_takes_as_much_as_its_forward_kept():
    recorder = Recorder((8, 0))
    with FakeTensorMode(), torch.device("cpu"):
        scores = torch.empty(50, 3, 20, requires_grad=True)
        targets = torch.empty(3, 7, dtype=torch.long)
        lengths = torch.empty(3, dtype=torch.long), torch.empty(3, dtype=torch.long)
        with recorder.in_phase("forward"):
            losses, alpha = torch.ops.aten._ctc_loss.Tensor(scores, targets, *lengths)
            start = len(recorder.trace.allocations)
            losses.sum().backward()
    later = [(a.op, a.num_bytes) for a in recorder.trace.allocations[start:]]
    assert alpha.shape == (3, 50, 2 * 7 + 1)
    operator = "aten._ctc_loss_backward.Tensor"
    sizes = [size for name, size in later if name.startswith(operator)]
    assert sorted(sizes) == [3 * 8, alpha.numel() * 4, scores.numel() * 4]
