"""Tiny configs of many model types, for test_architectures.py: {name: (task, config)}."""

from typing import Any

Config = dict[str, Any]

_DECODER: Config = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
}
_ENCODER: Config = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 514,
}
_VISION: Config = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
_BART: Config = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
}
_T5: Config = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "vocab_size": 512,
    "decoder_start_token_id": 0,
}
_SOUND: Config = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": [32] * 7,
    "num_conv_pos_embedding_groups": 4,
    "num_conv_pos_embeddings": 16,
}
_EXPERTS: Config = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_CLIP: Config = {
    "text_config": {**_ENCODER, "max_position_embeddings": 64},
    "vision_config": dict(_VISION),
}


def _lm(*model_types: str, **more: Any) -> dict[str, tuple[str, Config]]:
    return {t: ("causal-lm", {"model_type": t, **_DECODER, **more}) for t in model_types}


def _case(task: str, model_type: str, *parts: Config, **more: Any) -> tuple[str, Config]:
    config: Config = {"model_type": model_type}
    for part in parts:
        config.update(part)
    return task, {**config, **more}


DECODERS = {
    **_lm("llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "granite", "olmo2", "cohere"),
    **_lm("gemma3_text", "starcoder2", "stablelm", "olmo"),
    "gemma2": _case("causal-lm", "gemma2", _DECODER, eager=True),
    "helium": _case("causal-lm", "helium", _DECODER, head_dim=16),
    "smollm3": _case("causal-lm", "smollm3", _DECODER, pad_token_id=0),
    "phi3": _case("causal-lm", "phi3", _DECODER, pad_token_id=0),
    "gpt_neox": _case("causal-lm", "gpt_neox", _DECODER),
    "gpt2": _case("causal-lm", "gpt2", n_embd=64, n_layer=2, n_head=4, vocab_size=512),
    "gpt_bigcode": _case(
        "causal-lm", "gpt_bigcode", n_embd=64, n_layer=2, n_head=4, vocab_size=512
    ),
    "gptj": _case(
        "causal-lm",
        "gptj",
        n_embd=64,
        n_layer=2,
        n_head=4,
        rotary_dim=8,
        vocab_size=512,
        eager=True,
    ),
    "gpt_neo": _case(
        "causal-lm",
        "gpt_neo",
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        vocab_size=512,
        eager=True,
    ),
    "opt": _case("causal-lm", "opt", _ENCODER, ffn_dim=128, word_embed_proj_dim=64),
    "bloom": _case(
        "causal-lm", "bloom", hidden_size=64, n_layer=2, n_head=4, vocab_size=512, eager=True
    ),
    "falcon": _case("causal-lm", "falcon", _DECODER, num_attention_heads=4),
    "mpt": _case("causal-lm", "mpt", d_model=64, n_layers=2, n_heads=4, vocab_size=512, eager=True),
    "gpt_oss": _case(
        "causal-lm", "gpt_oss", _DECODER, num_local_experts=8, head_dim=16, eager=True
    ),
    "lfm2": _case(
        "causal-lm", "lfm2", _DECODER, layer_types=["conv", "full_attention"], block_ff_dim=128
    ),
}
EXPERTS = {
    "mixtral": _case("causal-lm", "mixtral", _DECODER, num_local_experts=8),
    "qwen2_moe": _case("causal-lm", "qwen2_moe", _DECODER, _EXPERTS),
    "qwen3_moe": _case("causal-lm", "qwen3_moe", _DECODER, _EXPERTS),
    "olmoe": _case("causal-lm", "olmoe", _DECODER, _EXPERTS),
    "phimoe": _case("causal-lm", "phimoe", _DECODER, num_local_experts=8),
    "granitemoe": _case("causal-lm", "granitemoe", _DECODER, num_local_experts=8),
    "deepseek_v3": _case(
        "causal-lm",
        "deepseek_v3",
        _DECODER,
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=64,
        q_lora_rank=32,
        kv_lora_rank=32,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=16,
        first_k_dense_replace=1,
    ),
    "jetmoe": _case(
        "causal-lm",
        "jetmoe",
        _DECODER,
        num_local_experts=8,
        num_experts_per_tok=2,
        kv_channels=16,
    ),
    "dbrx": _case(
        "causal-lm",
        "dbrx",
        d_model=64,
        n_heads=4,
        n_layers=2,
        vocab_size=512,
        ffn_config={"ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": 2},
        attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
    ),
    "switch_transformers": _case(
        "translation",
        "switch_transformers",
        _T5,
        num_experts=8,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
}
ENCODERS = {
    "bert": _case("text-classification", "bert", _ENCODER),
    "bert-mlm": _case("masked-lm", "bert", _ENCODER),
    "roberta": _case("masked-lm", "roberta", _ENCODER),
    "distilbert": _case(
        "token-classification",
        "distilbert",
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=4,
        vocab_size=512,
    ),
    "electra": _case("question-answering", "electra", _ENCODER, embedding_size=32),
    "albert": _case("multiple-choice", "albert", _ENCODER, embedding_size=32),
    "deberta-v2": _case(
        "text-classification",
        "deberta-v2",
        _ENCODER,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        eager=True,
    ),
    "modernbert": _case("text-classification", "modernbert", _ENCODER, pad_token_id=0),
    "xlm-roberta": _case("token-classification", "xlm-roberta", _ENCODER),
    "mpnet": _case("masked-lm", "mpnet", _ENCODER),
    "camembert": _case("question-answering", "camembert", _ENCODER),
    "convbert": _case("text-classification", "convbert", _ENCODER, embedding_size=64),
    "fnet": _case("masked-lm", "fnet", _ENCODER),
    "layoutlm": _case("token-classification", "layoutlm", _ENCODER),
    "longformer": _case("text-classification", "longformer", _ENCODER, attention_window=[64, 64]),
    "esm": _case("masked-lm", "esm", _ENCODER, pad_token_id=1, mask_token_id=3, vocab_size=64),
    "xlnet": _case(
        "text-classification", "xlnet", d_model=64, n_layer=2, n_head=4, d_inner=128, vocab_size=512
    ),
}
SEQ_TO_SEQ = {
    "t5": _case("summarization", "t5", _T5),
    "mt5": _case("translation", "mt5", _T5),
    "bart": _case("summarization", "bart", _BART),
    "bart-cls": _case("text-classification", "bart", _BART),
    "mbart": _case("translation", "mbart", _BART),
    "marian": _case(
        "translation", "marian", _BART, pad_token_id=0, decoder_start_token_id=0, eos_token_id=1
    ),
    "pegasus": _case("summarization", "pegasus", _BART),
    "m2m_100": _case("translation", "m2m_100", _BART),
    "led": _case(
        "summarization",
        "led",
        _BART,
        attention_window=[64, 64],
        max_encoder_position_embeddings=1024,
    ),
    "prophetnet": _case(
        "summarization",
        "prophetnet",
        hidden_size=64,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        vocab_size=512,
    ),
}
VISION = {
    "vit": _case("image-classification", "vit", _VISION),
    "vit-mim": _case("masked-image-modeling", "vit", _VISION, encoder_stride=16),
    "deit": _case("image-classification", "deit", _VISION),
    "beit": _case("image-classification", "beit", _VISION),
    "dinov2": _case("image-classification", "dinov2", _VISION),
    "swin": _case(
        "image-classification", "swin", image_size=64, embed_dim=24, depths=[1, 1], num_heads=[2, 4]
    ),
    "swin-mim": _case(
        "masked-image-modeling",
        "swin",
        image_size=64,
        embed_dim=24,
        depths=[1, 1],
        num_heads=[2, 4],
        encoder_stride=8,
    ),
    "resnet": _case(
        "image-classification", "resnet", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]
    ),
    "convnext": _case(
        "image-classification", "convnext", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]
    ),
    "mobilenet_v2": _case("image-classification", "mobilenet_v2", image_size=64),
    "efficientnet": _case("image-classification", "efficientnet", image_size=64),
    "regnet": _case(
        "image-classification",
        "regnet",
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        groups_width=8,
    ),
    "segformer": _case(
        "semantic-segmentation",
        "segformer",
        hidden_sizes=[16, 32, 32, 64],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=32,
    ),
    "beit-seg": _case(
        "semantic-segmentation", "beit", _VISION, out_indices=[0, 1, 2, 3], num_hidden_layers=4
    ),
    "mobilevit": _case("semantic-segmentation", "mobilevit", image_size=64),
    "levit": _case("image-classification", "levit", image_size=64),
}
SOUND = {
    "wav2vec2-cls": _case("audio-classification", "wav2vec2", _SOUND),
    "wav2vec2-ctc": _case("automatic-speech-recognition", "wav2vec2", _SOUND),
    "wav2vec2-pre": _case("audio-pretraining", "wav2vec2", _SOUND),
    "hubert": _case("automatic-speech-recognition", "hubert", _SOUND),
    "wavlm": _case("audio-classification", "wavlm", _SOUND),
    "unispeech-sat": _case("audio-classification", "unispeech-sat", _SOUND),
    "sew": _case(
        "audio-classification",
        "sew",
        _SOUND,
        conv_dim=[32] * 13,
        squeeze_factor=2,
    ),
    "wav2vec2-bert": _case(
        "automatic-speech-recognition",
        "wav2vec2-bert",
        _SOUND,
        feature_projection_input_dim=160,
        vocab_size=32,
    ),
    "audio-spectrogram-transformer": _case(
        "audio-classification",
        "audio-spectrogram-transformer",
        _VISION,
        num_mel_bins=32,
        max_length=128,
    ),
    "whisper": _case(
        "automatic-speech-recognition",
        "whisper",
        _BART,
        max_target_positions=448,
        max_source_positions=100,
        num_mel_bins=16,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=1,
        decoder_start_token_id=1,
    ),
    "whisper-cls": _case(
        "audio-classification",
        "whisper",
        _BART,
        max_source_positions=100,
        num_mel_bins=16,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=1,
        decoder_start_token_id=1,
    ),
    "speech_to_text": _case(
        "automatic-speech-recognition",
        "speech_to_text",
        _BART,
        max_source_positions=6000,
        max_target_positions=1024,
        conv_channels=32,
    ),
}
MULTIMODAL = {
    "clip": _case("image-classification", "clip", _CLIP),
    "siglip": _case("image-classification", "siglip", _CLIP),
    "gemma3": _case(
        "causal-lm",
        "gemma3",
        text_config={"model_type": "gemma3_text", **_DECODER},
        vision_config=dict(_VISION),
        mm_tokens_per_image=4,
    ),
    "mllama": _case(
        "causal-lm",
        "mllama",
        text_config={**_DECODER, "cross_attention_layers": [1], "pad_token_id": 0},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 192,
        },
    ),
    "fuyu": _case(
        "causal-lm", "fuyu", _DECODER, text_config={"model_type": "persimmon", **_DECODER}
    ),
}
STATE_SPACE = {
    "mamba2": _case(
        "causal-lm",
        "mamba2",
        hidden_size=64,
        num_hidden_layers=2,
        vocab_size=512,
        num_heads=8,
        head_dim=16,
        state_size=16,
        n_groups=1,
        chunk_size=64,
        eager=True,
    ),
}
KINDS = {
    "decoder": DECODERS,
    "experts": EXPERTS,
    "encoder": ENCODERS,
    "encoder-decoder": SEQ_TO_SEQ,
    "vision": VISION,
    "sound": SOUND,
    "multimodal": MULTIMODAL,
    "state space": STATE_SPACE,
}
CASES = {name: case for kind in KINDS.values() for name, case in kind.items()}
UNANSWERED: dict[str, tuple[str, Config, str]] = {
    "git without images": (
        *_case("causal-lm", "git", _ENCODER, vision_config=dict(_VISION), eager=True),
        "Expected input batch_size",
    ),
    "bloom with sdpa": (
        *_case("causal-lm", "bloom", hidden_size=64, n_layer=2, n_head=4, vocab_size=512),
        "no sdpa attention",
    ),
    "longt5": (*_case("summarization", "longt5", _T5), "depends on the shape"),
    "nllb-moe": (
        *_case(
            "translation",
            "nllb-moe",
            _BART,
            num_experts=8,
            encoder_sparse_step=2,
            decoder_sparse_step=2,
            expert_capacity=64,
        ),
        "whole number that depends",
    ),
    "llama on images": (*_case("image-classification", "llama", _DECODER), "Unrecognized"),
    "unheard of": (*_case("causal-lm", "unheard_of"), "does not know the model type"),
    "moonshine": (
        *_case(
            "automatic-speech-recognition",
            "moonshine",
            _ENCODER,
            encoder_num_hidden_layers=2,
            decoder_num_hidden_layers=2,
        ),
        "takes sound is not known",
    ),
}
"""What cannot be traced, and words of the reason."""
