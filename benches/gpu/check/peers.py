"""Runs `check` in this process, with PyTorch and what comes with it as the peers.

    python peers.py LIBRARY --device cuda:0 [what `leasehold-bench check` takes]

LIBRARY is `target/release/examples/libcheck.so`. It asks by JSON for a problem to be loaded, for batches of runs, and for
values to check; ours and theirs take turns. Without torch, or where a peer cannot be had, its place says why.
"""

import ctypes
import inspect
import json
import math
import sys
import time
import warnings

try:
    import torch
except ImportError as error:
    torch, WHY_NOT = None, f"no PyTorch: {error}"
else:
    import cublas

# Cycles for which the stream is held, so that the host has enqueued a batch before its first run begins; and fewer where
# many algorithms are tried, a few runs each.
HELD, HELD_TO_TRY = 20_000_000, 4_000_000
# Singles of all copies go into graphs up to so many.
GRAPH_MAX = 4096
# Batches of small ops on the host's clock.
HOST_BATCHES = 200


class Absent(Exception):
    """Why a peer is not run."""


def why(error: Exception, said: list) -> str:
    """An error in one line, and what was warned of before it: torch's attention tells only there what of it does not fit."""
    lines = [str(warning.message).split("\n")[0].split(" (Triggered internally")[0] for warning in said]
    # It warns of each kernel by a heading, also of those that were not to be taken.
    lines = [line for line in lines if not line.endswith("because:") and "runtime disabled" not in line]
    return "; ".join([f"{type(error).__name__}: {error}".splitlines()[0], *lines])[:300]


def dtypes() -> dict:
    return {
        "f32": torch.float32,
        "f16": torch.float16,
        "bf16": torch.bfloat16,
        "f8e4m3": torch.float8_e4m3fn,
        "u32": torch.int32,
    }


