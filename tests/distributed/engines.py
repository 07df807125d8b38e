"""Engines that share work among several nodes, started on this machine for the checks of `run`.

Slurm, Ray and Dask get three nodes. Each node runs in a PID namespace of its own, so that killing
the namespace's first process ends everything on the node at once, as a power failure does. This
needs root, as mounting a small file system does.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

ASSETS = os.path.abspath("assets/distributed")
NODES = 3
# All that a node runs ends with its first process.
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def free_port(below=65536):
    while True:
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", random.randrange(7000, 10000) if below < 65536 else 0))
                return listener.getsockname()[1]
            except OSError:
                continue


def until(holds, seconds, what):
    end = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > end:
            sys.exit(f"{what}: nothing after {seconds} s")
        time.sleep(0.05)
    return found


class Engine:
    """An engine. `submit` starts a run of all partitions and returns a process-like object with
    poll()."""

    def __init__(self, root):
        self.root = root
        self.nodes, self.servers = {}, []
        self.environment = dict(os.environ)
        # A controller would go on with the jobs of an earlier run.
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(root)

    def log(self, name):
        return os.path.join(self.root, f"{name}.log")

    def spawn(self, name, command, **more):
        with open(self.log(name), "a") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, **more
            )

    def start(self):
        for node in range(1, NODES + 1):
            self.start_node(node)

    def lose_node(self, node):
        """Ends a node with everything on it."""
        namespace = self.nodes.pop(node)
        namespace.kill()
        namespace.wait()

    def submit(self, name, count, words):
        return self.spawn(name, self.command(count, words))

    def stop(self):
        for process in [*self.nodes.values(), *self.servers]:
            process.kill()
            process.wait()


class Parallel(Engine):
    """GNU parallel has no nodes."""

    @staticmethod
    def missing():
        return None if shutil.which("parallel") else "GNU parallel is not installed"

    def start(self):
        pass

    def command(self, count, words):
        partitions = [f"{index}/{count}" for index in range(1, count + 1)]
        work = ["quantscope", *words, "--quiet", "--partition", "{}"]
        return ["parallel", "--will-cite", "--jobs", "2", "--retries", "4", *work, ":::", *partitions]


class SlurmArray:
    """A job array that has been submitted."""

    def __init__(self, job, environment):
        self.job, self.environment = job, environment
        self.asked = 0

    def poll(self):
        # squeue costs the controller more than a worker takes for a small share.
        if time.monotonic() - self.asked < 0.5:
            return None
        command = ["squeue", "--noheader", "--jobs", self.job]
        listed = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        self.asked = time.monotonic()
        # A job that ended a while ago is unknown.
        return None if listed.stdout.strip() else 0


class Slurm(Engine):
    @staticmethod
    def missing():
        programs = ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol"]
        missing = [program for program in programs if not shutil.which(program)]
        return f"not installed: {', '.join(missing)}" if missing else None

    def start(self):
        for name in ("munge", "state", "spool", "jobs"):
            os.makedirs(os.path.join(self.root, name), mode=0o755, exist_ok=True)
        key = os.path.join(self.root, "munge", "key")
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o400), "wb") as file:
            file.write(os.urandom(1024))
        munge_socket = os.path.join(self.root, "munge", "socket")
        files = [
            f"--{option}={os.path.join(self.root, 'munge', name)}"
            for option, name in [
                ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed")
            ]
        ]
        # --force: the directory's parents may be writable by others.
        munged = ["munged", "--foreground", "--force", f"--socket={munge_socket}", *files]
        self.servers.append(self.spawn("munged", munged))
        until(lambda: os.path.exists(munge_socket), 10, "munged")
        self.configure(munge_socket)
        self.servers.append(self.spawn("slurmctld", ["slurmctld", "-D"]))
        super().start()
        until(lambda: self.idle() == NODES, 60, "Slurm's nodes")

    def configure(self, munge_socket):
        host, port = socket.gethostname().split(".")[0], free_port()
        nodes = "\n".join(
            f"NodeName=node{k} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=1 "
            "RealMemory=2000 State=UNKNOWN"
            for k in range(1, NODES + 1)
        )
        # Short times, so that a lost node is noticed soon; a job that is queued again waits
        # for cred_expire and a second.
        text = f"""
            ClusterName=test
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={port}
            SlurmUser=root
            SlurmdUser=root
            AuthType=auth/munge
            AuthInfo=socket={munge_socket},cred_expire=5
            CredType=cred/munge
            CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
            StateSaveLocation={self.root}/state
            SlurmdSpoolDir={self.root}/spool/%n
            SlurmctldPidFile={self.root}/slurmctld.pid
            SlurmdPidFile={self.root}/slurmd-%n.pid
            SlurmctldLogFile={self.root}/controller.log
            SlurmdLogFile={self.root}/%n.log
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            MpiDefault=none
            AccountingStorageType=accounting_storage/none
            JobAcctGatherType=jobacct_gather/none
            JobCompType=jobcomp/none
            MailProg=/bin/true
            SwitchType=switch/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_CPU
            SlurmdParameters=config_overrides
            SchedulerType=sched/backfill
            SchedulerParameters=sched_interval=2,bf_interval=2
            SlurmdTimeout=8
            MessageTimeout=5
            KillWait=2
            ReturnToService=2
            JobRequeue=1
        """
        config = os.path.join(self.root, "slurm.conf")
        with open(config, "w") as file:
            file.write("\n".join(line.strip() for line in text.splitlines()) + f"\n{nodes}\n")
            file.write(f"PartitionName=main Nodes=node[1-{NODES}] Default=YES MaxTime=INFINITE State=UP\n")
        self.environment["SLURM_CONF"] = config

    def start_node(self, node):
        os.makedirs(os.path.join(self.root, "spool", f"node{node}"), exist_ok=True)
        command = [*NAMESPACE, "slurmd", "-D", "-N", f"node{node}"]
        self.nodes[node] = self.spawn(f"slurmd{node}", command)

    def idle(self):
        command = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        found = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return int(found.stdout.strip() or 0)

    def submit(self, name, count, words):
        subcommand, model, option, out, *options = words
        assert (subcommand, option) == ("quantize", "-o")
        script = os.path.join(ASSETS, "quantize.sbatch")
        command = ["sbatch", "--parsable", "--export=ALL", f"--array=1-{count}", script, model, out]
        run = subprocess.run(
            [*command, *options, "--quiet"],
            env=self.environment, cwd=os.path.join(self.root, "jobs"),
            capture_output=True, text=True,
        )
        if run.returncode != 0:
            sys.exit(f"sbatch: {run.stderr}")
        return SlurmArray(run.stdout.strip(), self.environment)

    def stop(self):
        subprocess.run(["scancel", "--user=root"], env=self.environment, capture_output=True)
        super().stop()


class Driver(Engine):
    """An engine whose runs are started by a Python program, which joins too."""

    python = ""

    @classmethod
    def missing(cls):
        name = cls.__name__.lower()
        cls.python = os.path.join(os.environ[f"{name.upper()}_VENV"], "bin", "python")
        return None if os.path.exists(cls.python) else f"no environment with {name}"

    def program(self, name):
        return os.path.join(os.path.dirname(self.python), name)


class Ray(Driver):
    def start(self):
        # 127.0.0.1 is replaced by the machine's outer address, and Ray's own workers use the
        # ports from 10002 on. Its servers listen on all interfaces, so they need a token.
        self.address = f"127.0.0.2:{free_port(10000)}"
        self.environment |= {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": os.urandom(24).hex(),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_num_prestart_python_workers": "0",
            "RAY_health_check_initial_delay_ms": "500",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }
        head = ["--head", f"--port={self.address.split(':')[1]}", "--node-ip-address=127.0.0.2"]
        # The names of sockets below this directory have at most 107 characters.
        head += ["--include-dashboard=false", f"--temp-dir={self.root}/t", "--num-cpus=0"]
        self.servers.append(self.ray_node("head", head))
        super().start()

    def ray_node(self, name, options):
        common = ["--object-store-memory=80000000", "--disable-usage-stats", "--block"]
        command = [*NAMESPACE, self.program("ray"), "start", *common, *options]
        with open(self.log(name), "w"):
            pass
        process = self.spawn(name, command)
        def is_up():
            with open(self.log(name)) as log:
                return "will now block forever" in log.read()
        until(is_up, 60, f"Ray's {name}")
        return process

    def start_node(self, node):
        options = [f"--address={self.address}", f"--node-ip-address=127.0.0.{node + 2}", "--num-cpus=1"]
        self.nodes[node] = self.ray_node(f"node{node}", options)

    def command(self, count, words):
        return [self.python, os.path.join(ASSETS, "ray_driver.py"), str(count), *words]


class Dask(Driver):
    def start(self):
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        # Without a dashboard a port is opened all the same.
        self.quiet = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        scheduler = [self.program("dask"), "scheduler", "--port", str(port), *self.quiet]
        self.servers.append(self.spawn("scheduler", scheduler))
        def answers():
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0
        until(answers, 60, "Dask's scheduler")
        super().start()
        program = "import sys, distributed as d; d.Client(sys.argv[1]).wait_for_workers(int(sys.argv[2]), 60)"
        subprocess.run([self.python, "-c", program, self.address, str(NODES)], check=True)

    def start_node(self, node):
        command = [*NAMESPACE, self.program("dask"), "worker", self.address, *self.quiet]
        # A nanny would start a killed worker again.
        command += ["--no-nanny", "--nthreads", "1", "--memory-limit", "2GiB"]
        command += ["--local-directory", os.path.join(self.root, f"node{node}")]
        self.nodes[node] = self.spawn(f"node{node}", command)

    def command(self, count, words):
        return [self.python, os.path.join(ASSETS, "dask_driver.py"), self.address, str(count), *words]


ENGINES = {"parallel": Parallel, "slurm": Slurm, "ray": Ray, "dask": Dask}


def workers(out):
    """The processes of quantscope that write partitions of an output."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == "quantscope" and out in words and "--partition" in words:
            found.append(int(name))
    return found


def kill_worker(out):
    """Kills one worker at random; false if none runs."""
    running = workers(out)
    if not running:
        return False
    try:
        os.kill(random.choice(running), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
