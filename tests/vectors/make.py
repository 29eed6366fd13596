"""Makes the reference vectors in this folder. Run by hand, outside the build:

    python3 -m venv /somewhere/else
    /somewhere/else/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 \
        tokenizers==0.23.3 gguf==0.19.0 sentencepiece==0.2.3 numpy==2.4.6
    /somewhere/else/bin/python tests/vectors/make.py

Small random checkpoints, one per member of the family and option, and what Hugging Face
transformers computes from them in float32. README.md beside this file describes the format.
The same versions on the same kind of machine make the same bytes.
"""

import json
import shutil
import tempfile
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
VOCAB = 384
POSITIONS = 48
PROMPTS, PROMPT_TOKENS, GREEDY_TOKENS = 4, 12, 20
# A greedy choice nearer than this could flip on another machine's rounding.
LEAST_MARGIN = 0.02

COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)

# Name: (config, dtype of the weights, GGUF twins).
MODELS = {
    "llama-gqa": (
        transformers.LlamaConfig(**COMMON, rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
        torch.bfloat16,
        ["f16", "q8_0", "q4_0"],
    ),
    "llama-rope-llama3": (
        transformers.LlamaConfig(**COMMON, rope_parameters=LLAMA3_ROPE),
        torch.bfloat16,
        ["bf16"],
    ),
    "llama-rope-linear": (
        transformers.LlamaConfig(
            **{**COMMON, "num_hidden_layers": 2},
            rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0),
        ),
        torch.float16,
        ["f16"],
    ),
    "llama-tied": (
        transformers.LlamaConfig(
            **{**COMMON, "tie_word_embeddings": True, "num_key_value_heads": 4, "num_hidden_layers": 2},
            rope_parameters=dict(rope_type="default", rope_theta=10000.0),
        ),
        torch.float32,
        [],
    ),
    "mistral-window": (
        transformers.MistralConfig(
            **COMMON, sliding_window=8, rope_parameters=dict(rope_type="default", rope_theta=10000.0)
        ),
        torch.bfloat16,
        [],
    ),
    "qwen2-bias": (
        transformers.Qwen2Config(
            **COMMON,
            use_sliding_window=False,
            sliding_window=8,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
        ),
        torch.bfloat16,
        ["q8_0"],
    ),
    "qwen3-qk-norm": (
        transformers.Qwen3Config(
            **{**COMMON, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1},
            head_dim=32,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
        ),
        torch.bfloat16,
        ["q8_0", "q4_0"],
    ),
}

TEXT = """The books close to zero. Every nanosecond that a device offers is credited once and
debited once: to value, to one of the seven wastes, or to what nobody can explain yet. A queue is
a waste; so is a warm machine with nothing to do. He said: "don't ship 1234 tokens when 12 will do",
and they didn't. Où va le temps? Grüße aus Köln. 時間はどこへ行くのか。 1, 22, 333, 4444 and 55555.
    indented = value + 1  # a comment
"""


def randomize(model, seed):
    """Weights that make every option matter: wide norms, large biases, matrices that keep size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 2:
                weight.copy_(noise / weight.shape[1] ** 0.5 * (3.0 if "embed" in name else 1.0))
            elif name.endswith("bias"):
                weight.copy_(noise * 0.5)
            else:
                weight.copy_(1.0 + noise.clamp(-2, 2) * 0.25)


def greedy(model, prompt):
    """The likeliest tokens after `prompt`, and by how much each won."""
    tokens, margins = list(prompt), []
    for _ in range(GREEDY_TOKENS):
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        best = torch.topk(logits, 2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return tokens[len(prompt):], margins


def vectors(model, seed):
    """Logits of every position of one sequence, and greedy continuations of several prompts."""
    generator = torch.Generator().manual_seed(seed + 1)
    tokens = torch.randint(3, VOCAB, (POSITIONS,), generator=generator)
    logits = model(tokens[None], use_cache=False).logits[0]
    prompts, continuations, margins = [], [], []
    while len(prompts) < PROMPTS:
        prompt = torch.randint(3, VOCAB, (PROMPT_TOKENS,), generator=generator)
        continuation, margin = greedy(model, prompt.tolist())
        if min(margin) < LEAST_MARGIN:
            continue
        prompts.append(prompt)
        continuations.append(torch.tensor(continuation))
        margins.append(torch.tensor(margin))
    return {
        "tokens": tokens.to(torch.int32),
        "logits": logits.to(torch.float32).contiguous(),
        "greedy_prompts": torch.stack(prompts).to(torch.int32),
        "greedy_tokens": torch.stack(continuations).to(torch.int32),
        "greedy_margins": torch.stack(margins).to(torch.float32),
    }


def permute(weight, heads):
    """Rotary neighbours together, as llama.cpp wants the rows of arch `llama`."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


GGUF_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def gguf_name(name):
    ends = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    ends["lm_head.weight"] = "output.weight"
    if name in ends:
        return ends[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest]}"


