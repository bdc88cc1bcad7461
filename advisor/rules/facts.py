"""Facts: what every rule may look at."""

from dataclasses import dataclass

from advisor.data import DataDescription
from advisor.hardware.machine import Gpu, Machine
from advisor.model import ModelDescription
from advisor.plan import Method


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The machine, the model and the data of one question."""

    machine: Machine
    model: ModelDescription
    data: DataDescription | None
    task: str
    block_length: int | None = None
    """Tokens of the rows that texts are packed into; None: a row is a text."""

    def rows(self) -> DataDescription | None:
        """The rows of the batches: `data`, packed where it is."""
        if self.data is None or self.block_length is None:
            return self.data
        return self.data.packed(self.block_length)

    def gpu(self) -> Gpu | None:
        """The card that would train; None is the CPU."""
        return self.machine.accelerator()

    def from_scratch(self, method: Method) -> bool:
        """Training starts from random weights: there are none, and no adapters need any."""
        return method == "full" and not self.model.has_weights

    def num_rows(self) -> int:
        """Training rows, packed where they are; a thousand stand for an unknown data set."""
        rows = self.rows()
        return rows.num_rows if rows else 1000

    def num_texts(self) -> int:
        """Training rows as the file holds them; a thousand stand for an unknown data set."""
        return self.data.num_rows if self.data else 1000

    def lengths_differ(self, max_length: int) -> bool:
        """Whether a batch of several rows needs padding after cutting at `max_length`."""
        rows = self.rows()
        if rows is None:
            return False
        return min(rows.lengths[0], max_length) != min(rows.max_tokens, max_length)

    def methods(self) -> tuple[Method, ...]:
        """Methods that can be asked for, most thorough first."""
        if not self.model.can_adapt():
            return ("full",)
        return ("full", "lora", "qlora") if self.quantises() else ("full", "lora")

    def quantises(self) -> bool:
        """Whether bitsandbytes has kernels for the card: compute capability 6.0 and up."""
        gpu = self.gpu()
        return gpu is not None and (gpu.compute_capability or (0, 0)) >= (6, 0)
