"""numpy's side of the matmul comparison, which is OpenBLAS's: the shapes of `matmul_torch.py` in f32.

    python matmul_numpy.py [--threads 2] [--runs 20]

Needs numpy; one JSON line a shape. The first line names the core whose kernels OpenBLAS runs.
"""

import argparse
import ctypes
import json
import pathlib

import machine
import numpy

SHAPES = [(1, n, n, n) for n in (256, 512, 768, 1024, 1536, 2048)]
SHAPES += [(1, m, 4096, 4096) for m in (1, 4, 16)] + [(256, 64, 64, 64)]


def openblas() -> ctypes.CDLL:
    """The OpenBLAS inside numpy's wheel, which numpy has loaded."""
    wheel = pathlib.Path(numpy.__file__).parent.parent / "numpy.libs"
    (library,) = wheel.glob("libscipy_openblas64_*")
    return ctypes.CDLL(str(library))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--dtype", choices=("f32",), default="f32")
    args = parser.parse_args()
    blas = openblas()
    blas.scipy_openblas_set_num_threads64_(args.threads)
    for name in ("corename", "config"):
        getattr(blas, f"scipy_openblas_get_{name}64_").restype = ctypes.c_char_p
    core = blas.scipy_openblas_get_corename64_().decode()
    version = " ".join(blas.scipy_openblas_get_config64_().decode().split()[:2])
    threads = blas.scipy_openblas_get_num_threads64_()
    print(json.dumps({"numpy": numpy.__version__, "blas": version, "core": core, "threads": threads}))
    random = numpy.random.default_rng(1)
    for batch, m, n, k in SHAPES:
        lead = () if batch == 1 else (batch,)
        a = random.standard_normal((*lead, m, k), dtype=numpy.float32)
        b = random.standard_normal((*lead, k, n), dtype=numpy.float32)
        if m < k:
            b = random.standard_normal((n, k), dtype=numpy.float32).T
        out = numpy.empty((*lead, m, n), dtype=numpy.float32)
        took = machine.seconds(lambda: numpy.matmul(a, b, out=out), args.runs)
        times = {f"ms_{key}": round(1e3 * value, 4) for key, value in took.items()}
        rates = {"gflops": round(2e-9 * batch * m * n * k / took["median"], 1)}
        shape = {"batch": batch, "m": m, "n": n, "k": k, "dtype": args.dtype}
        print(json.dumps(shape | times | rates), flush=True)


if __name__ == "__main__":
    main()
