"""Writes generate.json beside this script: what transformers makes of the model of `generate`, for `tests/generate.rs`.

    python generate.py FILE.gguf

FILE lies in the folder that `examples/fetch-model SmolLM2-135M-Instruct` prints. Needs torch, transformers, accelerate, gguf,
regex and jinja2, in an environment of its own. transformers reads the same file and dequantises its weights first. The
stored logits are those of f64, so that they carry no rounding of their own; `plain` is the largest error of f32
beside them. Tokens come from the short tokenizer below, and the chat from the file's own template.
"""

import json
import sys
from pathlib import Path

import gguf
import jinja2
import regex
import torch
import transformers

HERE = Path(__file__).resolve().parent
# Awkward ones for the tokenizer; the first is continued.
PROMPTS = [
    "Write a short story about a lighthouse keeper.",
    "What's 12345 + 67,890?  I'll wait\n\n\tfor it ...",
    "Ωμέγα, naïve café 🚀 猫 don't   stop",
    "<|im_end|> is text here, and so is <|endoftext|>.",
    "x",
]
STEPS = 64
BEST = 8
SPREAD = 8


class Tokenizer:
    """Byte-level BPE, as GPT-2 does it, of single digits and GPT-2's words."""

    WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def __init__(self, fields):
        self.ids = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
        merges = fields["tokenizer.ggml.merges"].contents()
        self.ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}
        self.template = jinja2.Template(fields["tokenizer.chat_template"].contents())
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        other = [byte for byte in range(256) if byte not in plain]
        self.bytes = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(other)}

    def chat(self, prompt):
        # What the user says is a mark while the template's control tokens are found.
        text = self.template.render(messages=[{"role": "user", "content": "\0"}], add_generation_prompt=True)
        ids = []
        for part in regex.split(r"(<\|im_start\|>|<\|im_end\|>)", text):
            if part in self.ids and part.startswith("<|"):
                ids.append(self.ids[part])
            else:
                ids.extend(self.encode(part.replace("\0", prompt)))
        return ids

    def encode(self, text):
        ids = []
        for part in regex.split(r"(\p{N})", text):
            for word in self.WORDS.findall(part):
                ids.extend(self.word([self.bytes[byte] for byte in word.encode()]))
        return ids

    def word(self, parts):
        while len(parts) > 1:
            ranked = [(self.ranks.get(pair, len(self.ranks)), i) for i, pair in enumerate(zip(parts, parts[1:]))]
            rank, at = min(ranked)
            if rank == len(self.ranks):
                break
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return [self.ids[part] for part in parts]


def exact_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def exact_angles(self, x, position_ids):
    base, dim = self.config.rope_parameters["rope_theta"], self.config.head_dim
    angles = position_ids[..., None].double() / base ** (torch.arange(0, dim, 2).double() / dim)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def load(path, dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()


@torch.no_grad()
def main() -> None:
    path = Path(sys.argv[1])
    tokenizer = Tokenizer(gguf.GGUFReader(path).fields)
    ids = [tokenizer.chat(prompt) for prompt in PROMPTS]
    count = len(ids[0])

    wide = load(path, torch.float32)
    # These two compute in f32 whatever the model's type.
    llama = transformers.models.llama.modeling_llama
    norm, angles = llama.LlamaRMSNorm.forward, llama.LlamaRotaryEmbedding.forward
    llama.LlamaRMSNorm.forward, llama.LlamaRotaryEmbedding.forward = exact_norm, exact_angles
    model = wide.double()
    output, cache, answer, exact = torch.tensor([ids[0]]), None, [], []
    for _ in range(STEPS + 1):
        result = model(output, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        exact.append(result.logits[0, -1])
        answer.append(int(exact[-1].argmax()))
        output = torch.tensor([[answer[-1]]])
    exact = torch.stack(exact)
    llama.LlamaRMSNorm.forward, llama.LlamaRotaryEmbedding.forward = norm, angles
    del model, wide
    plain = load(path, torch.float32)(torch.tensor([ids[0] + answer[:-1]])).logits[0, count - 1 :].double()

    places = exact.topk(BEST).indices
    spread = torch.arange(STEPS + 1)[:, None] * 7919 + torch.arange(SPREAD) * 6151
    places = torch.cat((places, spread % exact.shape[1]), dim=1)
    best = exact.topk(2).values
    error = (plain.gather(1, places) - exact.gather(1, places)).abs().max()
    reference = {
        "made_by": {name: sys.modules[name].__version__ for name in ("torch", "transformers")},
        "prompts": PROMPTS,
        "ids": ids,
        "answer": answer,
        "plain": float(f"{error:.2e}"),
        "closest": float(f"{(best[:, 0] - best[:, 1]).min():.2e}"),
        "places": places.tolist(),
        "logits": [[round(x, 7) for x in row] for row in exact.gather(1, places).tolist()],
    }
    lines = [f"{json.dumps(key)}: {rows(value)}" for key, value in reference.items()]
    (HERE / "generate.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def rows(value) -> str:
    """JSON with one row of a table a line, so that a change shows where it is."""
    if isinstance(value, list) and isinstance(value[0], list):
        return "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
