"""Dask: one task for each partition, tried again if it fails or its worker is lost.

    python dask_driver.py tcp://scheduler:8786 16 quantize my-model -o out --for vllm

Source and output lie on a file system that all workers share.
"""
import subprocess
import sys

from distributed import Client, as_completed


def make(partition, words):
    command = ["quantscope", *words, "--partition", partition, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"partition {partition}: {done.stderr.strip()}")
    return done.stdout


def main():
    address, count, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    out = words[words.index("-o") + 1]
    with Client(address) as client:
        partitions = [f"{index}/{count}" for index in range(1, count + 1)]
        # pure=False: tasks with equal arguments are not merged.
        pending = client.map(make, partitions, words=words, retries=3, pure=False)
        failed = 0
        for done in as_completed(pending):
            if done.exception() is None:
                print(done.result().splitlines()[0], flush=True)
            else:
                print(done.exception(), file=sys.stderr, flush=True)
                failed += 1
    if failed:
        sys.exit(f"{failed} of {count} partitions failed; the same command makes them")
    subprocess.run(["quantscope", "join", out], check=True)


main()
