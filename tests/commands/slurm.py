"""A SLURM of one's own: munged, slurmctld and slurmd on 127.0.0.1, without systemd, with all files in one folder.

Debian: `apt-get install slurm-wlm munge`. Everything started here, jobs included, has this folder's SLURM_CONF in its
environment: by that it is found at the end, and nothing else is touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "sinfo", "squeue")
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

# cred_expire: a requeued job waits that long before it starts again, 120 s by default. The scheduler looks every
# second, and the kill after a SIGTERM comes after KillWait, not after 30 s.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs={n_cpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES State=UP
"""


class NoSlurm(Exception):
    """Why there is no SLURM to test with."""


@dataclass(frozen=True)
class Task:
    """One task of an array as SLURM sees it."""

    state: str
    n_restarts: int
    exit_code: str  # status:signal


@dataclass(frozen=True)
class Slurm:
    """A running SLURM."""

    environment: dict[str, str]

    def run(self, *words: object, cwd: Path | str = ".") -> str:
        """One of SLURM's programs, which must succeed: what it printed."""
        command = [shutil.which(str(words[0]), path=SEARCHED) or words[0], *words[1:]]
        ended = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
        return ended.stdout.strip()

    def submit(self, *words: object, cwd: Path | str = ".", **settings: object) -> str:
        """`sbatch` with settings in its environment: the number of the job."""
        environment = self.environment | {name: str(value) for name, value in settings.items()}
        return Slurm(environment).run("sbatch", "--parsable", *words, cwd=cwd)

    def tasks(self, job: str) -> dict[str, Task]:
        """The tasks of a job by their array index ("" without an array, "2-5" for those that nothing set apart)."""
        found = {}
        for line in self.run("scontrol", "--oneliner", "show", "job", job).splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            found[fields.get("ArrayTaskId", "")] = Task(fields["JobState"], int(fields["Restarts"]), fields["ExitCode"])
        return found

    def wait(self, job: str, timeout: float = 60) -> dict[str, Task]:
        """Wait until all tasks of a job have ended."""
        self.until(lambda: {task.state for task in self.tasks(job).values()} <= ENDED, timeout, f"the end of {job}")
        return self.tasks(job)

    def until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {timeout} s for {what}:\n{self.run('squeue', '--states=all')}")
            time.sleep(0.1)


@contextlib.contextmanager
def running_slurm(environment: dict[str, str]) -> Iterator[Slurm]:
    """Start the daemons, and end them and all their jobs on leaving.

    Args:
        environment: of the jobs; SLURM_CONF is added

    Raises:
        NoSlurm: a program is missing, or a daemon does not start
    """
    missing = [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]
    if missing:
        raise NoSlurm(f"not installed: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)")
    # Neither pytest's temporary folders nor $TMPDIR: munge wants a path that all may enter, and a short one.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    outside = {name: value for name, value in environment.items() if not name.startswith(("SLURM", "SBATCH"))}
    slurm = Slurm({**outside, "SLURM_CONF": str(folder / "slurm.conf")})
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _configure(folder)
        munge = [f"--{name}={folder / name}" for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")]
        _start(daemons, folder, slurm, "munged", "--foreground", "--num-threads=2", *munge)
        _wait_for(daemons, folder, lambda: (folder / "socket").exists())
        _start(daemons, folder, slurm, "slurmctld", "-D")
        _start(daemons, folder, slurm, "slurmd", "-D")
        _wait_for(daemons, folder, lambda: _is_idle(slurm))
        yield slurm
    finally:
        _end(daemons, folder, slurm)


def _configure(folder: Path) -> None:
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "key-file"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    text = CONFIGURATION.format(
        folder=folder,
        host=socket.gethostname().split(".")[0],
        user=pwd.getpwuid(os.geteuid()).pw_name,
        controller_port=ports[0],
        node_port=ports[1],
        n_cpus=max(2, len(os.sched_getaffinity(0))),
    )
    (folder / "slurm.conf").write_text(text)


def _start(daemons: list[subprocess.Popen[bytes]], folder: Path, slurm: Slurm, name: str, *words: str) -> None:
    """Start a daemon in the foreground; where `setpriv` exists it ends even if this process is killed."""
    setpriv = shutil.which("setpriv")
    command = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
    program = shutil.which(name, path=SEARCHED)
    assert program
    with (folder / f"{name}.out").open("wb") as out:
        daemons.append(
            subprocess.Popen([*command, program, *words], env=slurm.environment, stdout=out, stderr=out, cwd=folder)
        )


def _wait_for(daemons: list[subprocess.Popen[bytes]], folder: Path, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        ended = [daemon for daemon in daemons if daemon.poll() is not None]
        if ended or time.monotonic() > end:
            logs = [f"{path.name}: {_last_lines(path)}" for path in sorted(folder.glob("*.out"))]
            raise NoSlurm("the daemons did not start; " + "; ".join(logs))
        time.sleep(0.1)


def _last_lines(path: Path) -> str:
    return " | ".join(path.read_text(errors="replace").splitlines()[-4:])


def _is_idle(slurm: Slurm) -> bool:
    try:
        return slurm.run("sinfo", "--noheader", "--format=%T") == "idle"
    except (AssertionError, subprocess.TimeoutExpired):
        return False


def _end(daemons: list[subprocess.Popen[bytes]], folder: Path, slurm: Slurm) -> None:
    """Jobs first, while there is somebody to end them; then the daemons, the last one first; then what is left."""
    if len(daemons) == 3:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            slurm.run("scancel", "--signal=KILL", "--user", pwd.getpwuid(os.geteuid()).pw_name)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    while left := own_processes(slurm):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def own_processes(slurm: Slurm) -> list[int]:
    """Running processes with this SLURM's configuration in their environment: daemons, steps and jobs."""
    mark = f"SLURM_CONF={slurm.environment['SLURM_CONF']}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended, a zombie, or somebody else's
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