class Problem:
    """The problem that is loaded: its operands in copies, and who computes it."""

    def __init__(self, request: dict, operands: list, device: str):
        self.sizes, self.device = request["problem"], device
        self.copies = [self.tensors(request["given"], operands) for _ in range(request["copies"])]
        self.written = request["written"]
        self.peers, self.offers, self.turn = [], [], 0
        for name, beside, make in PEERS[self.sizes["op"]](self):
            offer = {"name": name, "beside": beside, "not_run": None, "how": None}
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    run = make()
                    run(0)
                    synchronize(device)
                    offer["how"] = getattr(run, "how", None)
                except Exception as error:  # A peer that fails is named, whatever it fails with.
                    run, offer["not_run"] = None, why(error, said)
            self.peers.append(run)
            self.offers.append(offer)

    def tensors(self, given: list, operands: list) -> dict:
        made = {}
        for one, raw in zip(given, operands):
            # A buffer of nothing is refused.
            flat = torch.frombuffer(raw, dtype=torch.uint8) if len(raw) else torch.empty(0, dtype=torch.uint8)
            flat = flat.view(dtypes()[one["dtype"]])
            # The copy keeps the strides, and outlives the bytes.
            made[one["name"]] = flat.to(self.device, copy=True).as_strided(one["shape"], one["strides"])
        return made

    def each(self, make) -> list:
        """What `make` makes of each copy, before anything is timed."""
        return [make(copy) for copy in self.copies]

    def run(self, peer: int):
        self.turn = (self.turn + 1) % len(self.copies)
        return self.peers[peer](self.turn)

    def seconds(self, peer: int, runs: int) -> float:
        if self.device == "cpu":
            begin = time.perf_counter()
            for _ in range(runs):
                self.run(peer)
            return time.perf_counter() - begin
        return held_seconds(lambda _: self.run(peer), runs, HELD)

    def values(self, peer: int, output: int, at: list) -> list:
        outs = self.peers[peer](0)
        outs = outs if isinstance(outs, tuple) else (outs,)
        out = outs[output] if output < len(outs) else None
        if out is None:
            return []
        # Places are those of our output's memory, in whose order a peer gives its own.
        flat, places = out.reshape(-1), torch.tensor(at, device=out.device)
        # Nothing is looked up in values of 8 bits.
        taken = flat.view(torch.uint8)[places].view(flat.dtype) if flat.element_size() == 1 else flat[places]
        return [x if math.isfinite(x) else None for x in taken.double().tolist()]


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def held_seconds(run, runs: int, held: int) -> float:
    """Seconds of so many runs on the device without the gaps between them: it is held until the host has enqueued all. Where
    the host takes longer than that, fewer are run at once."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    count = runs
    while True:
        torch.cuda._sleep(held)
        start.record()
        for i in range(count):
            run(i)
        has_begun = start.query()
        end.record()
        end.synchronize()
        if not has_begun or count == 1:
            return start.elapsed_time(end) / 1e3 * runs / count
        count //= 2


def timed(run) -> float:
    """Seconds of a run, to choose among algorithms: the least of three batches, of ten runs where they are short."""
    run(0)
    once = held_seconds(run, 1, HELD_TO_TRY)
    count = 10 if once < 1e-3 else 1
    return min(held_seconds(run, count, HELD_TO_TRY) for _ in range(3)) / count


def on_cuda(problem: Problem) -> None:
    if problem.device == "cpu":
        raise Absent("no CUDA device")


def product_peers(problem: Problem) -> list:
    sizes = problem.sizes
    (m, n, _), batch, between = sizes["size"], sizes["batch"], sizes["between"]
    out_type = dtypes()[sizes["out"]]
    mixed = {} if sizes["out"] == sizes["dtype"] else {"out_dtype": out_type}
    product = torch.mm if batch == 1 and not between else torch.bmm

    def outputs() -> list:
        def one(_):
            if between:
                return torch.empty(m, batch, n, dtype=out_type, device=problem.device).transpose(0, 1)
            lead = () if batch == 1 else (batch,)
            return torch.empty(*lead, m, n, dtype=out_type, device=problem.device)

        return problem.each(one)

    def seen(out):
        """In the order of its memory."""
        return out.transpose(0, 1) if between else out

    def plain():
        if mixed:
            on_cuda(problem)
        if sizes["added"]:
            return lambda i: torch.addmm(problem.copies[i]["c"], problem.copies[i]["a"], problem.copies[i]["b"], **mixed)
        if mixed:
            return lambda i: product(problem.copies[i]["a"], problem.copies[i]["b"], **mixed)
        outs = outputs()

        def run(i: int):
            product(problem.copies[i]["a"], problem.copies[i]["b"], out=outs[i])
            return seen(outs[i])

        return run

    def library(make):
        def peer():
            on_cuda(problem)
            outs = outputs()
            calls = [make(sizes, c["a"], c["b"], out, c.get("c")) for c, out in zip(problem.copies, outs)]
            best, how = cublas.fastest(calls, timed)

            def run(i: int):
                calls[i](best)
                return seen(outs[i])

            run.how = how
            return run

        return peer

    def singles():
        on_cuda(problem)
        # So many copies as graphs of all of them take; the operands of these turn.
        count = max(1, min(len(problem.copies), GRAPH_MAX // batch))
        if batch > GRAPH_MAX:
            raise Absent(f"{batch} singles, more than {GRAPH_MAX} in a graph")
        outs, graphs = outputs(), []
        torch.mm(problem.copies[0]["a"][0], problem.copies[0]["b"][0], out=outs[0][0], **mixed)
        synchronize(problem.device)
        for copy, out in list(zip(problem.copies, outs))[:count]:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for i in range(batch):
                    torch.mm(copy["a"][i], copy["b"][i], out=out[i], **mixed)
            graphs.append(graph)

        def run(i: int):
            graphs[i % count].replay()
            return seen(outs[i % count])

        return run

    peers = [("torch.mm" if product is torch.mm else "torch.bmm", False, plain)]
    peers.append(("cuBLASLt, the best of its algorithms", False, library(cublas.light)))
    if batch > 1:
        peers.append(("cuBLAS by pointers", False, library(cublas.pointers)))
        peers.append(("cuBLAS grouped", False, library(cublas.grouped)))
        peers.append(("a graph of torch.mm", False, singles))
    return peers


def across(scale):
    """The same scales with those of a column next to one another."""
    return scale.t().contiguous().t()


def in_fours(scale):
    """The scales of B as cuBLASLt reads them: those of a column next to one another, columns a multiple of four apart."""
    return across(torch.nn.functional.pad(scale, (0, 0, 0, -scale.shape[0] % 4)))


def scaled_product(a, b, scale_a, scale_b, **out):
    """A product by scales of 1x128, laid `across`, and of 128x128, laid `in_fours`."""
    if scale_b.shape[0] == scale_a.shape[1]:
        return torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, **out)
    # That asks for scales without a gap, which cuBLASLt then reads as if they had one; its successor takes them with it.
    kinds = torch.nn.functional.ScalingType
    return torch.nn.functional.scaled_mm(a, b, scale_a, kinds.BlockWise1x128, scale_b, kinds.BlockWise128x128, **out)


def grouped_peers(problem: Problem) -> list:
    sizes, device = problem.sizes, problem.device
    counts, (m, n, _), group = sizes["counts"], sizes["size"], sizes["group"]
    out_type, is_scaled = dtypes()[sizes["out"]], sizes["dtype"] == "f8e4m3"
    mixed = {} if sizes["out"] == sizes["dtype"] else {"out_dtype": out_type}
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]

    def whole():
        offsets = torch.tensor(ends, dtype=torch.int32, device=device)
        return lambda i: torch._grouped_mm(problem.copies[i]["a"], problem.copies[i]["b"], offs=offsets)

    def parts(copy: dict, out) -> list:
        """A, B, their scales and the output of each group that has any."""
        made = []
        for i, (end, count) in enumerate(zip(ends, counts)):
            rows = slice(end - count, end)
            if count == 0:
                continue
            if group == "k":
                made.append((copy["a"][:, rows], copy["b"][rows], None, None, out[i]))
                continue
            # Rows of a group: in a room of its own, or after those of the others.
            own = (lambda t: t[i, :count]) if group == "masked" else (lambda t: t[rows])
            scales = (None, None)
            if is_scaled:
                scales = (across(own(copy["scale_a"])), in_fours(copy["scale_b"][i]))
            made.append((own(copy["a"]), copy["b"][i], *scales, own(out)))
        return made

    def singles():
        if is_scaled or mixed:
            on_cuda(problem)
        lead = (len(counts),) if group != "contiguous" else ()
        outs = problem.each(lambda c: torch.zeros(*lead, m, n, dtype=out_type, device=device))
        lists = [parts(copy, out) for copy, out in zip(problem.copies, outs)]

        def product(a, b, scale_a, scale_b, **out):
            if is_scaled:
                return scaled_product(a, b, scale_a, scale_b, **out)
            return torch.mm(a, b, **mixed, **out)

        how = "into the output"
        try:
            *operands, out = lists[0][0]
            product(*operands, out=out)
        except (TypeError, RuntimeError) as error:
            how = f"copied into the output: {error}".splitlines()[0][:200]

        def run(i: int):
            for *operands, out in lists[i]:
                if how == "into the output":
                    product(*operands, out=out)
                else:
                    out.copy_(product(*operands))
            return outs[i]

        run.how = how
        return run

    def rooms():
        return lambda i: torch.bmm(problem.copies[i]["a"], problem.copies[i]["b"])

    name = "torch._scaled_mm a group" if is_scaled else "torch.mm a group"
    peers = [(name, False, singles)]
    if not is_scaled and group == "contiguous":
        peers.append(("torch._grouped_mm", False, whole))
    if group == "k":
        peers.append(("torch._grouped_mm, whose results are of 16 bits", True, whole))
    if not is_scaled and group == "masked":
        peers.append(("torch.bmm of all rooms, which does more", False, rooms))
    return peers


def scaled_peers(problem: Problem) -> list:
    def blocks():
        operands = problem.each(lambda c: (c["a"], c["b"], across(c["scale_a"]), in_fours(c["scale_b"])))
        return lambda i: scaled_product(*operands[i])

    def one():
        scale = torch.ones((), device=problem.device)

        def run(i: int):
            a, b = problem.copies[i]["a"], problem.copies[i]["b"]
            torch._scaled_mm(a, b, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)

        return run

    return [
        ("torch._scaled_mm, scales of 128", False, blocks),
        ("torch._scaled_mm with one scale, which does less", True, one),
    ]


def backends() -> list:
    from torch.nn.attention import SDPBackend

    if not torch.cuda.is_available():
        return [("torch sdpa", SDPBackend.FLASH_ATTENTION)]
    return [("torch sdpa cuDNN", SDPBackend.CUDNN_ATTENTION), ("torch sdpa flash", SDPBackend.FLASH_ATTENTION)]


def attended(problem: Problem, backend, tensors: dict):
    from torch.nn.attention import sdpa_kernel

    heads, kv = problem.sizes["heads"]
    if len(set(problem.sizes["lengths"])) > 1 or problem.sizes["window"] or problem.sizes["softcap"]:
        raise Absent("no such options here")
    with sdpa_kernel(backend):
        q, k, v = (tensors[name] for name in "qkv")
        causal = problem.sizes["causal"]
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != kv)


def flash(name: str, function: str):
    """A function of a `flash-attn` that is here."""
    import importlib

    return getattr(importlib.import_module(name), function)


FLASHES = [("flash-attn 4", "flash_attn.cute"), ("flash-attn 3", "flash_attn_interface"), ("flash-attn 2", "flash_attn")]


def first(out):
    return out[0] if isinstance(out, tuple) else out


def torch_varlen(problem: Problem):
    """torch's attention of packed entries, by the words that this version of it knows."""
    from torch.nn.attention.varlen import varlen_attn

    known, (heads, kv) = inspect.signature(varlen_attn).parameters, problem.sizes["heads"]
    words = {}
    if problem.sizes["causal"]:
        causal = {"window_size": (-1, 0), "is_causal": True}
        word = next((word for word in causal if word in known), None)
        if word is None:
            raise Absent(f"varlen_attn takes none of {', '.join(causal)}")
        words[word] = causal[word]
    if heads != kv and "enable_gqa" in known:
        words["enable_gqa"] = True
    return lambda qkv, ends, longest: first(varlen_attn(*qkv, ends, ends, longest, longest, **words))


