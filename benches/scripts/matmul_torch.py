"""PyTorch's side of the matmul comparison: f32 squares of 512 to 2048 and 256 products of 64x64x64 by `bmm`.

    python matmul_torch.py [--threads 2] [--runs 20]

Needs torch; one JSON line a shape.
"""

import argparse
import json

import machine
import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    print(json.dumps(machine.describe(torch)))
    for batch, n in [(1, 512), (1, 768), (1, 1024), (1, 1536), (1, 2048), (256, 64)]:
        shape = (n, n) if batch == 1 else (batch, n, n)
        a, b = torch.randn(shape), torch.randn(shape)
        out = torch.empty(shape)
        product = torch.mm if batch == 1 else torch.bmm
        took = machine.seconds(lambda: product(a, b, out=out), args.runs)
        rates = {f"gflops_{key}": round(2e-9 * batch * n**3 / value, 1) for key, value in took.items()}
        print(json.dumps({"batch": batch, "m": n, "n": n, "k": n, **rates}), flush=True)


if __name__ == "__main__":
    main()
