"""Checks of `tests/distributed/run`: shares of real engines against the output of one machine.

    check.py MODEL ENGINE [ENGINE ...]
"""

import filecmp
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time

from engines import ENGINES, NODES, kill_worker, until, workers

ROOT = os.environ["WORK"]
OUT, SINGLE = os.path.join(ROOT, "out"), os.path.join(ROOT, "single")
COUNTS = [1, 3, 7, 16, 40]
KILLS = int(os.environ.get("KILLS", "100"))
CHECKS = os.environ.get("CHECKS", "bytes twice node disk kills").split()
MOE = os.path.abspath("tests/data/saving/moe-int8-experts/mixtral")


def timed(command):
    start = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}:\n{run.stderr}")
    return time.monotonic() - start


def write_moe(directory, shards=5):
    """A mixture of experts, of BF16 tensors in several shards."""
    with open(os.path.join(MOE, "tensors.json")) as file:
        shapes = json.load(file)
    os.makedirs(directory, exist_ok=True)
    shutil.copy(os.path.join(MOE, "config.json"), directory)
    draw, map_of_weights = random.Random(26), {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header, data = {}, bytearray()
        for tensor, shape in list(shapes.items())[shard::shards]:
            elements = 1
            for length in shape:
                elements *= length
            start = len(data)
            for _ in range(elements):
                data += struct.pack("<f", draw.gauss(0, 0.02))[2:]
            offsets = [start, len(data)]
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
            map_of_weights[tensor] = name
        text = json.dumps(header).encode()
        with open(os.path.join(directory, name), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + data)
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {}, "weight_map": map_of_weights}, file)


def files_of(directory):
    for place, _, names in os.walk(directory):
        for name in names:
            yield os.path.relpath(os.path.join(place, name), directory)


class Work:
    """A conversion that is done by one machine first, and then by engines."""

    def __init__(self, name, model, options):
        self.name, self.model, self.options = name, model, options
        self.single = f"{SINGLE}-{name}"
        shutil.rmtree(self.single, ignore_errors=True)
        command = ["quantscope", "quantize", model, "-o", self.single, *options, "--quiet"]
        print(f"{name}: one machine {timed(command):.1f} s", flush=True)

    def words(self, out):
        return ["quantize", self.model, "-o", out, *self.options, "--threads", "1"]

    def join(self, out, what):
        """Joins, unless the engine's driver did, and compares every byte."""
        seconds = 0.0 if os.path.isdir(out) else timed(["quantscope", "join", out, "--quiet"])
        expected, found = sorted(files_of(self.single)), sorted(files_of(out))
        if expected != found or os.path.exists(f"{out}.partial"):
            sys.exit(f"FAILED {what}: expected {expected}, found {found}")
        for name in expected:
            if not filecmp.cmp(os.path.join(self.single, name), os.path.join(out, name), shallow=False):
                sys.exit(f"FAILED {what}: {name} differs")
        shutil.rmtree(out)
        return seconds


def finish(run, what, seconds=600):
    until(lambda: run.poll() is not None, seconds, what)


def finished(out):
    try:
        return [name for name in os.listdir(f"{out}.partial") if not name.startswith(".")]
    except OSError:
        return []


def complete(engine, work, out, count, what):
    """Starts runs until nothing is missing, as somebody does who reads what `join` says. Returns
    the number of runs."""
    for again in range(20):
        if os.path.isdir(out) or len(finished(out)) == count:
            return again
        join = subprocess.run(["quantscope", "join", out, "--quiet"], capture_output=True, text=True)
        named = "missing" in join.stderr or "no finished share" in join.stderr or "does not exist" in join.stderr
        if join.returncode == 0 or not named:
            sys.exit(f"FAILED {what}: join says {join.stderr!r}")
        finish(engine.submit(f"again-{what}", count, work.words(out)), what)
    sys.exit(f"FAILED {what}: not complete after 20 runs")


def equal_bytes(engine, name, works):
    for work in works:
        for count in COUNTS:
            start = time.monotonic()
            finish(engine.submit(f"{work.name}-{count}", count, work.words(OUT)), name)
            made = time.monotonic() - start
            again = complete(engine, work, OUT, count, name)
            joined = work.join(OUT, f"{name}, {work.name}, {count} partitions")
            notes = "" if again == 0 else f", {again} more runs"
            print(
                f"{name}, {work.name}, {count} partitions: {made:.1f} s, join {joined:.1f} s, "
                f"same bytes{notes}",
                flush=True,
            )


def twice_at_once(engine, name, work):
    runs = [engine.submit(f"twice-{k}", 5, work.words(OUT)) for k in (1, 2)]
    for run in runs:
        finish(run, f"{name} twice")
    again = complete(engine, work, OUT, 5, f"{name} twice")
    work.join(OUT, f"{name} twice")
    # A worker that is late begins a directory after the first driver has joined.
    shutil.rmtree(f"{OUT}.partial", ignore_errors=True)
    print(f"{name}: each of 5 partitions run twice at once: same bytes, {again} more runs", flush=True)


