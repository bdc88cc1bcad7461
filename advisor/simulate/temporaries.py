"""Memory that CUDA kernels take for themselves and that therefore never shows up as a tensor.

Each function maps integers to the sizes (bytes) of what one call allocates and frees before it
returns. They are plain arithmetic, so that a stored profile can evaluate them for any batch and
length without torch. A size of 0 means "not allocated in this regime": the list's length never
depends on the numbers, only its values do.
"""

from collections.abc import Callable

from advisor.units import MIB


def softmax_backward(numel: int, itemsize: int) -> list[int]:
    """`tmp = grad * output` of host_softmax_backward (ATen/native/cuda/SoftMax.cu).

    Measured: eager T4 rows of SmolLM2-360M at 4,096 tokens need it.
    """
    return [numel * itemsize]


def flash_attention_backward(
    batch: int, heads: int, kv_heads: int, length: int, kv_length: int, head_dim: int, itemsize: int
) -> list[int]:
    """softmax_d, dq_accum (float32) and, with grouped K/V heads, dK/dV over all query heads.

    In flash_api.cpp, mha_bwd.

    Read in source, no measured row has its peak here.
    """
    rounded, wide = _up(length, 128), _up(head_dim, 32 if head_dim <= 128 else 64)
    expanded = batch * kv_length * heads * head_dim * itemsize if kv_heads != heads else 0
    return [batch * heads * rounded * 4, batch * rounded * heads * wide * 4, expanded, expanded]


def efficient_attention_backward(
    batch: int, heads: int, length: int, kv_length: int, head_dim: int, itemsize: int, sm80: int
) -> list[int]:
    """Delta and the float32 accumulators of the memory-efficient backward (attention_backward.cu).

    Read in source, no measured row has its peak here.
    """
    delta = batch * heads * length * 4
    if itemsize == 4:
        return [delta, 0]
    accumulator = batch * heads * _up(length, 64) * _up(head_dim, 64) * 4
    if head_dim > (128 if sm80 else 64):  # dK and dV no longer stay in registers
        accumulator += 2 * batch * heads * _up(kv_length, 64) * _up(head_dim, 64) * 4
    return [delta, accumulator]


def efficient_attention_logsumexp(rows: int, length: int) -> list[int]:
    """What the forward keeps for its backward: float32, lengths in blocks of 32.

    kAlignLSE of cuda/attention.cu and PyTorch's own shape function. Read in source.
    """
    return [rows * _up(length, 32) * 4]


def embedding_backward(indices: int, rows: int, width: int) -> list[int]:
    """Sort buffers and segment gradients of embedding_dense_backward_cuda.

    In ATen/native/cuda/Embedding.cu.

    Up to 3,072 indices a kernel without temporaries runs. Read in source.
    """
    if indices <= 3072:
        return [0] * 6
    segments = min(indices, rows) + indices // 10
    return [
        indices * 8,
        indices * 8,
        indices * 16 + 2 * MIB,
        segments * 8,
        segments * 8,
        segments * _up(width, 32) * 4,
    ]


def layer_norm_backward(rows: int, width: int) -> list[int]:
    """Block partials of the weight and bias gradients, float32 (layer_norm_kernel.cu).

    Read in source.
    """
    return [min(rows, 64) * width * 4] * 2


def foreach_norm(tensors: int, largest: int) -> list[int]:
    """Per-chunk partial sums of _foreach_norm (ForeachReduceOp.cu): 65,536 elements a chunk.

    Read in source.
    """
    return [tensors * ((largest + 65535) // 65536) * 4, tensors * 512]


def index_put_accumulate(indices: int) -> list[int]:
    """Linear index, sorted and original indices, sort scratch (Indexing.cu). Read in source."""
    return [indices * 8] * 3 + [indices * 16 + MIB]


def ctc_loss_backward(alpha_bytes: int, batch: int) -> list[int]:
    """log_beta, as large as the log_alpha that was kept, and where each row's targets start.

    In LossCTC.cu, ctc_loss_backward_gpu_template. Read in source.
    """
    return [batch * 8, alpha_bytes]


def warm_up(elements: int, bits: int, others: int) -> list[int]:
    """The block that caching_allocator_warmup takes before a quantised model is loaded.

    Read in source, transformers 5.23, modeling_utils.py: `bits` for each quantised weight, `others`
    bytes for what stays as it is, in whole float16 elements.
    """
    return [int((elements * bits / 8 + others) // 2) * 2]


def liger_chunk(
    tokens: int, vocabulary: int, hidden: int, number: int, row_bytes: int
) -> list[int]:
    """Rows, `row_bytes` each, of pass `number` of Liger's fused linear cross entropy.

    The power of two tokens whose logits take about what the hidden states of all tokens do; the
    last pass has what is left. Read in source, liger-kernel 0.8.5,
    ops/fused_linear_cross_entropy.py.
    """
    wanted = -(-tokens // -(-vocabulary // hidden))
    rows = min(1 << (wanted - 1).bit_length(), tokens)
    return [max(min(rows, tokens - number * rows), 0) * row_bytes]


RULES: dict[str, Callable[..., list[int]]] = {
    f.__name__: f
    for f in (
        softmax_backward,
        flash_attention_backward,
        efficient_attention_backward,
        efficient_attention_logsumexp,
        embedding_backward,
        layer_norm_backward,
        foreach_norm,
        index_put_accumulate,
        ctc_loss_backward,
        warm_up,
        liger_chunk,
    )
}


def cublas_workspace_bytes(compute_capability: tuple[int, int]) -> int:
    """Workspace a cuBLAS handle keeps per stream.

    In ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize.

    32 MiB on compute capability 9.0 (read in source), else :4096:2:16:8, 8.125 MiB (measured on
    every T4 row).
    """
    return 32 * MIB if compute_capability == (9, 0) else 4096 * 1024 * 2 + 16 * 1024 * 8


def _up(value: int, multiple: int) -> int:
    return (value + multiple - 1) // multiple * multiple
