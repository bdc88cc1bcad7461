"""Two steps of the real transformers.Trainer on a CPU, recorded, against the imitated loop."""

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from advisor.plan import LoraSettings, TrainingPlan
from advisor.simulate.profile import structure_of
from advisor.simulate.step import record
from advisor.simulate.trace import Recorder
from advisor.task_losses import class_loss, class_of
from advisor.tasks import find_task

transformers = pytest.importorskip("transformers")
BATCH, LENGTH, DEPTH, STEPS = 3, 24, 2, 2
LLAMA = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "use_cache": False,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 128, "n_embd": 32, "n_layer": DEPTH, "n_head": 4}
PLAIN = {"use_cpu": True, "per_device_train_batch_size": BATCH, "max_length": LENGTH}
WAYS = {
    "plain": {},
    "foreach": {"optim": "adamw_torch"},
    "accumulation": {"gradient_accumulation_steps": 2},
    "no-clipping": {"max_grad_norm": 0.0},
    "autocast": {"bf16": True},
    "lora": {"method": "lora", "lora": LoraSettings(r=4)},
    "checkpointing": {"activation_checkpointing": True},
    "lora-checkpointing-autocast": {
        "method": "lora",
        "lora": LoraSettings(r=4),
        "activation_checkpointing": True,
        "bf16": True,
        "dtype": "bfloat16",
    },
    "loss-scaler": {"fp16": True},
    "loss-scaler-foreach-lora": {
        "fp16": True,
        "optim": "adamw_torch",
        "method": "lora",
        "lora": LoraSettings(r=4),
    },
}


CLASSIFIERS = {
    "bert": {
        "model_type": "bert",
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 4,
        "id2label": {0: "a", 1: "b", 2: "c"},
    },
    "llama": LLAMA | {"id2label": {0: "a", 1: "b", 2: "c"}, "pad_token_id": 0},
}
"""Three classes."""


def collate_classes(rows):
    """A padded batch, as DataCollatorWithPadding makes it of rows with types."""
    ids = torch.tensor([row["input_ids"] for row in rows])
    mask = torch.ones_like(ids)
    mask[:, -1:].zero_()
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask}
    return {**batch, "labels": torch.ones(len(rows), dtype=torch.int64)}


def collate_without_types(rows):
    batch = collate_classes(rows)
    del batch["token_type_ids"]
    return batch


def collate(rows):
    ids = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


class RecordedTrainer(transformers.Trainer):
    """Says which phase it is in; what it does is Trainer's."""

    recorder: Recorder

    def get_batch_samples(self, *args):
        self.recorder.phase = "forward"
        with _disable_current_modes():  # the loader and its random numbers stay on the CPU
            return super().get_batch_samples(*args)

    def _get_num_items_in_batch(self, batches, device):
        # Here the batches have come onto the device. On a CPU the loader holds one more.
        for batch in batches:
            for tensor in batch.values():
                self.recorder.track(tensor, "batch")
        with self.recorder:
            return super()._get_num_items_in_batch(batches, device)

    def training_step(self, *args, **kwargs):
        self.recorder.phase = "forward"
        return super().training_step(*args, **kwargs)

    def compute_loss(self, *args, **kwargs):
        found = super().compute_loss(*args, **kwargs)
        self.recorder.phase = "backward"
        return found

    def _get_grad_norm(self, *args, **kwargs):
        self.recorder.phase = "optimizer"
        return super()._get_grad_norm(*args, **kwargs)

    def _clip_grad_norm(self, model):
        self.recorder.phase = "optimizer"
        return super()._clip_grad_norm(model)


class Switch(transformers.TrainerCallback):
    """Switches the recorder on when all that was loaded is there, and off."""

    def __init__(self, trainer):
        self.trainer, self.recorder = trainer, trainer.recorder

    def on_train_begin(self, _args, _state, _control, model=None, **_others):
        for tensor in (*model.parameters(), *model.buffers()):
            self.recorder.track(tensor, "load")
        self.recorder.track(self.trainer._tr_loss, "load")
        self.recorder.mark("load")
        self.recorder.__enter__()

    def on_step_end(self, _args, state, _control, **_others):
        if state.global_step == STEPS:  # one before the last, after which the loop's frames end
            self.recorder.mark("end")
            self.recorder.close()
            self.recorder.__exit__(None, None, None)


def build(plan, config):
    from peft import LoraConfig, get_peft_model

    values = dict(config)
    hf = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    task = find_task(plan.task)
    model = getattr(transformers, task.auto_class).from_config(
        hf, dtype=getattr(torch, plan.dtype), attn_implementation=plan.attn_implementation
    )
    model.config.use_cache = False
    if plan.lora is not None:
        settings = LoraConfig(
            r=plan.lora.r, lora_alpha=plan.lora.lora_alpha, target_modules="all-linear",
            task_type=task.peft_type,
        )  # fmt: skip
        model = get_peft_model(model, settings)
        if plan.activation_checkpointing:
            model.enable_input_require_grads()
    return model


def arguments(plan, folder, **more):
    return transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=plan.per_device_train_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        max_grad_norm=plan.max_grad_norm,
        bf16=plan.bf16,
        optim=plan.optim,
        activation_checkpointing=plan.activation_checkpointing,
        max_steps=STEPS + 1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_nan_inf_filter=False,  # as trainer/train.py sets it
        **more,
    )


def rows(number):
    return [{"input_ids": [i % 7] * LENGTH} for i in range(number)]


