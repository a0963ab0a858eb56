"""PyTorch's side of the matmul comparison: squares of 256 to 2048, few rows by a weight of 4096 x 4096, and 256 products of
64x64x64 by `bmm`.

    python matmul_torch.py [--threads 2] [--runs 20] [--dtype f32]

Needs torch; one JSON line a shape.
"""

import argparse
import json

import machine
import torch

SHAPES = [(1, n, n, n) for n in (256, 512, 768, 1024, 1536, 2048)]
SHAPES += [(1, m, 4096, 4096) for m in (1, 4, 16)] + [(256, 64, 64, 64)]


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
    for batch, m, n, k in SHAPES:
        lead = () if batch == 1 else (batch,)
        a, b = torch.randn(*lead, m, k).to(dtype), torch.randn(*lead, k, n).to(dtype)
        if m < k:
            b = torch.randn(n, k).to(dtype).t()
        out = torch.empty(*lead, m, n, dtype=dtype)
        product = torch.mm if batch == 1 else torch.bmm
        took = machine.seconds(lambda: product(a, b, out=out), args.runs)
        times = {f"ms_{key}": round(1e3 * value, 4) for key, value in took.items()}
        rates = {"gflops": round(2e-9 * batch * m * n * k / took["median"], 1)}
        shape = {"batch": batch, "m": m, "n": n, "k": k, "dtype": args.dtype}
        print(json.dumps(shape | times | rates), flush=True)


if __name__ == "__main__":
    main()
