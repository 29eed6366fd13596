"""Writes models of random weights with the dimensions of TinyLlama-1.1B as GGUF files."""

from pathlib import Path

import gguf
import numpy as np

LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, VOCAB, CONTEXT = 22, 2048, 5632, 32, 4, 32000, 2048
KV = HIDDEN // HEADS * KV_HEADS
PRECISIONS = {
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
BLOCK_BYTES = {"bf16": 64, "q8_0": 34, "q4_0": 18}


def layer_matrices(layer):
    """Names and dimensions, rows first, of the matrices of a layer."""
    return [
        (f"blk.{layer}.attn_q.weight", HIDDEN, HIDDEN),
        (f"blk.{layer}.attn_k.weight", KV, HIDDEN),
        (f"blk.{layer}.attn_v.weight", KV, HIDDEN),
        (f"blk.{layer}.attn_output.weight", HIDDEN, HIDDEN),
        (f"blk.{layer}.ffn_gate.weight", FFN, HIDDEN),
        (f"blk.{layer}.ffn_up.weight", FFN, HIDDEN),
        (f"blk.{layer}.ffn_down.weight", HIDDEN, FFN),
    ]


def matrices():
    """All matrices that a decoded token is multiplied with."""
    layers = [matrix for layer in range(LAYERS) for matrix in layer_matrices(layer)]
    return [*layers, ("output.weight", VOCAB, HIDDEN)]


def weight_bytes(precision):
    """Bytes of the matrices that a decode step reads."""
    return sum(rows * columns for _, rows, columns in matrices()) // 32 * BLOCK_BYTES[precision]


def parameters():
    """Weights of the matrices that a token is multiplied with."""
    return sum(rows * columns for _, rows, columns in matrices())


def random_rows(random, precision, rows, columns):
    """Rows in their stored form, with a standard deviation of about 0.02."""
    if precision == "bf16":
        values = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    blocks = rows * columns // 32
    scale = np.float16(0.02 / (127 / 3**0.5) if precision == "q8_0" else 0.02 / 4.61)
    stored = np.empty((blocks, BLOCK_BYTES[precision]), dtype=np.uint8)
    stored[:, :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
    stored[:, 2:] = random.integers(0, 256, (blocks, BLOCK_BYTES[precision] - 2), dtype=np.uint8)
    if precision == "q8_0":
        # No quantizer writes -128.
        stored[:, 2:][stored[:, 2:] == 128] = 127
    return stored.reshape(rows, -1)


def vocabulary(writer):
    """A vocabulary of made-up pieces: llama.cpp opens no model without one."""
    special = [("<unk>", gguf.TokenType.UNKNOWN)]
    special += [("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    bytes_ = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    pieces = [(f"▁w{index}", gguf.TokenType.NORMAL) for index in range(VOCAB - 259)]
    tokens = special + bytes_ + pieces
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def write(path, precision):
    """Writes a model unless it is there."""
    path = Path(path)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama", use_temp_file=False)
    writer.add_name("random-1.1b")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    vocabulary(writer)
    random = np.random.default_rng(1)
    for name, rows, columns in [("token_embd.weight", VOCAB, HIDDEN), *matrices()]:
        stored = random_rows(random, precision, rows, columns)
        writer.add_tensor(name, stored, raw_dtype=PRECISIONS[precision])
    layers = [f"blk.{layer}." for layer in range(LAYERS)]
    norms = [layer + norm for layer in layers for norm in ("attn_norm.weight", "ffn_norm.weight")]
    for name in [*norms, "output_norm.weight"]:
        writer.add_tensor(name, np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)
