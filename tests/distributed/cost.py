"""Time of a shared save, computed from costs that are measured here.

    cost.py QUANTSCOPE MODEL HEADERS [BYTES_IN_TB]

MODEL is a model of some GiB in several shards, as `generate MODEL --bytes 4GiB --tensors 600
--shards 16` makes it. HEADERS has many tensors without data, `generate HEADERS --bytes 1400GiB
--tensors 100000 --shards 200 --sparse`. Prints what one machine and two workers cost, and the time
of BYTES_IN_TB (default 1.4) over 1 to 256 workers against the read bandwidth of their storage.

The time of a worker is that of planning, and the longer one of computing and of reading its share
from the storage twice, once to write and once to verify, and its own output twice. All workers
share the storage's bandwidth; writing is as fast as reading. `join` plans, and reads the output
once to compare it with the digests.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile

GB = 1e9
WORKERS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
# Bytes a second of all storage, and of the link of one worker.
STORAGE, LINK = [1 * GB, 5 * GB, 20 * GB, 100 * GB], 3 * GB
THREADS = 16


def cpu_seconds(command):
    """CPU time of a command, which other programs disturb less than the time that passes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def bytes_of(directory):
    return sum(entry.stat().st_size for entry in os.scandir(directory))


def main():
    quantscope, model, headers = sys.argv[1:4]
    total = float(sys.argv[4] if len(sys.argv) > 4 else 1.4) * 1e12
    work = tempfile.mkdtemp(dir=os.path.dirname(os.path.abspath(model)))
    try:
        out = os.path.join(work, "out")
        quantize = [quantscope, "quantize", model, "-o", out, "--scheme", "per-channel", "--quiet"]
        single = cpu_seconds(quantize)
        shutil.rmtree(out)
        workers = sum(
            cpu_seconds([*quantize, "--threads", "1", "--partition", f"{k}/2"]) for k in (1, 2)
        )
        joined = cpu_seconds([quantscope, "join", out, "--quiet"])
        ratio = bytes_of(out) / bytes_of(model)
        # The share of one tensor among 100,000 is hardly more than planning.
        words = [quantscope, "quantize", headers, "-o", f"{out}-plan", "--scheme", "per-channel"]
        plan = cpu_seconds([*words, "--quiet", "--partition", "50000/100000"])
    finally:
        shutil.rmtree(work)
    gib = bytes_of(model) / 2**30
    print(f"one machine, {gib:.1f} GiB: {single:.2f} CPU seconds")
    print(f"two workers: {workers:.2f}, join: {joined:.2f}, together {(workers + joined) / single - 1:+.1%}")
    print(f"planning {len(os.listdir(headers)) - 1} shards: {plan:.2f} CPU seconds")

    per_byte, join_per_byte = workers / bytes_of(model), joined / bytes_of(model)
    print(f"{workers / gib:.2f} CPU seconds for each GiB, output {ratio:.0%} of the source")
    print(f"minutes for {total / 1e12:g} TB, {THREADS} threads and {LINK / GB:g} GB/s for each worker, storage of")
    print("workers  " + "".join(f"{bandwidth / GB:>8g} GB/s" for bandwidth in STORAGE))
    for count in WORKERS:
        times = []
        for bandwidth in STORAGE:
            share = total / count
            moved = share * (2 + 3 * ratio) / min(LINK, bandwidth / count)
            made = max(share * per_byte / THREADS, moved)
            joined = max(total * join_per_byte / THREADS, total * ratio / min(LINK, bandwidth))
            times.append((2 * plan + made + joined) / 60)
        print(f"{count:>7}  " + "".join(f"{minutes:>13.1f}" for minutes in times))


main()
