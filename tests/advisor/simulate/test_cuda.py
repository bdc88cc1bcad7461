"""What a card does otherwise than a CPU: each entry says what it rests on."""

import re

import pytest

from advisor.simulate import cuda, temporaries

ENTRIES = {
    **temporaries.RULES,
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