def attention_peers(problem: Problem) -> list:
    packed, causal = problem.sizes["packed"], problem.sizes["causal"]
    if packed:
        return packed_peers(problem)

    def torch_peer(backend):
        return lambda: lambda i: attended(problem, backend, problem.copies[i])

    def flash_peer(module: str):
        def make():
            on_cuda(problem)
            call = flash(module, "flash_attn_func")
            # [batch, sequence, head, dim] in memory, as it wants them.
            turned = problem.each(lambda c: [c[name].transpose(1, 2).contiguous() for name in "qkv"])
            return lambda i: first(call(*turned[i], causal=causal)).transpose(1, 2)

        return make

    peers = [(name, False, torch_peer(backend)) for name, backend in backends()]
    return peers + [(name, False, flash_peer(module)) for name, module in FLASHES]


def packed_peers(problem: Problem) -> list:
    lengths = [rows for rows, _ in problem.sizes["packed"]]

    def prepared():
        total = [0]
        for length in lengths:
            total.append(total[-1] + length)
        ends = torch.tensor(total, dtype=torch.int32, device=problem.device)
        # [total, head, dim].
        turned = problem.each(lambda c: [c[name][0].transpose(0, 1).contiguous() for name in "qkv"])
        return turned, ends, max(lengths)

    def torch_peer():
        on_cuda(problem)
        call, (turned, ends, longest) = torch_varlen(problem), prepared()
        return lambda i: call(turned[i], ends, longest).transpose(0, 1)

    def flash_peer(module: str):
        def make():
            on_cuda(problem)
            call = flash(module, "flash_attn_varlen_func")
            turned, ends, longest = prepared()
            words = {"cu_seqlens_q": ends, "cu_seqlens_k": ends, "max_seqlen_q": longest, "max_seqlen_k": longest}
            words["causal"] = problem.sizes["causal"]
            return lambda i: first(call(*turned[i], **words)).transpose(0, 1)

        return make

    peers = [("torch varlen_attn", False, torch_peer)]
    return peers + [(name, False, flash_peer(module)) for name, module in FLASHES]


