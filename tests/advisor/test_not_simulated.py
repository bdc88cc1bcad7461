"""Every argument of the class is in the plan, named as predicted without, or without effect."""

import pytest

from advisor import training_arguments
from advisor.arguments import shared_fields
from advisor.not_simulated import CHANGES, assumptions, is_outside
from advisor.rules.advice import set_by_user

IN_THE_PLAN = {*shared_fields(), "activation_checkpointing_kwargs"}
OLD_NAMES = {"gradient_checkpointing", "gradient_checkpointing_kwargs"}
WITHOUT_EFFECT = """
    lr_scheduler_kwargs average_tokens_across_devices data_seed ignore_data_skip
    bf16_full_eval fp16_full_eval
    logging_strategy logging_first_step log_on_each_node logging_nan_inf_filter log_level
    log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
    trackio_static_space_id include_num_input_tokens_seen
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    output_dir save_only_model save_on_each_node enable_jit_checkpoint load_best_model_at_end
    metric_for_best_model greater_is_better restore_callback_states_from_checkpoint
    eval_do_concat_batches eval_use_gather_object dataloader_multiprocessing_context
    dataloader_in_order remove_unused_columns label_names length_column_name
    ddp_backend ddp_timeout local_rank do_train do_eval do_predict
    parallelism_config
"""
"""Same operators on the same shapes. Of the evaluation's casts: only one outside of training makes
them (Trainer.evaluation_loop). No file can hold a parallelism_config."""


def test_every_argument_is_in_one_class():
    classes = [IN_THE_PLAN, OLD_NAMES, set(WITHOUT_EFFECT.split()), set(CHANGES)]
    known = set(training_arguments.fields())
    assert set().union(*classes) == known
    assert sum(map(len, classes)) == len(known)  # none in two


VALUES = {
    "torch_compile": True,
    "torch_compile_backend": "inductor",
    "torch_compile_mode": "default",
    "ddp_static_graph": True,
    "deepspeed": "zero.json",
    "auto_find_batch_size": True,
    "accelerator_config": {"split_batches": True},
    "label_smoothing_factor": 0.1,
    "neftune_noise_alpha": 5.0,
    "torch_empty_cache_steps": 4,
    "full_determinism": True,
    "use_cache": True,
    "prediction_loss_only": False,
    "eval_accumulation_steps": 1,
    "include_for_metrics": ["inputs"],
    "batch_eval_metrics": True,
    "resume_from_checkpoint": "last",
    "dataloader_drop_last": True,
    "debug": "underflow_overflow",
    "ddp_broadcast_buffers": True,
    "eval_delay": 10,
    "eval_on_start": True,
    "skip_memory_metrics": False,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_value_that_changes_a_figure_is_named_and_its_default_is_not(name):
    said = f"{name} is not simulated: predicted as without it."
    for figure in ("memory", "time"):
        expected = (said,) if figure in CHANGES[name] else ()
        assert assumptions({name: VALUES[name], "learning_rate": 1e-5}, figure) == expected
    assert set_by_user(name, VALUES[name]).reason.id == "why.unseen"
    default = training_arguments.fields()[name].default
    unseen = name == "prediction_loss_only"  # its default is what costs
    assert is_outside(name, default) is unseen
    assert is_outside("hub_model_id", "me/mine") is False
