"""PyTorch's side of the attention comparison: `scaled_dot_product_attention` of 8 heads, full and causal.

    python attention_torch.py [--threads 2] [--runs 20] [--dtype f32]

Needs torch; one JSON line a shape.
"""

import argparse
import json

import machine
import torch
from torch.nn.functional import scaled_dot_product_attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    print(json.dumps(machine.describe(torch)))
    for heads, sequence, dim in [(8, 1024, 64), (8, 2048, 128)]:
        q, k, v = (torch.randn(1, heads, sequence, dim).to(dtype) for _ in range(3))
        for causal in (False, True):
            call = lambda: scaled_dot_product_attention(q, k, v, is_causal=causal)
            took = machine.seconds(call, args.runs)
            times = {f"ms_{key}": round(1e3 * value, 4) for key, value in took.items()}
            shape = {"heads": heads, "sequence": sequence, "dim": dim, "causal": causal, "dtype": args.dtype}
            print(json.dumps(shape | times), flush=True)


if __name__ == "__main__":
    main()