def scale_the_loss(accelerator):
    """What Accelerator.__init__ does for fp16 on a CUDA device and refuses on a CPU."""
    accelerator.state._mixed_precision = "fp16"
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)  # nothing overflows


def own(plan, config):
    """What `trainer/train.py` gives Trainer for the plan's task."""
    if not find_task(plan.task).has_labels:
        return {"data_collator": collate}
    types = config["model_type"] == "bert"
    return {
        "data_collator": collate_classes if types else collate_without_types,
        "compute_loss_func": class_loss,
        "compute_metrics": lambda _found: {},
        "preprocess_logits_for_metrics": lambda logits, _labels: class_of(logits),
    }


def real_steps(plan, config, folder):
    recorder = Recorder(None)
    recorder.assume = False
    trainer = RecordedTrainer(
        model=build(plan, config),
        args=arguments(plan, folder),
        train_dataset=rows(8 * BATCH),
        **own(plan, config),
    )
    trainer.recorder = recorder
    if plan.fp16:
        scale_the_loss(trainer.accelerator)
    trainer.add_callback(Switch(trainer))
    trainer.train()
    return recorder.trace


def imitated_steps(plan, config):
    return record(structure_of(plan, config, None), depth=DEPTH, batch=BATCH, length=LENGTH)


class Batches(list):
    """A loader of two batches, fetched outside of the recording, none kept."""

    dataset = rows(2 * BATCH)
    batch_size = BATCH

    def __init__(self, recorder, collator):
        super().__init__()
        self.recorder, self.collator = recorder, collator

    def __iter__(self):
        for _ in range(2):
            batch = None
            with _disable_current_modes():
                batch = self.collator(rows(BATCH))
            for tensor in batch.values():  # here they come onto the device
                self.recorder.track(tensor, "batch")
            yield batch

    def __len__(self):
        return 2


class RecordedEvaluation(transformers.Trainer):
    recorder: Recorder

    def get_eval_dataloader(self, *_args):
        return Batches(self.recorder, self.data_collator)


class StopAfterTheSecondBatch(transformers.TrainerCallback):
    def __init__(self, recorder):
        self.recorder, self.seen = recorder, 0

    def on_prediction_step(self, *_args, **_others):
        self.seen += 1
        if self.seen == 2:
            self.recorder.mark("end")
            self.recorder.close()


def real_evaluation(plan, folder, config=LLAMA):
    recorder = Recorder(None)
    recorder.assume, recorder.phase = False, "forward"
    trainer = RecordedEvaluation(
        model=build(plan, config),
        args=arguments(plan, folder, per_device_eval_batch_size=BATCH),
        eval_dataset=Batches.dataset,
        callbacks=[StopAfterTheSecondBatch(recorder)],
        **own(plan, config),
    )
    trainer.recorder = recorder
    for tensor in (*trainer.model.parameters(), *trainer.model.buffers()):
        recorder.track(tensor, "load")
    recorder.mark("load")
    with recorder:
        trainer.evaluate()
    return recorder.trace


@pytest.mark.parametrize("way", ["plain", "autocast", "lora", "lora-checkpointing-autocast"])
def test_the_evaluation_is_the_real_trainers(way, tmp_path, differ):
    plan = plan_of(way)
    structure = structure_of(plan, LLAMA, None).evaluation(BATCH)
    found = record(structure, depth=DEPTH, batch=BATCH, length=LENGTH)
    assert differ(found, real_evaluation(plan, tmp_path), marks=False) is None


def plan_of(way):
    values = PLAIN | WAYS[way]
    if values.get("fp16"):  # a plan refuses it on a CPU; the structure is still that of a CPU
        del values["use_cpu"]
    return TrainingPlan(**values)


@pytest.mark.parametrize("way", WAYS)
def test_the_loop_is_the_real_trainers(way, tmp_path, differ):
    plan = plan_of(way)
    found, expected = imitated_steps(plan, LLAMA), real_steps(plan, LLAMA, tmp_path)
    assert len(expected.events) > 1000
    assert differ(found, expected, marks=False) is None


def test_a_model_whose_loss_type_is_unknown_counts_all_labels(tmp_path, differ):
    plan = plan_of("accumulation")
    found, expected = imitated_steps(plan, GPT2), real_steps(plan, GPT2, tmp_path)
    assert differ(found, expected, marks=False) is None


FULL = [pytest.param(w, marks=pytest.mark.full) for w in ("plain", "autocast", "checkpointing")]


@pytest.mark.parametrize("way", ["accumulation", "lora", *FULL])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_loop_is_the_real_trainers(name, way, tmp_path, differ):
    config = CLASSIFIERS[name]
    plan = plan_of(way).replace(task="text-classification", attention_mask=True)
    structure = structure_of(plan, config, None)
    assert structure.padded
    found = record(structure, depth=DEPTH, batch=BATCH, length=LENGTH)
    expected = real_steps(plan, config, tmp_path)
    assert len(expected.events) > 500
    assert differ(found, expected, marks=False) is None


@pytest.mark.parametrize("way", ["plain", "lora"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_evaluation_is_the_real_trainers(name, way, tmp_path, differ):
    config = CLASSIFIERS[name]
    plan = plan_of(way).replace(task="text-classification", attention_mask=True)
    structure = structure_of(plan, config, None).evaluation(BATCH)
    found = record(structure, depth=DEPTH, batch=BATCH, length=LENGTH)
    assert differ(found, real_evaluation(plan, tmp_path, config), marks=False) is None
