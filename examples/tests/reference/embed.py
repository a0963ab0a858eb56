"""Writes embed.json beside this script: what PyTorch makes of a few awkward sentences, for `tests/embed.rs`.

    python embed.py MODEL

MODEL is the folder that `examples/fetch-model all-MiniLM-L6-v2` prints. Needs torch, safetensors and tokenizers. The forward pass is the plain
one of benches/scripts/bert_torch.py, in f64 so that the stored numbers carry no rounding of their own, and each
sentence goes alone, so that they carry no padding either.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "benches" / "scripts"))

import safetensors  # noqa: E402
import tokenizers  # noqa: E402
import torch  # noqa: E402
from bert_torch import Bert  # noqa: E402

SENTENCES = [
    "A lease grants the use of a machine for a limited time.",
    "Renting a computer gives you its use until the contract ends.",
    "The cat sleeps on the warm windowsill.",
    "Eine Katze schläft auf der warmen Fensterbank.",
    "猫が窓辺で眠っている。 Ωμέγα, naïve café 🚀 \u200bzero-width",
    "",
    "No",
    " ".join(f"Clause {i}: the tenant returns the device clean, and every byte is zeroed." for i in range(24)),
]


def main() -> None:
    bert = Bert(Path(sys.argv[1]), torch.float64)
    ids = bert.tokens(SENTENCES)
    embeddings = torch.cat([bert.embed_batch([row]) for row in ids]).double()
    reference = {
        "made_by": {
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
            "safetensors": safetensors.__version__,
        },
        "sentences": SENTENCES,
        "tokens": [len(row) for row in ids],
        "similarities": [[round(x, 7) for x in row] for row in (embeddings @ embeddings.T).tolist()],
        "embeddings": [[round(x, 8) for x in row] for row in embeddings.tolist()],
    }
    lines = [f"{json.dumps(key)}: {rows(value)}" for key, value in reference.items()]
    (HERE / "embed.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def rows(value) -> str:
    """JSON with one row of a table a line, so that a change shows where it is."""
    if isinstance(value, list) and isinstance(value[0], list):
        return "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
