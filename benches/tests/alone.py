"""What of the check's Python side needs no card, beside a PyTorch of a few words. `check.rs` runs it with the folder of the
check."""

import ctypes
import itertools
import sys
import types
import warnings

ran = []


class Event:
    """Tells time by runs: a run takes two milliseconds, and the device holds four of them."""

    def __init__(self, enable_timing):
        self.at = None

    def record(self):
        self.at = len(ran)

    def query(self):
        return len(ran) - self.at > 4

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 2.0 * (end.at - self.at)


torch = types.ModuleType("torch")
torch.cuda = types.SimpleNamespace(Event=Event, _sleep=lambda cycles: None)
torch.float32, torch.float16, torch.bfloat16 = "float32", "float16", "bfloat16"
sys.modules["torch"] = torch
sys.path.insert(0, sys.argv[1])

import cublas
import peers


def results_lie_as_the_header_says():
    of = cublas.Result
    assert [ctypes.sizeof(of), of.workspace.offset, of.state.offset] == [96, 64, 72]


def a_host_is_asked_for_no_more_runs_than_it_enqueues_in_time():
    seconds = peers.held_seconds(ran.append, 16, 1)
    assert abs(seconds - 16 * 0.002) < 1e-9
    assert len(ran) == 16 + 8 + 4


def a_row_major_product_is_a_column_major_one():
    m, n, k = 2, 3, 4
    by_rows = lambda columns: lambda i, j: i * columns + j
    by_columns = lambda rows: lambda i, j: j * rows + i
    for turned in itertools.product([False, True], repeat=2):
        a = by_columns(m) if turned[0] else by_rows(k)
        b = by_columns(k) if turned[1] else by_rows(n)
        first, second, out = cublas.matrices({"size": [m, n, k], "turned": turned})
        at = lambda of, i, j: of[0] * i + j if of[2] else of[0] * j + i
        for i, j, l in itertools.product(range(m), range(n), range(k)):
            assert [at(first, j, l), at(second, l, i), at(out, j, i)] == [b(l, j), a(i, l), i * n + j], turned


def an_algorithm_that_is_refused_leaves_the_others():
    seconds = {"slow": 2.0, "fast": 1.0}

    class Product:
        algorithms = ["refused", "slow", "fast"]

        def __call__(self, algorithm):
            if algorithm == "refused":
                raise RuntimeError(algorithm)
            self.last = algorithm

    product = Product()

    def timed(run):
        run(7)
        return seconds[product.last]

    assert cublas.fastest([product] * 3, timed) == ("fast", "algorithm 2 of 3")
    product.algorithms = ["refused"]
    try:
        cublas.fastest([product], timed)
    except RuntimeError as error:
        assert str(error) == "refused"
    else:
        raise AssertionError("no algorithm ran")


def the_reason_of_a_warning_is_kept():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for text in ["cuDNN kernel not used because:", "Flash has been runtime disabled.", "too wide"]:
            warnings.warn(text + " (Triggered internally at x.cpp:1.)")
    assert peers.why(RuntimeError("none\nmore"), said) == "RuntimeError: none; too wide"


def a_library_that_cannot_tell_its_version_is_told():
    def fails():
        raise OSError("gone")

    assert peers.told("cuDNN", fails) == "cuDNN, version unknown: OSError: gone"


results_lie_as_the_header_says()
a_host_is_asked_for_no_more_runs_than_it_enqueues_in_time()
a_row_major_product_is_a_column_major_one()
an_algorithm_that_is_refused_leaves_the_others()
the_reason_of_a_warning_is_kept()
a_library_that_cannot_tell_its_version_is_told()
