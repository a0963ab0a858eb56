"""BERT's forward pass in plain PyTorch, for the comparisons here and the stored reference of `embed`.

It follows the published model (post-norm encoder, GELU by the error function) and is independent of Leasehold's
own forward pass: padding is hidden by an additive mask, and the mean is a masked sum.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

MAX_TOKENS = 256


class Bert:
    def __init__(self, model: Path, dtype: torch.dtype = torch.float32):
        self.config = json.loads((model / "config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        weights = load_file(model / "model.safetensors")
        self.weights = {k: v.to(dtype) for k, v in weights.items() if v.is_floating_point()}

    def tokens(self, sentences: list[str]) -> list[list[int]]:
        return [self.tokenizer.encode(sentence).ids for sentence in sentences]

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config["layer_norm_eps"])

    def layer(self, x: torch.Tensor, mask: torch.Tensor, name: str) -> torch.Tensor:
        batch, width, hidden = x.shape
        heads = self.config["num_attention_heads"]

        def part(which: str) -> torch.Tensor:
            y = self.linear(x, f"{name}.attention.self.{which}")
            return y.view(batch, width, heads, hidden // heads).transpose(1, 2)

        y = F.scaled_dot_product_attention(part("query"), part("key"), part("value"), attn_mask=mask)
        y = y.transpose(1, 2).reshape(batch, width, hidden)
        x = self.norm(x + self.linear(y, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        y = F.gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.norm(x + self.linear(y, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    @torch.inference_mode()
    def embed_batch(self, ids: list[list[int]]) -> torch.Tensor:
        width = max(map(len, ids))
        table = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        valid = torch.arange(width)[None, :] < torch.tensor([len(row) for row in ids])[:, None]
        word = self.weights["embeddings.word_embeddings.weight"]
        x = F.embedding(table, word)
        x = x + self.weights["embeddings.token_type_embeddings.weight"][0]
        x = x + self.weights["embeddings.position_embeddings.weight"][:width]
        x = self.norm(x, "embeddings.LayerNorm")
        hidden = torch.zeros(valid.shape, dtype=word.dtype).masked_fill(~valid, -math.inf)
        mask = None if bool(valid.all()) else hidden[:, None, None, :]
        for i in range(self.config["num_hidden_layers"]):
            x = self.layer(x, mask, f"encoder.layer.{i}")
        x = x.masked_fill(~valid[:, :, None], 0).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))
        return F.normalize(x / valid.sum(1, keepdim=True), dim=1)

    def embed(self, ids: list[list[int]], batch: int = 32) -> torch.Tensor:
        """One unit vector a sentence, in batches of like lengths, as the program `embed` does."""
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        parts = [
            self.embed_batch([ids[i] for i in order[start : start + batch]])
            for start in range(0, len(order), batch)
        ]
        out = torch.empty(len(ids), self.config["hidden_size"])
        out[torch.tensor(order)] = torch.cat(parts)
        return out
