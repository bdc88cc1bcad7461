"""transformers.Trainer that says in words what it could not write. Touches the checkpoints."""

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer

from trainer import faults
from trainer.checkpoints import newest_checkpoint


class RunTrainer(Trainer):
    """Trains as Trainer does; a failure finds out what it was at, and what is saved."""

    micro_batch_shape: tuple[int, ...] | None = None
    """Rows and tokens of the micro-batch in work, for the sentence of a failure."""

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The same, remembering how large the batch is."""
        self._remember(inputs)
        return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The same of an evaluation."""
        self._remember(inputs)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _remember(self, inputs: dict[str, Any]) -> None:
        named = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        self.micro_batch_shape = None if named is None else tuple(named.shape)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """The same; what could not be written to its end is removed and said in words."""
        assert self.args.output_dir is not None
        directory = Path(self.args.output_dir)
        path = directory / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            last = newest_checkpoint(directory)
            if last == path or not faults.failed_to_write(error):
                raise
            said = faults.saving_error(error, path, step=self.state.global_step, last=last)
            shutil.rmtree(path, ignore_errors=True)
            raise said from error

    def save_result(self) -> None:
        """The trained model into the output directory; what could not be written is said."""
        assert self.args.output_dir is not None
        directory = Path(self.args.output_dir)
        try:
            self.save_model()
        except (OSError, RuntimeError, SafetensorError) as error:
            if not faults.failed_to_write(error):
                raise
            last = newest_checkpoint(directory)
            raise faults.saving_error(error, directory, step=None, last=last) from error

    def save_now(self) -> None:
        """A complete checkpoint of the step that was just made."""
        self._save_checkpoint(self.model_wrapped, trial=None)
        self.callback_handler.on_save(self.args, self.state, self.control)
