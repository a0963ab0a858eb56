"""What the speed comparisons say of the machine and how they time. Import it before numpy and torch."""

import os
import statistics
import time

# On some machines these pick an old kernel for numpy; a comparison must not run with a slowed peer.
for name in [name for name in os.environ if name.startswith("OPENBLAS_")]:
    del os.environ[name]


def describe(torch) -> dict:
    """The processor as the system and PyTorch see it."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "threads": torch.get_num_threads(),
    }


def seconds(call, runs: int, warm_up: int = 2) -> dict:
    """Seconds of one call: median, best and worst of `runs`, after a warm-up."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {"median": statistics.median(times), "best": min(times), "worst": max(times)}
