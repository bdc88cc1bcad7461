"""The batch of a task as its collator makes it: which tensors, which shapes, which numbers.

`advisor.tasks` names the dimensions; here they are looked up in the config. What a config leaves
open is assumed and said in `Batch.notes`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from advisor.errors import SimulationError, note
from advisor.locale import Note
from advisor.simulate.profile import Structure
from advisor.tasks import BatchTensor, find_task

CHOICES = 4
"""Answers a question of multiple-choice has (SWAG, as in run_swag.py)."""
FRAMES_PER_LABEL = 4
"""Assumed of a transcript: 50 frames and 12.5 characters a second."""
TOKEN = 5
"""A token that is no special one in the usual vocabularies."""
_SIZES = {"semantic-segmentation": 512}
"""Pixels of a side where the config does not say (run_semantic_segmentation.py, SegFormer)."""
_USUAL_SIZE = 224


Tensors = dict[str, tuple[tuple[int, ...], torch.dtype, torch.Tensor | None]]


@dataclass(frozen=True)
class Batch:
    """Tensors by name: (shape, dtype, numbers); floats have none."""

    tensors: Tensors
    notes: tuple[str, ...]


def plan_batch(structure: Structure, model: nn.Module, batch: int, length: int) -> Batch:
    """What a micro-batch of `batch` rows holds; `length` as the task counts it.

    Raises:
        SimulationError: what the model takes is not known.
    """
    dimensions = _Dimensions(structure, model, batch, length)
    tensors = {}
    for tensor in find_task(structure.task).batch:
        if tensor.name == "token_type_ids" and not dimensions.has_types():
            continue
        name, shape = dimensions.resolve(tensor)
        dtype = getattr(torch, tensor.dtype)
        real = None if dtype.is_floating_point else _numbers(name, shape, dtype, dimensions.config)
        tensors[name] = (shape, dtype, real)
    if structure.padding_free:
        tensors = _flattened(tensors, batch, length)
    return Batch(tensors, tuple(dimensions.notes))


def _flattened(tensors: Tensors, batch: int, length: int) -> Tensors:
    """What transformers.DataCollatorWithFlattening makes of `batch` rows: (1, tokens) each."""
    shape, dtype = (1, batch * length), torch.int64
    ids = tensors["input_ids"][2]
    assert ids is not None
    ids = ids.reshape(shape)
    labels, positions = ids.clone(), torch.arange(length).repeat(batch).reshape(shape)
    labels[positions == 0] = -100
    numbers = {"input_ids": ids, "labels": labels, "position_ids": positions}
    return {name: (shape, dtype, each) for name, each in numbers.items()}


def _numbers(name: str, shape: tuple[int, ...], dtype: torch.dtype, config: Any) -> torch.Tensor:
    """Those of an ordinary row: no padding, an end where the tokenizer writes one."""
    if name in ("bool_masked_pos", "mask_time_indices"):
        return (torch.arange(math.prod(shape)) % 2).reshape(shape).to(dtype)
    if name == "sampled_negative_indices":
        return torch.zeros(shape, dtype=dtype)
    if name in ("attention_mask", "start_positions", "end_positions"):
        return torch.ones(shape, dtype=dtype)
    if name == "token_type_ids":
        return torch.zeros(shape, dtype=dtype)
    if name == "labels" and len(shape) != 2:  # a class
        return torch.ones(shape, dtype=dtype)
    result = torch.full(shape, TOKEN, dtype=dtype)
    end, size = getattr(config, "eos_token_id", None), getattr(config, "vocab_size", None)
    if name == "input_ids" and isinstance(end, int) and (size is None or end < size):
        result[..., -1] = end
    return result


class _Dimensions:
    """Names of dimensions as numbers."""

    def __init__(self, structure: Structure, model: nn.Module, batch: int, length: int) -> None:
        self.task = structure.task
        self.model = model
        self.config: Any = model.config
        self.notes: list[str] = []
        self._known = {"batch": batch, "length": length, "choices": CHOICES}

    def has_types(self) -> bool:
        """Whether the tokenizer of such a model makes token_type_ids."""
        return (getattr(self.config, "type_vocab_size", 0) or 0) > 1

    def resolve(self, tensor: BatchTensor) -> tuple[str, tuple[int, ...]]:
        """The argument's name and shape."""
        if tensor.name == "audio":
            name = str(getattr(self.model, "main_input_name", "input_values"))
            if find_task(self.task).auto_classes != ("AutoModelForSpeechSeq2Seq",):
                name = "input_features" if name == "input_features" else "input_values"
            return name, (self._known["batch"], *self._audio(name))
        shape = tuple(self._dimension(word) for word in tensor.shape)
        if tensor.name == "input_ids" and self._is_seq_to_seq():
            self._note(note("batches.both_sides"))
        if tensor.name == "decoder_input_ids" and not self._is_seq_to_seq():
            raise SimulationError("batches.no_decoder", model_type=self.config.model_type)
        return tensor.name, shape

    def _is_seq_to_seq(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False))

    def _note(self, said: Note) -> None:
        if said not in self.notes:
            self.notes.append(said)

    def _dimension(self, word: str) -> int:
        if word in self._known:
            return self._known[word]
        if word == "channels":
            return int(self._look("num_channels", 3))
        if word in ("height", "width"):
            return self._side(word)
        if word == "patches":
            patch = self._look("patch_size", 16)
            rows, columns = patch if isinstance(patch, (list, tuple)) else (patch, patch)
            return (self._side("height") // rows) * (self._side("width") // columns)
        if word == "negatives":
            return int(self._look("num_negatives", 100))
        assert word == "transcript"
        return self._transcript()

    def _transcript(self) -> int:
        length = self._known["length"]
        if self._is_seq_to_seq():
            self._note(note("batches.transcript"))
            return length
        self._note(note("batches.labels", frames=FRAMES_PER_LABEL))
        return max(length // FRAMES_PER_LABEL, 1)

    def _look(self, name: str, usual: Any) -> Any:
        """A field of the config, of its vision part or what is usual."""
        vision = getattr(self.config, "vision_config", None)
        for config in (self.config, vision, getattr(self.config, "backbone_config", None)):
            value = getattr(config, name, None)
            if value is not None:
                return value
        return usual

    def _side(self, word: str) -> int:
        size = self._look("image_size", None)
        if size is None:
            size = _SIZES.get(self.task, _USUAL_SIZE)
            self._note(note("batches.no_image_size", size=size))
        else:
            self._note(note("batches.image_size"))
        if isinstance(size, dict):
            size = (size["height"], size["width"])
        return int(size[word == "width"]) if isinstance(size, (list, tuple)) else int(size)

    # -- sound ------------------------------------------------------------------------------

    def _audio(self, name: str) -> tuple[int, ...]:
        """All but the rows of the model's main input."""
        config, length = self.config, self._known["length"]
        strides = getattr(config, "conv_stride", None)
        if name == "input_values" and strides is not None:
            samples = length
            for kernel, stride in reversed(list(zip(config.conv_kernel, strides, strict=True))):
                samples = (samples - 1) * stride + kernel
            self._note(note("batches.frames_of_samples", samples=math.prod(strides)))
            return (samples,)
        if name == "input_values" and hasattr(config, "num_mel_bins"):
            self._note(note("batches.spectrogram"))
            return (int(config.max_length), int(config.num_mel_bins))
        if name == "input_features":
            return self._features()
        raise SimulationError("batches.sound", model_type=config.model_type)

    def _features(self) -> tuple[int, ...]:
        config, length = self.config, self._known["length"]
        if config.model_type == "whisper":
            frames = 2 * int(config.max_source_positions)
            self._note(note("batches.window", frames=frames))
            return (int(config.num_mel_bins), frames)
        if hasattr(config, "feature_projection_input_dim"):
            self._note(note("batches.frames"))
            return (length, int(config.feature_projection_input_dim))
        if hasattr(config, "input_feat_per_channel"):
            layers = int(config.num_conv_layers)
            self._note(note("batches.frames_a_token", frames=2**layers))
            return (length * 2**layers, int(config.input_feat_per_channel))
        raise SimulationError("batches.sound", model_type=config.model_type)