def backward_peers(problem: Problem) -> list:
    """Each makes its graph forward once, untimed; what is timed are the gradients of all three."""
    causal = problem.sizes["causal"]

    def gradients(forward):
        """`forward` gives an output of leaves, and how the output's gradient and theirs lie."""

        def graph(copy: dict):
            out, leaves, laid, back = forward(copy)
            return out, leaves, laid(copy["d_out"]), back

        graphs = problem.each(graph)

        def run(i: int):
            out, leaves, gradient, back = graphs[i]
            return tuple(map(back, torch.autograd.grad(out, leaves, gradient, retain_graph=True)))

        return run

    def leaves_of(tensors: list) -> tuple:
        return tuple(tensor.detach().requires_grad_() for tensor in tensors)

    def torch_peer(backend):
        def forward(copy: dict):
            leaves = leaves_of([copy[name] for name in "qkv"])
            return attended(problem, backend, dict(zip("qkv", leaves))), leaves, lambda x: x, lambda x: x

        return lambda: gradients(forward)

    def flash_peer(module: str):
        def make():
            on_cuda(problem)
            call = flash(module, "flash_attn_func")

            # [batch, sequence, head, dim] in memory, as it wants them.
            def turned(x):
                return x.transpose(1, 2).contiguous()

            def forward(copy: dict):
                leaves = leaves_of([turned(copy[name]) for name in "qkv"])
                return first(call(*leaves, causal=causal)), leaves, turned, lambda x: x.transpose(1, 2)

            return gradients(forward)

        return make

    def packed_peer(name: str, make_call):
        def make():
            on_cuda(problem)
            call = make_call()
            total = [0]
            for length, _ in problem.sizes["packed"]:
                total.append(total[-1] + length)
            ends = torch.tensor(total, dtype=torch.int32, device=problem.device)
            longest = max(length for length, _ in problem.sizes["packed"])

            # [total, head, dim].
            def turned(x):
                return x[0].transpose(0, 1).contiguous()

            def forward(copy: dict):
                leaves = leaves_of([turned(copy[name]) for name in "qkv"])
                return first(call(leaves, ends, longest)), leaves, turned, lambda x: x.transpose(0, 1)

            return gradients(forward)

        return (name, False, make)

    def flash_packed(module: str):
        def make():
            call = flash(module, "flash_attn_varlen_func")

            def run(qkv, ends, longest):
                words = {"cu_seqlens_q": ends, "cu_seqlens_k": ends, "max_seqlen_q": longest, "max_seqlen_k": longest}
                return call(*qkv, causal=causal, **words)

            return run

        return make

    if problem.sizes["packed"]:
        peers = [packed_peer("torch varlen_attn", lambda: torch_varlen(problem))]
        return peers + [packed_peer(name, flash_packed(module)) for name, module in FLASHES]
    peers = [(name, False, torch_peer(backend)) for name, backend in backends()]
    return peers + [(name, False, flash_peer(module)) for name, module in FLASHES]


