"""Ray: one task for each partition, tried again if it fails or its node is lost.

    python ray_driver.py 16 quantize my-model -o out --for vllm --scheme W8A8

Source and output lie on a file system that all nodes share.
"""
import subprocess
import sys

import ray

# max_retries counts lost workers, retry_exceptions adds failing commands.
@ray.remote(num_cpus=1, max_retries=3, retry_exceptions=True)
def make(partition, words):
    command = ["quantscope", *words, "--partition", partition, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"partition {partition}: {done.stderr.strip()}")
    return done.stdout


def main():
    count, words = int(sys.argv[1]), sys.argv[2:]
    out = words[words.index("-o") + 1]
    ray.init(address="auto")
    pending = [make.remote(f"{index}/{count}", words) for index in range(1, count + 1)]
    failed = 0
    while pending:
        done, pending = ray.wait(pending)
        try:
            print(ray.get(done[0]).splitlines()[0], flush=True)
        except ray.exceptions.RayError as error:
            print(error, file=sys.stderr, flush=True)
            failed += 1
    if failed:
        sys.exit(f"{failed} of {count} partitions failed; the same command makes them")
    subprocess.run(["quantscope", "join", out], check=True)


main()
