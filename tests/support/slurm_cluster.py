"""A throwaway Slurm of two virtual nodes on this machine, for tests and for trying things out.

Wants Debian's packages `slurmctld slurmd slurm-client munge`, no systemd, no cgroups and no root:
every daemon runs as whoever starts it, below one folder, and ends with it. By hand:

    python -P tests/support/slurm_cluster.py FOLDER         # until Ctrl-C; prints what to export

Two settings make several nodes fit on one host: each `slurmd` has a name and a port of its own, and
`config_overrides` makes Slurm believe the CPUs and memory that are written here. The GPUs are links
to /dev/null: Slurm shares them out and sets CUDA_VISIBLE_DEVICES, and nothing can compute on them.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patience import wait_until

NODES, CPUS, MEMORY_MB, GPUS = 2, 4, 8000, 2
DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"

SLURM_CONF = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
GresTypes=gpu
JobRequeue=0
ReturnToService=2
KillWait=1
MailProg=/bin/true
MinJobAge={job_age_seconds}
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 DefMemPerCPU=500 State=UP
"""


def available() -> bool:
    """Whether the daemons are installed."""
    return all(shutil.which(name, path=SBIN) for name in (*DAEMONS, "sbatch"))


class Cluster:
    """The daemons of one throwaway cluster.

    Attributes:
        job_age_seconds: how long Slurm remembers a job that has ended.
    """

    def __init__(self, folder: Path, *, job_age_seconds: int = 300) -> None:
        self.folder = folder.resolve()
        self.port = _free_ports(NODES + 1)
        self.job_age_seconds = job_age_seconds
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What points Slurm's commands, and submitit, at this cluster."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def start(self) -> None:
        """Writes the configuration, starts the daemons, and waits until the nodes are idle."""
        for name in ("etc", "state", "run", "log", "munge", "dev", *self._spools()):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._configure()
        munge = self.folder / "munge"
        self._daemon(
            "munged",
            "--foreground",
            f"--key-file={munge / 'key'}",
            f"--socket={munge / 'socket'}",
            f"--pid-file={munge / 'pid'}",
            f"--log-file={munge / 'log'}",
            f"--seed-file={munge / 'seed'}",
            "--force",
        )
        wait_until((munge / "socket").exists, "munged's socket")
        self._daemon("slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        for number in range(NODES):
            self.start_node(number)
        wait_until(self._idle, "idle nodes")

    def start_node(self, number: int) -> None:
        """Starts one node's daemon, for the first time or again."""
        name = f"node{number}"
        config = self.environment["SLURM_CONF"]
        self._daemon("slurmd", "-D", "-N", name, "-f", config, key=name)

    def kill_node(self, number: int) -> None:
        """Kills one node's daemon, as a crash would; the job's own processes live on."""
        process = self.processes.pop(f"node{number}")
        process.kill()
        process.wait()

    def lose_node(self, number: int) -> None:
        """Loses a node with all that runs on it; `start_node` and `resume_node` bring it back."""
        self.kill_node(number)
        name = f"node{number}"
        self.command("scontrol", "update", f"nodename={name}", "state=down", "reason=lost")
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                values = environment.read_bytes().split(b"\0")
                here = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() in values
                if here and f"SLURMD_NODENAME={name}".encode() in values:
                    os.kill(int(environment.parent.name), signal.SIGKILL)
            except OSError:  # it has ended
                continue

    def resume_node(self, number: int) -> None:
        """Lets a node that was lost take jobs again."""
        self.start_node(number)
        self.command("scontrol", "update", f"nodename=node{number}", "state=resume")
        wait_until(self._idle, "idle nodes")

    def stop(self) -> None:
        """Ends the jobs, then the daemons; only those this object started."""
        self.command("scancel", "--full", "--user", getpass.getuser(), check=False)
        wait_until(lambda: not self.command("squeue", "-h", check=False), "an empty queue")
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def command(self, *arguments: str, check: bool = True) -> str:
        """What one of Slurm's commands prints."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            arguments,
            env=environment,
            check=check,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        return done.stdout

    def start_requeued_now(self) -> None:
        """Slurm holds a requeued job for two minutes; this waits for one and lets all go soon.

        A node takes no job in the second in which it revoked the job's last credential.
        """
        wait_until(self._held, "requeued job")
        for job in self._held():
            self.command("scontrol", "update", f"jobid={job}", "StartTime=now+2", check=False)

    def _held(self) -> list[str]:
        lines = self.command("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %r").splitlines()
        return [line.split()[0] for line in lines if line.split()[1] == "BeginTime"]

    def _idle(self) -> bool:
        return (
            self.command("sinfo", "-h", "-N", "-o", "%t", check=False).split() == ["idle"] * NODES
        )

    def _spools(self) -> Iterator[str]:
        yield from (f"spool/node{number}" for number in range(NODES))

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        text = SLURM_CONF.format(
            host=host,
            user=getpass.getuser(),
            port=self.port,
            folder=self.folder,
            job_age_seconds=self.job_age_seconds,
        )
        for number in range(NODES):
            text += (
                f"NodeName=node{number} NodeHostname={host} NodeAddr=127.0.0.1 "
                f"Port={self.port + 1 + number} CPUs={CPUS} RealMemory={MEMORY_MB} "
                f"Gres=gpu:{GPUS} State=UNKNOWN\n"
            )
        (self.folder / "etc/slurm.conf").write_text(text, encoding="utf-8")
        for number in range(GPUS):
            (self.folder / f"dev/gpu{number}").symlink_to("/dev/null")
        (self.folder / "etc/gres.conf").write_text(
            f"AutoDetect=off\nNodeName=node[0-{NODES - 1}] Name=gpu "
            f"File={self.folder}/dev/gpu[0-{GPUS - 1}]\n",
            encoding="utf-8",
        )
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)

    def _daemon(self, name: str, *arguments: str, key: str | None = None) -> None:
        log = (self.folder / "log" / f"{key or name}.out").open("ab")
        self.processes[key or name] = subprocess.Popen(
            [str(shutil.which(name, path=SBIN)), *arguments],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PATH": SBIN},
        )


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for first in range(21000 + os.getpid() % 1000 * 8, 60000, count):
        with_all = [socket.socket() for _ in range(count)]
        try:
            for offset, sock in enumerate(with_all):
                sock.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for sock in with_all:
                sock.close()
        return first
    raise OSError("no free ports")


@contextmanager
def running(folder: Path, *, job_age_seconds: int = 300) -> Iterator[Cluster]:
    """A cluster that is up, and stopped at the end."""
    cluster = Cluster(folder, job_age_seconds=job_age_seconds)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


if __name__ == "__main__":
    with running(Path(sys.argv[1])) as started:
        for name, value in started.environment.items():
            print(f"export {name}={value}", flush=True)
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # after the start: daemons inherit the mask
        signal.sigwait(ends)