def lost_node(engine, name, work):
    run = engine.submit("lost", 7, work.words(OUT))

    def busy_node():
        running = workers(OUT)
        for node, process in engine.nodes.items():
            namespace = os.readlink(f"/proc/{process.pid}/ns/pid_for_children")
            for worker in running:
                try:
                    if os.readlink(f"/proc/{worker}/ns/pid") == namespace:
                        return node
                except OSError:
                    continue
        return None

    node = until(busy_node, 60, f"{name}: no worker on a node")
    time.sleep(0.3)
    engine.lose_node(node)
    start = time.monotonic()
    finish(run, f"{name} without a node")
    seconds = time.monotonic() - start
    again = complete(engine, work, OUT, 7, f"{name} without a node")
    work.join(OUT, f"{name} without a node")
    engine.start_node(node)
    print(
        f"{name}: node {node} of {NODES} lost at work, complete {seconds:.1f} s later, same bytes, "
        f"{again} more runs",
        flush=True,
    )


def random_kills(engine, name, work, kills):
    left, rounds, again = kills, 0, 0
    while left > 0:
        ended = threading.Event()
        run = engine.submit(f"kills-{rounds}", 7, work.words(OUT))

        def kill():
            nonlocal left
            while left > 0 and not ended.is_set():
                time.sleep(random.uniform(0.05, 0.6))
                left -= kill_worker(OUT)

        killer = threading.Thread(target=kill)
        killer.start()
        finish(run, f"{name} with kills")
        again += complete(engine, work, OUT, 7, f"{name} with kills")
        ended.set()
        killer.join()
        work.join(OUT, f"{name} with kills")
        rounds += 1
    print(
        f"{name}: {kills} workers killed at random in {rounds} saves, same bytes every time, "
        f"{again} more runs",
        flush=True,
    )


def small_disk(work):
    """Mounts a file system with little more room than a save and its fragments take. The nodes
    see only what is mounted when they start."""
    place = os.path.join(ROOT, "small")
    os.makedirs(place, exist_ok=True)
    written = sum(os.path.getsize(os.path.join(work.single, n)) for n in files_of(work.single))
    size = 2 * written + (64 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    return place


def full_disk(engine, name, work, place):
    """The file system of the output has room for half of the partitions, until some have failed."""
    out, filler = os.path.join(place, "out"), os.path.join(place, "filler")
    written = sum(os.path.getsize(os.path.join(work.single, n)) for n in files_of(work.single))
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free - written // 2)
    run = engine.submit("full", 7, work.words(out))
    until(lambda: finished(out), 300, f"{name}: no partition on a small disk")
    # A retry waits for some seconds at most.
    until_idle(out, 4)
    held = len(finished(out))
    if held == 7 or os.path.isdir(out):
        sys.exit(f"FAILED {name} on a full disk: nothing failed")
    os.remove(filler)
    finish(run, f"{name} on a full disk")
    again = complete(engine, work, out, 7, f"{name} on a full disk")
    work.join(out, f"{name} on a full disk")
    print(
        f"{name}: disk full after {held} of 7 partitions, then emptied: same bytes, "
        f"{again} more runs",
        flush=True,
    )


def until_idle(out, seconds):
    """Waits until no worker ran for some time."""
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < seconds:
        if workers(out):
            idle_since = time.monotonic()
        time.sleep(0.02)


def check(engine, name, works, small, kills):
    large = works[0]
    try:
        engine.start()
        if "bytes" in CHECKS:
            equal_bytes(engine, name, works)
        if "twice" in CHECKS:
            twice_at_once(engine, name, large)
        if "node" in CHECKS and engine.nodes:
            lost_node(engine, name, large)
        if "disk" in CHECKS and small:
            full_disk(engine, name, large, small)
        if "kills" in CHECKS:
            random_kills(engine, name, large, kills)
    finally:
        engine.stop()


def main():
    model, *wanted = sys.argv[1:]
    is_root = os.getuid() == 0
    engines = []
    for name in wanted or ENGINES:
        needs_root = name != "parallel" and not is_root
        missing = "needs root" if needs_root else ENGINES[name].missing()
        if missing is None:
            engines.append(name)
        elif wanted:
            sys.exit(f"{name}: {missing}")
        else:
            print(f"not checked: {name}: {missing}")
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.rmtree(f"{OUT}.partial", ignore_errors=True)
    moe = os.path.join(ROOT, "moe")
    write_moe(moe)
    large = Work("large", model, ["--scheme", "per-channel"])
    works = [large, Work("moe", moe, ["--for", "transformers", "--scheme", "W8A16"])]
    small = small_disk(large) if is_root else None
    try:
        for number, name in enumerate(engines):
            kills = KILLS * (number + 1) // len(engines) - KILLS * number // len(engines)
            check(ENGINES[name](os.path.join(ROOT, name)), name, works, small, kills)
    finally:
        if small:
            subprocess.run(["umount", "--lazy", small], check=True)


main()
