"""NVIDIA's cuBLAS and cuBLASLt as peers of `check`, through the libraries that PyTorch has loaded. `peers.py` calls it.

Their matrices are column-major, so that a row-major `C = A B` is their `C^T = B^T A^T`: B is their first operand.
Enumerators are those of cublas_api.h and cublasLt.h.
"""

import ctypes
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p

import torch

TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
COMPUTE_32F = 68
DESC_TRANSA, DESC_TRANSB = 3, 4
LAYOUT_BATCH, LAYOUT_STRIDE = 5, 6
PREFERENCE_WORKSPACE = 1
DEFAULT_ALGORITHM = -1
WORKSPACE = 64 << 20
# Algorithms that are asked for and timed.
ALGORITHMS = 32


class Result(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


def opened(name: str) -> ctypes.CDLL:
    """A library by its name, of the CUDA that PyTorch was built for."""
    return ctypes.CDLL(f"{name}.so.{torch.version.cuda.split('.')[0]}")


def call(library: ctypes.CDLL, name: str, *args) -> None:
    status = getattr(library, name)(*args)
    if status:
        raise RuntimeError(f"{name}: status {status}")


def version() -> int:
    """Of cuBLASLt."""
    library = opened("libcublasLt")
    library.cublasLtGetVersion.restype = c_size_t
    return library.cublasLtGetVersion()


def matrices(sizes: dict) -> list:
    """Rows, columns and transposition of their first operand, of their second, and of the result."""
    (m, n, k), (turned_a, turned_b) = sizes["size"], sizes["turned"]
    first = (k, n, 1) if turned_b else (n, k, 0)
    second = (m, k, 1) if turned_a else (k, m, 0)
    return [first, second, (n, m, 0)]


def leading(tensor, rows: int) -> int:
    """Elements from one stored row to the next."""
    return max(rows, *(stride for stride, size in zip(tensor.stride()[-2:], tensor.shape[-2:]) if size > 1), 1)


def fastest(products: list, timed) -> tuple:
    """The best of the algorithms of a product by the time of its copies in turn, and which that is; `None` where it has no
    choice."""
    algorithms = products[0].algorithms
    if not algorithms:
        return None, None
    times, refused = {}, None
    for i, algorithm in enumerate(algorithms):
        try:
            times[i] = timed(lambda turn: products[turn % len(products)](algorithm))
        except RuntimeError as error:  # One that was offered and does not run leaves the others.
            refused = error
    if not times:
        raise refused
    best = min(times, key=times.get)
    return algorithms[best], f"algorithm {best} of {len(algorithms)}"


class light:
    """One product, or a strided batch, by cuBLASLt."""

    handle = None

    def __init__(self, sizes: dict, a, b, out, added=None):
        self.library, self.beta = opened("libcublasLt"), 0 if added is None else 1
        self.added = out if added is None else added
        if light.handle is None:
            light.handle = c_void_p()
            call(self.library, "cublasLtCreate", byref(light.handle))
            light.workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=out.device)
        self.places = [c_void_p(t.data_ptr()) for t in (b, a, self.added, out)]
        self.desc = c_void_p()
        call(self.library, "cublasLtMatmulDescCreate", byref(self.desc), COMPUTE_32F, TYPES[torch.float32])
        shapes = matrices(sizes)
        for attribute, (*_, turned) in zip((DESC_TRANSA, DESC_TRANSB), shapes):
            value = c_int32(turned)
            call(self.library, "cublasLtMatmulDescSetAttribute", self.desc, attribute, byref(value), c_size_t(4))
        self.layouts = [self.layout(shape, t, sizes["batch"]) for shape, t in zip(shapes, (b, a, out))]
        self.algorithms = self.heuristic()

    def layout(self, shape: tuple, tensor, batch: int) -> c_void_p:
        rows, columns, _ = shape
        layout = c_void_p()
        size = (c_uint64(rows), c_uint64(columns), c_int64(leading(tensor, rows)))
        call(self.library, "cublasLtMatrixLayoutCreate", byref(layout), TYPES[tensor.dtype], *size)
        if batch > 1:
            count, stride = c_int32(batch), c_int64(tensor.stride(0))
            name = "cublasLtMatrixLayoutSetAttribute"
            call(self.library, name, layout, LAYOUT_BATCH, byref(count), c_size_t(4))
            call(self.library, name, layout, LAYOUT_STRIDE, byref(stride), c_size_t(8))
        return layout

    def heuristic(self) -> list:
        preference, most, found = c_void_p(), c_uint64(WORKSPACE), c_int()
        call(self.library, "cublasLtMatmulPreferenceCreate", byref(preference))
        name = "cublasLtMatmulPreferenceSetAttribute"
        call(self.library, name, preference, PREFERENCE_WORKSPACE, byref(most), c_size_t(8))
        results = (Result * ALGORITHMS)()
        a, b, c = self.layouts
        call(self.library, "cublasLtMatmulAlgoGetHeuristic", light.handle, self.desc, a, b, c, c, preference, ALGORITHMS, results, byref(found))
        call(self.library, "cublasLtMatmulPreferenceDestroy", preference)
        usable = [result for result in results[: found.value] if result.state == 0]
        if not usable:
            raise RuntimeError("cuBLASLt has no algorithm for it")
        return usable

    def __call__(self, algorithm: Result) -> None:
        one, beta = c_float(1), c_float(self.beta)
        (a, b, c), (at_a, at_b, at_c, at_d) = self.layouts, self.places
        stream = c_void_p(torch.cuda.current_stream().cuda_stream)
        operands = (byref(one), at_a, a, at_b, b, byref(beta), at_c, c, at_d, c)
        space = (c_void_p(light.workspace.data_ptr()), c_size_t(WORKSPACE))
        call(self.library, "cublasLtMatmul", light.handle, self.desc, *operands, byref(algorithm.algorithm), *space, stream)


