"""Checks of `tests/remote/run`: nginx as the Hub's CDN, moto and s3s-fs as S3.

    real_servers.py QUANTSCOPE ENVIRONMENT
"""

import hashlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

import boto3

QUANTSCOPE, ENVIRONMENT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
TREE = os.path.abspath("tests/data/tiny-llama")
HERE = os.path.dirname(os.path.abspath(__file__))
TOKEN, SECRET = "hf_test_token", "a secret of the CDN"
KILLS = int(os.environ.get("KILLS", "50"))
MODEL_MB = int(os.environ.get("MODEL_MB", "256"))
# Bytes a second of one connection to the CDN where speed is measured, and connections of curl.
RATE, PARALLEL = int(os.environ.get("RATE_MB", "8")) << 20, 8
failed = []


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(host, port):
    for _ in range(100):
        try:
            return socket.create_connection((host, port), 1).close()
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing listens on {host}:{port}")


def check(name, is_right, detail=""):
    print(f"{'ok' if is_right else 'FAILED':6} {name}{': ' if detail else ''}{detail}", flush=True)
    if not is_right:
        failed.append(name)


class Servers:
    """The Hub, its CDN on another address, and the S3 servers."""

    def __init__(self, root):
        self.root, self.processes = root, []
        self.hub, self.cdn = free_port(), free_port()
        self.log = os.path.join(root, "cdn.log")

    def start(self, arguments, port, host="127.0.0.1", **environment):
        log = open(os.path.join(self.root, f"{port}.log"), "w")
        self.processes.append(
            subprocess.Popen(
                arguments, stdout=log, stderr=log, env={**os.environ, **environment}
            )
        )
        wait_for(host, port)

    def start_hub(self, models):
        cdn = f"http://127.0.0.2:{self.cdn}"
        arguments = [sys.executable, os.path.join(HERE, "hub.py"), str(self.hub), models, cdn, SECRET]
        self.start(arguments, self.hub)
        temporary = " ".join(
            f"{kind}_temp_path {self.root}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = f"""
            daemon off; pid {self.root}/nginx.pid; error_log {self.root}/error.log; worker_processes 2;
            {"user root;" if os.getuid() == 0 else ""}
            events {{ worker_connections 256; }}
            http {{
                log_format bytes '$uri $status $body_bytes_sent';
                access_log {self.log} bytes; {temporary} sendfile on;
                server {{
                    listen 127.0.0.2:{self.cdn}; root {models}/org;
                    secure_link $arg_Signature,$arg_Expires;
                    secure_link_md5 "$secure_link_expires$uri {SECRET}";
                    if ($secure_link = "") {{ return 403; }}
                    if ($secure_link = "0") {{ return 410; }}
                    location /slow/ {{ limit_rate 200k; }}
                    location /paced/ {{ limit_rate {RATE}; }}
                    location /drop/ {{ return 444; }}
                }}
            }}"""
        path = os.path.join(self.root, "nginx.conf")
        with open(path, "w") as file:
            file.write(config)
        nginx = ["nginx", "-p", self.root, "-e", f"{self.root}/error.log", "-c", path]
        self.start(nginx, self.cdn, "127.0.0.2")

    def cdn_bytes(self):
        with open(self.log) as log:
            return sum(int(line.split()[2]) for line in log)

    def stop(self):
        for process in self.processes:
            process.terminate()
            process.wait()


class Program:
    """The program with a home of its own and these environment variables."""

    def __init__(self, home, **variables):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "HF_"))}
        own = {"HOME": home, "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home, "HF_HOME": home}
        self.environment = {**kept, **own, **variables}

    def start(self, *arguments):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([QUANTSCOPE, *arguments], env=self.environment, **pipes)

    def run(self, *arguments):
        process = self.start(*arguments)
        output, said = process.communicate()
        return process.returncode, output, said


def without_paths(text):
    """A document without what names the place it was read from."""

    def strip(value):
        if isinstance(value, dict):
            names = ("path", "model", "checkpoint", "file", "notes")
            return {k: strip(v) for k, v in value.items() if k not in names}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return json.dumps(strip(json.loads(text)))


def digest(path):
    """The digest of a file, or of all files of a directory."""
    found = hashlib.sha256()
    if os.path.isfile(path):
        with open(path, "rb") as file:
            found.update(file.read())
        return found.hexdigest()
    for folder, _, names in sorted(os.walk(path)):
        for name in sorted(names):
            file = os.path.join(folder, name)
            found.update(os.path.relpath(file, path).encode())
            found.update(digest(file).encode())
    return found.hexdigest()


def write_model(path, megabytes):
    """A safetensors file of BF16 matrices of 8 MiB."""
    size, header = 8 << 20, {}
    for number in range(megabytes // 8):
        offsets = [number * size, (number + 1) * size]
        shape = [2048, 2048]
        header[f"layers.{number}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # Exponents of ordinary weights, so that everything is finite.
    low, high = random.randbytes(size // 2), random.choices(b"\x3b\x3c\xbb\xbc", k=size // 2)
    block = bytes(byte for pair in zip(low, high) for byte in pair)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number in range(megabytes // 8):
            at = (number * 4096) % size
            file.write(block[at:] + block[:at])


def same_documents(program, url, local, label):
    for command in ("inspect", "analyze", "calibrate"):
        status, there, said = program.run(command, url, "--json")
        _, here, _ = program.run(command, local, "--json")
        is_same = status == 0 and without_paths(there) == without_paths(here)
        check(f"{label}: {command} gives the JSON of the local files", is_same, said.strip()[:200])


def same_output(program, url, local, work, label):
    for options in (["--scheme", "per-channel"], ["--for", "vllm"]):
        outputs = [os.path.join(work, side) for side in ("there", "here")]
        for model, out in zip((url, local), outputs):
            shutil.rmtree(out, ignore_errors=True)
            status, _, said = program.run("quantize", model, "-o", out, *options)
            if status:
                check(f"{label}: quantize {options}", False, said.strip()[:200])
        is_same = all(map(os.path.isdir, outputs)) and digest(outputs[0]) == digest(outputs[1])
        check(f"{label}: quantize {' '.join(options)} gives the bytes of the local files", is_same)


def check_hub(servers, program, work):
    for name, local in (("model", "single"), ("sharded", "sharded")):
        same_documents(program, f"hf://org/{name}", f"{TREE}/{local}", f"hub {name}")
        same_output(program, f"hf://org/{name}", f"{TREE}/{local}", work, f"hub {name}")
    for name in ("expiring", "slow", "limited", "renamed"):
        status, _, said = program.run("analyze", f"hf://org/{name}")
        check(f"hub: a repository that is {name} is read", status == 0, said.strip()[:200])
    for name, expected in (
        ("gated", "accept its terms at"),
        ("private", "set HF_TOKEN if it is private"),
        ("absent", "no public model org/absent"),
        ("drop", "cannot reach"),
    ):
        status, _, said = program.run("inspect", f"hf://org/{name}")
        check(f"hub: {name} is refused with a sentence", status == 1 and expected in said, said.strip()[:160])
    home = program.environment["HOME"]
    known = Program(home, HF_ENDPOINT=program.environment["HF_ENDPOINT"], HF_TOKEN=TOKEN)
    for name in ("gated", "private"):
        check(f"hub: the token opens {name}", known.run("inspect", f"hf://org/{name}")[0] == 0)


def check_bytes(servers, program, work, size):
    """Each pass over the data fetches it once."""
    before = servers.cdn_bytes()
    out = os.path.join(work, "once.safetensors")
    status, _, said = program.run("quantize", "hf://org/large", "-o", out)
    # One pass finds what can be quantized, one quantizes.
    fetched = servers.cdn_bytes() - before
    most = 2 * size + (4 << 20)
    detail = f"{fetched / size:.2f} times the source"
    check("hub: quantize fetches the source twice, verification included", status == 0 and fetched <= most, detail)
    os.remove(out)
    before = servers.cdn_bytes()
    status, _, said = program.run("quantize", "hf://org/large", "-o", out)
    fetched = servers.cdn_bytes() - before
    detail = f"{fetched / size:.2f} times the source"
    check("hub: quantized again, it is fetched once", status == 0 and fetched <= size + (4 << 20), detail)
    os.remove(out)
    status, _, said = program.run("quantize", "hf://org/large", "-o", out, "--verify", "full")
    again = servers.cdn_bytes() - before - fetched
    detail = f"{again / size:.2f} times the source"
    check("hub: --verify full fetches it once more", status == 0 and again >= 2 * size - (80 << 20), detail)


def check_kills(program, work, local):
    out, options = os.path.join(work, "killed"), ["--scheme", "per-channel"]
    program.run("quantize", local, "-o", os.path.join(work, "whole"), *options)
    expected = digest(os.path.join(work, "whole"))
    arguments = ["quantize", "hf://org/paced", "-o", out, "--json", *options]
    started = time.monotonic()
    program.run(*arguments)
    whole = time.monotonic() - started
    shutil.rmtree(out)
    killed, resumed, right, completed = 0, 0, True, 0
    while killed < KILLS:
        process = program.start(*arguments)
        time.sleep(whole * random.uniform(0.05, 0.6))
        process.kill()
        process.communicate()
        killed += process.returncode != 0
        if killed % 5 == 0 and not os.path.exists(out):
            status, output, said = program.run(*arguments)
            right &= status == 0
            resumed += "bytes_resumed" in output
        if os.path.exists(out):
            right &= digest(out) == expected
            completed += 1
            shutil.rmtree(out)
    detail = f"{killed} kills, {completed} completed, {resumed} of these went on from what was there"
    check("hub: a killed conversion goes on and ends with the same bytes", right and resumed > 0, detail)


def check_small_disk(program, work, size, local):
    if os.getuid():
        return print("skip   a disk smaller than the source: only root can make one")
    disk = os.path.join(work, "disk")
    os.mkdir(disk)
    megabytes = size * 3 // 4 >> 20
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", disk], check=True)
    try:
        out = os.path.join(disk, "out.safetensors")
        status, _, said = program.run("quantize", "hf://org/large", "-o", out)
        program.run("quantize", local, "-o", os.path.join(work, "local.safetensors"), "--force")
        is_same = status == 0 and digest(out) == digest(os.path.join(work, "local.safetensors"))
        detail = said.strip()[:160] or f"{megabytes} MiB for a source of {size >> 20} MiB"
        check("hub: a conversion on a disk smaller than its source", is_same, detail)
    finally:
        subprocess.run(["umount", disk], check=True)


def check_throughput(servers, program, path):
    """Against curl with as many parallel ranges of the same file, from paced connections."""
    size = os.path.getsize(path)
    link = subprocess.run(
        ["curl", "-s", "-o", os.devnull, "-w", "%{redirect_url}", f"{program.environment['HF_ENDPOINT']}/org/paced/resolve/main/model.safetensors"],
        capture_output=True, text=True, check=True,
    ).stdout
    step = -(-size // PARALLEL)
    started = time.monotonic()
    curls = [
        subprocess.Popen(["curl", "-s", "-o", os.devnull, "-r", f"{at}-{min(at + step, size) - 1}", link])
        for at in range(0, size, step)
    ]
    for process in curls:
        process.wait()
    by_curl = size / (time.monotonic() - started)
    started = time.monotonic()
    process = program.start("calibrate", "hf://org/paced", "--no-cache", "--scheme", "per-tensor")
    process.communicate()
    ours = size / (time.monotonic() - started)
    detail = f"{ours / (1 << 20):.1f} MiB/s, curl with {PARALLEL} ranges {by_curl / (1 << 20):.1f} MiB/s: {ours / by_curl:.0%}"
    check("hub: throughput is at least 90 % of curl's", process.returncode == 0 and ours >= 0.9 * by_curl, detail)


def peak_memory(program, *arguments):
    """MiB that a run of the program takes at most, as the kernel counts it."""
    report = (
        "import resource, subprocess, sys;"
        "status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)"
    )
    command = [sys.executable, "-c", report, QUANTSCOPE, *arguments]
    ended = subprocess.run(command, env=program.environment, capture_output=True, text=True)
    status, peak = map(int, ended.stdout.split())
    return peak if status == 0 else None


def check_memory(program, local):
    there = peak_memory(program, "calibrate", "hf://org/large", "--no-cache")
    here = peak_memory(program, "calibrate", local, "--no-cache")
    is_bounded = there is not None and here is not None and there - here <= 64
    check("hub: memory is bounded", is_bounded, f"{there} MiB, of the local file {here} MiB")


def check_replaced_object(program, client, work):
    """A conversion that was killed does not go on with an object that was replaced meanwhile."""
    files = [os.path.join(work, f"version{number}.safetensors") for number in range(2)]
    out = os.path.join(work, "replaced.safetensors")
    arguments = ["quantize", "s3://models/replaced/model.safetensors", "-o", out, "--force"]
    for file in files:
        write_model(file, 64)
        client.upload_file(file, "models", "replaced/model.safetensors")
        if file == files[0]:
            process = program.start(*arguments)
            time.sleep(1)
            process.kill()
            process.communicate()
    status, _, said = program.run(*arguments)
    local = os.path.join(work, "new.safetensors")
    program.run("quantize", files[1], "-o", local)
    is_right = status == 0 and digest(out) == digest(local)
    check("moto: a replaced object is converted from its beginning", is_right, said.strip()[:160])


def check_s3(name, program, client, work):
    client.create_bucket(Bucket="models")
    for model in ("single", "sharded"):
        for file in os.listdir(f"{TREE}/{model}"):
            client.upload_file(f"{TREE}/{model}/{file}", "models", f"some where/{model}/{file}")
    for model in ("single", "sharded"):
        url = f"s3://models/some where/{model}"
        same_documents(program, url, f"{TREE}/{model}", f"{name} {model}")
        same_output(program, url, f"{TREE}/{model}", work, f"{name} {model}")
    home, endpoint = program.environment["HOME"], program.environment["AWS_ENDPOINT_URL"]
    key = program.environment["AWS_ACCESS_KEY_ID"]
    check_shares(name, program, client, work)
    if name == "moto":
        check_replaced_object(program, client, work)
    else:
        secret = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "wrong"}
        wrong = Program(home, AWS_ENDPOINT_URL=endpoint, **secret)
        status, _, said = wrong.run("inspect", "s3://models/some where/single")
        is_named = "AWS_SECRET_ACCESS_KEY" in said
        check(f"{name}: a wrong secret is refused", status == 1 and is_named, said.strip()[:160])
    for absent, expected in (("absent/x", "bucket"), ("models/nothing", "no such file")):
        status, _, said = program.run("inspect", f"s3://{absent}")
        check(f"{name}: s3://{absent} is refused", status == 1 and expected in said.lower(), said.strip()[:160])


def check_shares(name, program, client, work):
    """Workers write their shares to the bucket, one of them twice, and `join` puts them together."""
    small, large = f"{TREE}/sharded", os.path.join(work, "with-integers.safetensors")
    # Integers are copied: a file of several parts.
    numbers, header = random.randbytes(1 << 20) * 150, {}
    header["numbers"] = {"dtype": "I32", "shape": [len(numbers) // 4], "data_offsets": [0, len(numbers)]}
    text = json.dumps(header).encode()
    with open(large, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + numbers)
    for model, out in ((small, "out"), (large, "large.safetensors")):
        url, here = f"s3://models/some where/{out}", os.path.join(work, out)
        options = ["--scheme", "per-channel"]
        program.run("quantize", model, "-o", here, *options)
        for partition in ("1/3", "2/3", "2/3", "3/3"):
            status, _, said = program.run("quantize", model, "-o", url, *options, "--partition", partition)
            if status:
                check(f"{name}: share {partition} of {out}", False, said.strip()[:200])
        status, _, said = program.run("join", url)
        there = os.path.join(work, f"fetched-{out}")
        listed = client.list_objects_v2(Bucket="models", Prefix=f"some where/{out}").get("Contents", [])
        for key in (found["Key"] for found in listed):
            to = there + key.removeprefix(f"some where/{out}")
            os.makedirs(os.path.dirname(to), exist_ok=True)
            client.download_file("models", key, to)
        is_same = status == 0 and os.path.exists(there) and digest(there) == digest(here)
        check(f"{name}: joined shares give the bytes of one machine: {out}", is_same, said.strip()[:200])
        status, _, said = program.run("verify", url, "--against", model)
        check(f"{name}: verify reads {out}", status == 0, said.strip()[:200])


def start_moto(servers):
    """Moto checks preconditions and names errors as AWS does, but does not check signed URLs."""
    port = free_port()
    moto = [os.path.join(ENVIRONMENT, "bin/moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    servers.start(moto, port)
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
    return options, "any", "key"


def start_s3s(servers, work, program):
    """s3s-fs checks every signature, but no preconditions."""
    port, data = free_port(), os.path.join(work, "s3s")
    os.mkdir(data)
    keys = ["--access-key", "testkey", "--secret-key", "testsecret"]
    servers.start([program, "--host", "127.0.0.1", "--port", str(port), *keys, data], port, RUST_LOG="warn")
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
    return options, "testkey", "testsecret"


def main():
    random.seed(7)
    work = tempfile.mkdtemp(prefix="remote-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    models, servers = os.path.join(work, "models"), Servers(work)
    org = os.path.join(models, "org")
    os.makedirs(org)
    try:
        for name, local in (("model", "single"), ("sharded", "sharded")):
            shutil.copytree(f"{TREE}/{local}", os.path.join(org, name))
        for name in ("gated", "private", "expiring", "slow", "limited", "drop"):
            os.symlink("model", os.path.join(org, name))
        os.mkdir(os.path.join(org, "large"))
        os.symlink("large", os.path.join(org, "paced"))
        large = os.path.join(org, "large", "model.safetensors")
        write_model(large, MODEL_MB)
        servers.start_hub(models)
        home = os.path.join(work, "home")
        os.mkdir(home)
        program = Program(home, HF_ENDPOINT=f"http://127.0.0.1:{servers.hub}")
        check_hub(servers, program, work)
        check_throughput(servers, program, large)
        check_memory(program, large)
        check_bytes(servers, program, work, os.path.getsize(large))
        check_small_disk(program, work, os.path.getsize(large), large)
        check_kills(program, work, os.path.dirname(large))
        stores = [("moto", start_moto(servers))]
        if os.environ.get("S3S"):
            stores.append(("s3s-fs", start_s3s(servers, work, os.environ["S3S"])))
        for name, (options, key, secret) in stores:
            client = boto3.client("s3", aws_access_key_id=key, aws_secret_access_key=secret, **options)
            keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
            check_s3(name, Program(home, AWS_ENDPOINT_URL=options["endpoint_url"], **keys), client, work)
    finally:
        servers.stop()
        shutil.rmtree(work, ignore_errors=True)
    print(f"{len(failed)} failed" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