def copied(problem: Problem, moved: list):
    """A copy that moves so many bytes, half of them read and half written, of each copy of the operands."""
    pairs = [[torch.empty(n // 2, dtype=torch.uint8, device=problem.device) for _ in range(2)] for n in moved]

    def run(i: int):
        pairs[i][0].copy_(pairs[i][1])

    return run


def decode_peers(problem: Problem) -> list:
    def read():
        def run(i: int):
            for name in "kv":
                # Wide words: the sum means nothing, every byte is read once.
                problem.copies[i][name].view(torch.float32).sum()

        return run

    def paged():
        on_cuda(problem)
        call = flash("flash_attn_interface", "flash_attn_with_kvcache")
        turned = problem.each(lambda c: [c[name].transpose(1, 2).contiguous() for name in "qkv"])

        def run(i: int):
            copy = problem.copies[i]
            words = {"cache_seqlens": copy["lens"], "page_table": copy["pages"], "causal": True}
            return first(call(*turned[i], **words)).transpose(1, 2)

        return run

    def copy():
        return copied(problem, [c["k"].nbytes + c["v"].nbytes for c in problem.copies])

    return [
        ("torch.sum of the same bytes", False, read),
        ("a copy of as many bytes", False, copy),
        ("flash-attn 3", False, paged),
    ]


def turned_by(c: dict):
    """A rotary embedding by its formula; heads of a token lie next to one another, as ours."""
    x, position = c["x"], c["position"]
    half = x.shape[3] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = position[0][:, None].float() * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)

    def run():
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=3).permute(0, 2, 1, 3)

    return run


def quantized(c: dict):
    x = c["x"]
    rows, columns = x.shape
    width = min(columns, 128)

    def run():
        blocks = x.view(rows, columns // width, width).float()
        scale = blocks.abs().amax(2, keepdim=True) / 448
        return (blocks / scale).to(torch.float8_e4m3fn).view(rows, columns), scale

    return run


def scattered(c: dict):
    x, index, out = c["x"], c["index"].long(), torch.empty_like(c["x"])
    return lambda: out.index_copy_(0, index, x)


def row_peers(problem: Problem) -> list:
    import torch.nn.functional as F

    # A function of a copy's tensors; those that prepare something are made of them first.
    calls = {
        "copy": lambda c: torch.clone(c["x"]),
        "turn": lambda c: c["x"].contiguous(),
        "silu": lambda c: F.silu(c["x"]),
        "add": lambda c: c["x"] + c["y"],
        "rms_norm": lambda c: F.rms_norm(c["x"], (c["x"].shape[1],), c["weight"], 1e-5),
        "softmax": lambda c: c["x"].softmax(1),
        "sum": lambda c: c["x"].sum(1, dtype=torch.float32),
        "gather": lambda c: c["table"].index_select(0, c["index"]),
        # Of equal elements ours is the first, theirs is any: indices are not held against ours.
        "arg_max": lambda c: (None, c["x"].argmax(1)),
        "top_k": lambda c: (c["x"].topk(min(64, c["x"].shape[1]), 1)[0], None),
    }
    prepared = {"rope": turned_by, "quantize": quantized, "scatter": scattered}
    function = problem.sizes["function"]

    def bound(c: dict):
        if function in prepared:
            return prepared[function](c)
        return lambda: calls[function](c)

    def call():
        runs = problem.each(bound)
        return lambda i: runs[i]()

    def copy():
        # As many as ours moves: what it reads, and outputs as large as its own.
        return copied(problem, [sum(t.nbytes for t in c.values()) + problem.written for c in problem.copies])

    return [(f"torch {function}", False, call), ("a copy of as many bytes", False, copy)]


PEERS = {
    "matmul": product_peers,
    "grouped": grouped_peers,
    "scaled": scaled_peers,
    "attention": attention_peers,
    "backward": backward_peers,
    "decode": decode_peers,
    "rows": row_peers,
}


def told(name: str, version) -> str:
    """A library with its version, for the report: one that cannot tell it takes no peer away."""
    try:
        return f"{name} {version()}"
    except Exception as error:
        return f"{name}, version unknown: {type(error).__name__}: {error}"[:200]


def libraries() -> list:
    known = [("cuDNN", torch.backends.cudnn.version), ("cuBLASLt", cublas.version)]
    return [f"CUDA {torch.version.cuda}", *(told(*one) for one in known)]


class Answers:
    """Answers requests, one problem at a time."""

    def __init__(self, device: str):
        # A graphics adapter's peer is CUDA on the same card.
        cuda = torch is not None and torch.cuda.is_available() and not device.startswith("cpu")
        self.device = (device if device.startswith("cuda") else "cuda:0") if cuda else "cpu"
        self.problem = None
        if cuda:
            torch.cuda.set_device(self.device)

    def hello(self) -> dict:
        if torch is None:
            return {"not_run": WHY_NOT}
        cuda = self.device != "cpu"
        return {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "clock": "CUDA events" if cuda else "host clock",
            "libraries": libraries() if cuda else [],
        }

    def host(self, elements: int, count: int) -> list:
        """Seconds of one small op, a sample each."""
        x = torch.ones(elements, device=self.device)
        samples = []
        for _ in range(HOST_BATCHES):
            begin = time.perf_counter()
            for _ in range(count):
                torch.relu_(x)
            synchronize(self.device)
            samples.append((time.perf_counter() - begin) / count)
        return samples

    def answer(self, request: dict, operands: list) -> dict:
        what = request["do"]
        if what == "hello":
            return self.hello()
        if what == "load":
            self.problem = None
            self.problem = Problem(request, operands, self.device)
            return {"peers": self.problem.offers}
        if what == "time":
            return {"seconds": self.problem.seconds(request["peer"], request["runs"])}
        if what == "values":
            return {"values": self.problem.values(request["peer"], request["output"], request["at"])}
        if what == "host":
            return {"samples": self.host(request["elements"], request["count"])}
        self.problem = None
        if self.device != "cpu":
            torch.cuda.empty_cache()
        return {}


ANSWER = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.c_uint64,
    ctypes.c_void_p,
    ctypes.c_uint64,
)


def operand(place, length: int):
    """Bytes where they lie; of none the address means nothing."""
    kind = ctypes.c_uint8 * length
    return kind.from_address(place) if length else kind()


def main() -> int:
    if len(sys.argv) < 4 or "--device" not in sys.argv:
        print(__doc__, file=sys.stderr)
        return 2
    words = sys.argv[1:]
    answers = Answers(words[words.index("--device") + 1])

    def answer(request, places, lens, count, reply, room) -> int:
        try:
            # Nothing of an operand is copied here.
            operands = [operand(places[i], lens[i]) for i in range(count)]
            said = answers.answer(json.loads(request), operands)
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"[:1000]}
        text = json.dumps(said).encode()
        if len(text) > room:
            return -1
        ctypes.memmove(reply, text, len(text))
        return len(text)

    check = ctypes.CDLL(words[0]).leasehold_check
    check.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p), ANSWER]
    strings = (ctypes.c_char_p * len(words))(*[word.encode() for word in words])
    return check(len(words), strings, ANSWER(answer))


if __name__ == "__main__":
    sys.exit(main())