class pointers:
    """A batch of products by arrays of pointers, by cuBLAS."""

    handle = None
    algorithms = None

    def __init__(self, sizes: dict, a, b, out, _=None):
        self.library, self.sizes = opened("libcublas"), sizes
        if pointers.handle is None:
            pointers.handle = c_void_p()
            call(self.library, "cublasCreate_v2", byref(pointers.handle))
        self.types = [TYPES[t.dtype] for t in (b, a, out)]
        self.places = [torch.tensor([part.data_ptr() for part in t], device=out.device) for t in (b, a, out)]
        self.m, self.n, self.k = sizes["size"]
        self.turned = [shape[2] for shape in matrices(sizes)]
        self.leading = [leading(t, shape[0]) for t, shape in zip((b, a, out), matrices(sizes))]

    def begin(self) -> list:
        stream = c_void_p(torch.cuda.current_stream().cuda_stream)
        call(self.library, "cublasSetStream_v2", pointers.handle, stream)
        return [c_void_p(t.data_ptr()) for t in self.places]

    def __call__(self, _) -> None:
        a, b, c = self.begin()
        one, zero, (lda, ldb, ldc), (ta, tb, tc) = c_float(1), c_float(0), self.leading, self.types
        size = (self.turned[0], self.turned[1], self.n, self.m, self.k)
        operands = (byref(one), a, ta, lda, b, tb, ldb, byref(zero), c, tc, ldc)
        count = (self.sizes["batch"], COMPUTE_32F, DEFAULT_ALGORITHM)
        call(self.library, "cublasGemmBatchedEx", pointers.handle, *size, *operands, *count)


class grouped(pointers):
    """The same as one group of its grouped call."""

    def __call__(self, _) -> None:
        a, b, c = self.begin()
        of = lambda value: byref(c_int(value))
        one, zero, (lda, ldb, ldc), (ta, tb, tc) = c_float(1), c_float(0), self.leading, self.types
        size = (of(self.turned[0]), of(self.turned[1]), of(self.n), of(self.m), of(self.k))
        operands = (byref(one), a, ta, of(lda), b, tb, of(ldb), byref(zero), c, tc, of(ldc))
        count = (1, of(self.sizes["batch"]), COMPUTE_32F)
        call(self.library, "cublasGemmGroupedBatchedEx", pointers.handle, *size, *operands, *count)
