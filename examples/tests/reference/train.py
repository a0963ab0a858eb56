"""Writes train.json beside this script: what PyTorch's autograd makes of the model that `tests/train.rs` trains.

    python train.py

Needs torch, in an environment of its own. The weights are made of the same whole numbers as there; loss and gradients are those
of f64, so that they carry no rounding of their own. Nothing here is written out by hand but the forward pass.
"""

import json
import math
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, rms_norm, scaled_dot_product_attention, silu

HERE = Path(__file__).resolve().parent
TOKENS, WIDTH, HEADS, KV_HEADS, INNER, BLOCKS = 8, 16, 4, 2, 24, 2
EPSILON, ROPE_BASE = 1e-5, 100.0
ENTRIES, ROWS, SEED = 2, 6, 7
DIM = WIDTH // HEADS


def shapes():
    """Names and shapes of the parameters in the order in which they lie."""
    yield "embedding", (TOKENS, WIDTH)
    for block in range(BLOCKS):
        yield f"{block}.attention_norm", (WIDTH,)
        yield f"{block}.qkv", (WIDTH, (HEADS + 2 * KV_HEADS) * DIM)
        yield f"{block}.output", (HEADS * DIM, WIDTH)
        yield f"{block}.mlp_norm", (WIDTH,)
        yield f"{block}.gate", (WIDTH, INNER)
        yield f"{block}.up", (WIDTH, INNER)
        yield f"{block}.down", (INNER, WIDTH)
    yield "norm", (WIDTH,)


class SplitMix:
    """The stream of the Rust side."""

    def __init__(self, seed):
        self.state = seed

    def bits(self):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def below(self, n):
        return self.bits() % n


def initial(stream):
    """Uniform numbers, as f32 holds them: a norm's weight about 1, a matrix by the root of its inputs."""
    weights = {}
    for name, shape in shapes():
        uniform = [(stream.bits() >> 40) / 2.0**23 - 1.0 for _ in range(math.prod(shape))]
        if len(shape) == 1:
            values = [1.0 + 0.25 * u for u in uniform]
        else:
            values = [u * math.sqrt(3.0 / shape[0]) for u in uniform]
        f32 = torch.tensor(values, dtype=torch.float64).to(torch.float32)
        weights[name] = f32.to(torch.float64).reshape(shape).requires_grad_()
    return weights


def examples(stream, entries, rows):
    """Tokens, and for each the sum of it and the one before; the first is counted twice."""
    ids = [[stream.below(TOKENS) for _ in range(rows)] for _ in range(entries)]
    targets = [[(row[i] + row[max(i - 1, 0)]) % TOKENS for i in range(rows)] for row in ids]
    return torch.tensor(ids), torch.tensor(targets)


def rope(x):
    """Halves of each head turned by their row."""
    rows, dim = x.shape[-2:]
    frequency = ROPE_BASE ** (-2.0 * torch.arange(dim // 2, dtype=x.dtype) / dim)
    angle = torch.arange(rows, dtype=x.dtype)[:, None] * frequency
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)


def loss(w, ids, targets):
    entries, rows = ids.shape
    x = w["embedding"][ids]
    for block in range(BLOCKS):
        of = lambda name: w[f"{block}.{name}"]
        qkv = rms_norm(x, (WIDTH,), of("attention_norm"), EPSILON) @ of("qkv")
        qkv = qkv.reshape(entries, rows, HEADS + 2 * KV_HEADS, DIM).transpose(1, 2)
        q, k, v = qkv.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        o = scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True, enable_gqa=True)
        x = x + o.transpose(1, 2).reshape(entries, rows, HEADS * DIM) @ of("output")
        y = rms_norm(x, (WIDTH,), of("mlp_norm"), EPSILON)
        x = x + (silu(y @ of("gate")) * (y @ of("up"))) @ of("down")
    logits = rms_norm(x, (WIDTH,), w["norm"], EPSILON) @ w["embedding"].T
    return cross_entropy(logits.reshape(-1, TOKENS), targets.reshape(-1))


def main():
    stream = SplitMix(SEED)
    weights = initial(stream)
    ids, targets = examples(stream, ENTRIES, ROWS)
    value = loss(weights, ids, targets)
    value.backward()
    gradients = torch.cat([w.grad.reshape(-1) for w in weights.values()])
    stored = {
        "torch": torch.__version__.split("+")[0],
        "loss": float(f"{value.item():.9g}"),
        # One string: a number a line would be a long file.
        "gradients": " ".join(f"{g:.6e}" for g in gradients.tolist()),
    }
    (HERE / "train.json").write_text(json.dumps(stored, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
