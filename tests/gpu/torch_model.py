"""A Llama of random weights in PyTorch, timed as `gemba bench` times its own: prefill of whole
prompts, then decode, greedily.

  torch_model.py eager|compiled SHAPE DEVICE BATCH,… PROMPT GEN CHUNK REPEATS

eager: contexts grow, attention by scaled_dot_product_attention over what there is. compiled: a
static cache, torch.compile in mode reduce-overhead, which captures CUDA graphs. Sampled tokens stay
on the device in both. One JSON object a line.
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

# Layers, hidden, ffn, heads, KV heads, head size, vocabulary, base of rotation.
SHAPES = {
    "shape:llama-3-8b": (32, 4096, 14336, 32, 8, 128, 128256, 500000.0),
    "shape:llama-3.2-1b": (16, 2048, 8192, 32, 8, 64, 128256, 500000.0),
    "shape:stories15m": (6, 288, 768, 6, 6, 48, 32000, 10000.0),
}
EPSILON = 1e-5


def matrix(rows: int, columns: int, dtype, device) -> torch.nn.Parameter:
    random = torch.randn(rows, columns, dtype=dtype, device=device) / columns**0.5
    return torch.nn.Parameter(random, requires_grad=False)


def ones(width: int, dtype, device) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(width, dtype=dtype, device=device), requires_grad=False)


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates halves of heads against each other."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def grouped(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask=None) -> torch.Tensor:
    """Attention of one token's heads: those that share keys are taken as rows of one head, so that
    nothing is copied for them and every backend of PyTorch may serve."""
    batch, heads, _, size = q.shape
    rows = q.reshape(batch, keys.shape[1], heads // keys.shape[1], size)
    mixed = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
    return mixed.reshape(batch, heads, 1, size)


class Layer(torch.nn.Module):
    def __init__(self, shape, dtype, device):
        super().__init__()
        _, hidden, ffn, self.heads, self.kv_heads, self.size, _, _ = shape
        self.norm = ones(hidden, dtype, device)
        self.qkv = matrix((self.heads + 2 * self.kv_heads) * self.size, hidden, dtype, device)
        self.output = matrix(hidden, self.heads * self.size, dtype, device)
        self.ffn_norm = ones(hidden, dtype, device)
        self.gate_up = matrix(2 * ffn, hidden, dtype, device)
        self.down = matrix(hidden, ffn, dtype, device)

    def cached(self, batch: int, tokens: int) -> None:
        """Makes room for so many tokens of so many sequences."""
        room = torch.zeros(2, batch, self.kv_heads, tokens, self.size, dtype=self.qkv.dtype,
                           device=self.qkv.device)
        self.register_buffer("keys", room[0].clone(), persistent=False)
        self.register_buffer("values", room[1].clone(), persistent=False)

    def forward(self, x, cos, sin, attend):
        batch, rows, hidden = x.shape
        normed = F.rms_norm(x, (hidden,), self.norm, EPSILON)
        heads = F.linear(normed, self.qkv).view(batch, rows, -1, self.size).transpose(1, 2)
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        mixed = attend(self, turned(q, cos, sin), turned(k, cos, sin), v)
        x = x + F.linear(mixed.transpose(1, 2).reshape(batch, rows, -1), self.output)
        normed = F.rms_norm(x, (hidden,), self.ffn_norm, EPSILON)
        gate, up = F.linear(normed, self.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Llama(torch.nn.Module):
    def __init__(self, shape, dtype, device):
        super().__init__()
        layers, hidden, _, _, _, size, vocab, base = shape
        self.size, self.base = size, base
        self.embedding = matrix(vocab, hidden, dtype, device)
        self.layers = torch.nn.ModuleList(Layer(shape, dtype, device) for _ in range(layers))
        self.norm = ones(hidden, dtype, device)
        self.head = matrix(vocab, hidden, dtype, device)

    def cached(self, batch: int, tokens: int) -> None:
        device, dtype = self.head.device, self.head.dtype
        steps = torch.arange(0, self.size, 2, device=device, dtype=torch.float32)
        turns = torch.arange(tokens, device=device)[:, None] * self.base ** (-steps / self.size)
        self.register_buffer("cos", turns.cos().to(dtype), persistent=False)
        self.register_buffer("sin", turns.sin().to(dtype), persistent=False)
        self.register_buffer("places", torch.arange(tokens, device=device), persistent=False)
        for layer in self.layers:
            layer.cached(batch, tokens)

    def run(self, tokens, cos, sin, attend):
        """The likeliest next token of each sequence."""
        x = F.embedding(tokens, self.embedding)
        for layer in self.layers:
            x = layer(x, cos, sin, attend)
        last = F.rms_norm(x[:, -1], (x.shape[-1],), self.norm, EPSILON)
        return F.linear(last, self.head).argmax(-1)

    def prefill(self, tokens, first: int):
        """Whole prompts of the sequences from `first` on."""
        batch, rows = tokens.shape

        def attend(layer, q, k, v):
            layer.keys[first : first + batch, :, :rows] = k
            layer.values[first : first + batch, :, :rows] = v
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        return self.run(tokens, self.cos[:rows], self.sin[:rows], attend)

    def decode_grown(self, tokens, position: int):
        """One token of each sequence over as much cache as there is."""

        def attend(layer, q, k, v):
            layer.keys[:, :, position : position + 1] = k
            layer.values[:, :, position : position + 1] = v
            return grouped(q, layer.keys[:, :, : position + 1], layer.values[:, :, : position + 1])

        at = slice(position, position + 1)
        return self.run(tokens[:, None], self.cos[at], self.sin[at], attend)

    def decode_static(self, tokens, position):
        """The same with shapes that never change: `position` is a tensor of one number."""
        mask = (self.places <= position)[None, None, None, :]

        def attend(layer, q, k, v):
            layer.keys.index_copy_(2, position, k)
            layer.values.index_copy_(2, position, v)
            return grouped(q, layer.keys, layer.values, mask)

        return self.run(tokens[:, None], self.cos[position], self.sin[position], attend)


def rates(tokens: int, times: list[float]) -> dict[str, float]:
    found = [tokens / time for time in times]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def settled(device: str) -> float:
    """The time once all work is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def measured(model: Llama, mode: str, device: str, batch: int, sizes) -> dict:
    prompt, gen, chunk, repeats = sizes
    model.cached(batch, prompt + gen)
    prompts = torch.randint(0, model.head.shape[0], (batch, prompt), device=device)
    group = max(1, chunk // prompt)
    decode = model.decode_grown
    if mode == "compiled":
        torch.compiler.reset()
        decode = torch.compile(model.decode_static, mode="reduce-overhead", fullgraph=True,
                               dynamic=False)
    prefilled, decoded = [], []
    warming = time.perf_counter()
    warm = 0.0
    for repeat in range(repeats + 1):
        start = settled(device)
        firsts = range(0, batch, group)
        parts = [model.prefill(prompts[first : first + group], first) for first in firsts]
        tokens = torch.cat(parts)
        middle = settled(device)
        for position in range(prompt, prompt + gen):
            if mode == "compiled":
                torch.compiler.cudagraph_mark_step_begin()
                tokens = decode(tokens, torch.tensor([position], device=device)).clone()
            else:
                tokens = decode(tokens, position)
        end = settled(device)
        if repeat == 0:
            # The first compiles, captures and warms up.
            warm = time.perf_counter() - warming
        else:
            prefilled.append(middle - start)
            decoded.append(end - middle)
    return {
        "stack": f"torch {mode}", "version": torch.__version__, "batch": batch, "prompt": prompt,
        "gen": gen, "repeats": repeats, "warm_up_s": round(warm, 1),
        "prefill": rates(batch * prompt, prefilled), "decode": rates(batch * gen, decoded),
    }


def main() -> None:
    mode, shape, device, batches = sys.argv[1:5]
    sizes = [int(word) for word in sys.argv[5:9]]
    torch.manual_seed(0)
    with torch.inference_mode():
        model = Llama(SHAPES[shape], torch.bfloat16, device)
        for batch in map(int, batches.split(",")):
            try:
                row = measured(model, mode, device, batch, sizes)
            except torch.OutOfMemoryError as error:
                row = {"stack": f"torch {mode}", "batch": batch, "refused": str(error)[:200]}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