def llama3_factors(config):
    """`rope_freqs.weight` as convert_hf_to_gguf.py computes it."""
    rope = config.rope_parameters
    head_dim = config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context, factors = rope["original_max_position_embeddings"], []
    for frequency in frequencies:
        wavelength = 2 * torch.pi / frequency
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(rope["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1.0 / ((1.0 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def write_gguf(path, model, config, precision, vocabulary):
    arch = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}[config.model_type]
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(path.stem)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if arch == "qwen3":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if vocabulary:
        vocabulary(writer)
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    kind = gguf.GGMLQuantizationType[precision.upper()]
    for name, weight in model.state_dict().items():
        values = weight.to(torch.float32).numpy()
        if arch == "llama" and name.endswith("q_proj.weight"):
            values = permute(values, config.num_attention_heads)
        if arch == "llama" and name.endswith("k_proj.weight"):
            values = permute(values, config.num_key_value_heads)
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level_tokenizer():
    """A byte-level BPE as Llama 3 has it, trained on TEXT."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True) for text in ["<unk>", "<|begin|>", "<|end|>", "<|turn|>"]]
    tokenizer.train_from_iterator([TEXT] * 2, trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    ))
    assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
    return tokenizer


def byte_level_vocabulary(tokenizer):
    """The same tokenizer as GGUF metadata."""
    content = json.loads(tokenizer.to_str())
    special = {added["content"] for added in content["added_tokens"]}
    tokens = [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]

    def write(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in special else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    return write


def sentencepiece_model():
    """A BPE with byte fallback as Llama 2 has it, trained on TEXT."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(TEXT * 4)
        prefix = str(Path(folder) / "spm")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=prefix, vocab_size=VOCAB, model_type="bpe",
            byte_fallback=True, character_coverage=0.98, split_digits=True, add_dummy_prefix=True,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
            normalization_rule_name="identity", num_threads=1, minloglevel=2,
        )
        return sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")


def sentencepiece_vocabulary(processor):
    """Pieces, scores and kinds as GGUF metadata."""
    def kind(token):
        if processor.is_unknown(token):
            return 2
        if processor.is_control(token):
            return 3
        return 6 if processor.is_byte(token) else 1

    def write(writer):
        ids = range(processor.get_piece_size())
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([processor.id_to_piece(token) for token in ids])
        writer.add_token_scores([processor.get_score(token) for token in ids])
        writer.add_token_types([kind(token) for token in ids])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(True)

    return write


CASES = [
    "",
    "The books close to zero.",
    "Every nanosecond  twice\n\n  and don't",
    " leading and trailing ",
    "Où va le temps? Grüße 時間 🙂",
    "1234567 tokens",
    "tabs\tand\r\nlines\n",
    "DON'T they'Ll",
]


def write_model(name, config, dtype, twins, byte_level, pieces):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config._attn_implementation = "eager"
    seed = 1000 + list(MODELS).index(name)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomize(model, seed)
    with torch.no_grad():
        # The weights are exact in the stored type; the mathematics runs in float32. Not
        # `model.to(dtype)`: that would round the rotary frequencies too.
        for weight in model.parameters():
            weight.copy_(weight.to(dtype))
        expected = vectors(model, seed)
    stored = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        del stored["lm_head.weight"]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config.dtype = dtype
    config.architectures = [type(model).__name__]
    config.to_json_file(folder / "config.json", use_diff=False)
    # One entry only: the order of several differs from run to run.
    made_by = f"torch {torch.__version__} transformers {transformers.__version__} seed {seed}"
    save_file(expected, folder / "vectors.safetensors", metadata={"made_by": made_by})
    for precision in twins:
        vocabulary = None
        if (name, precision) == ("llama-gqa", "f16"):
            vocabulary = byte_level_vocabulary(byte_level)
        if (name, precision) == ("llama-gqa", "q8_0"):
            vocabulary = sentencepiece_vocabulary(pieces)
        write_gguf(folder / f"{name}-{precision}.gguf", model, config, precision, vocabulary)


def write_seeds():
    """The smallest models there are, as first inputs of the fuzz targets."""
    folder = HERE.parent.parent / "fuzz" / "seeds"
    config = transformers.LlamaConfig(**{
        **COMMON, "vocab_size": 4, "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": LLAMA3_ROPE,
    })
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomize(model, 0)

    def pieces(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<unk>", "a", "b", "ab"])
        writer.add_token_scores([0.0, 0.0, 0.0, -1.0])
        writer.add_token_types([2, 1, 1, 1])

    def byte_level(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(["a", "b", "ab", "<end>"])
        writer.add_token_types([1, 1, 1, 3])
        writer.add_token_merges(["a b"])

    for target in ["gguf", "safetensors_model"]:
        (folder / target).mkdir(parents=True, exist_ok=True)
    write_gguf(folder / "gguf" / "pieces.gguf", model, config, "f32", pieces)
    write_gguf(folder / "gguf" / "byte_level.gguf", model, config, "f16", byte_level)
    fields = [
        "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "rope_parameters",
    ]
    text = json.dumps({field: getattr(config, field) for field in fields})
    stored = {key: value.to(torch.bfloat16) for key, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.safetensors"
        save_file(stored, file)
        seed = text.encode() + b"\0" + file.read_bytes()
    (folder / "safetensors_model" / "llama").write_bytes(seed)


def main():
    torch.set_num_threads(1)
    byte_level, pieces = byte_level_tokenizer(), sentencepiece_model()
    for name, (config, dtype, twins) in MODELS.items():
        write_model(name, config, dtype, twins, byte_level, pieces)
        print(name, sum(file.stat().st_size for file in (HERE / name).iterdir()))
    folder = HERE / "llama-gqa"
    byte_level.save(str(folder / "tokenizer.json"))
    generation = {"bos_token_id": 1, "eos_token_id": [2, 3]}
    (folder / "generation_config.json").write_text(json.dumps(generation) + "\n")
    cases = [
        {
            "text": text,
            "byte_level": byte_level.encode(text, add_special_tokens=False).ids,
            "sentencepiece": pieces.encode(text),
        }
        for text in CASES
    ]
    text = json.dumps(cases, ensure_ascii=False, indent=1)
    (HERE / "tokenizer_cases.json").write_text(text + "\n")
    write_seeds()
    for file in HERE.rglob("*.safetensors"):
        file.chmod(0o644)


if __name__ == "__main__":
    main()
