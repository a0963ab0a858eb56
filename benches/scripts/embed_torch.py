"""PyTorch's side of the comparison with `embed`: 256 sentences of about 100 tokens, tokens per second.

    python embed_torch.py MODEL [--threads 2] [--runs 5] [--dtype f32 bf16]

MODEL is the folder that `examples/fetch-model all-MiniLM-L6-v2` prints. Needs torch, safetensors and tokenizers; one JSON line a dtype.
"""

import argparse
import json
from pathlib import Path

import machine
import torch
from bert_torch import Bert
from sentences import sentences

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(machine.describe(torch)))
    for dtype in args.dtype:
        bert = Bert(args.model, DTYPES[dtype])
        ids = bert.tokens(sentences())
        count = sum(map(len, ids))
        took = machine.seconds(lambda: bert.embed(ids), args.runs)
        rates = {f"tokens_per_s_{key}": round(count / value) for key, value in took.items()}
        print(json.dumps({"dtype": dtype, "sentences": len(ids), "tokens": count, **rates}), flush=True)


if __name__ == "__main__":
    main()
