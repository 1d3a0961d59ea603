"""Cluster on one machine: a Dask scheduler, workers and an S3 server.

Each worker is a process with its own clone of the repository. The workers share only the S3 server.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dask
import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from distributed import Client

from tests.support.processes import PATIENCE
from tests.support.s3 import S3
from tests.support.servers import free_port

TLS = "DASK_DISTRIBUTED__COMM__TLS"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


class Cluster:
    """Scheduler, workers by name, and the S3 server that is the DVC remote of their clones.

    With `encrypted`, only processes with the cluster's certificate can take part.
    """

    def __init__(self, folder: Path, repository: Path, store: S3, *, encrypted: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.repository, self.store, self.port = folder, repository, store, free_port()
        self.protocol, self.tls = ("tls", certificate(folder)) if encrypted else ("tcp", {})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return f"{self.protocol}://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Environment variables of all processes, and of the process that uses the cluster."""
        own = {"PATH": PATH, "DVC_NO_ANALYTICS": "true", "MLFLOW_DISABLE_TELEMETRY": "true"} | self.store.environment()
        own |= self.tls
        return {k: v for k, v in os.environ.items() if not k.startswith(("DVC", "MLFLOW", "AELAB"))} | own

    def start(self) -> None:
        """Start the scheduler."""
        self._spawn("scheduler", self.folder, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
                    "--protocol", self.protocol, "--port", str(self.port), "--no-dashboard")  # fmt: skip

    def add(self, name: str, *options: str, **environment: str) -> None:
        """Start a worker in its own clone."""
        clone = self.folder / name
        if not clone.exists():
            subprocess.run(["git", "clone", "--quiet", str(self.repository), str(clone)], check=True)
        self._spawn(name, clone, "-m", "distributed.cli.dask_worker", self.address, "--nthreads", "1", "--name", name,
                    "--host", "127.0.0.1", "--no-dashboard", "--local-directory", str(clone / "scratch"), *options,
                    **environment)  # fmt: skip

    def ready(self, workers: int) -> None:
        """Start the scheduler and the workers worker0, worker1, … unless they run, and wait for the workers."""
        if "scheduler" not in self.processes:
            self.kill_all()
            self.port = free_port()
            self.start()
        for name in (f"worker{number}" for number in range(workers)):
            if name not in self.processes:
                self.add(name)
        if workers:
            self.wait(workers)

    def kill_all(self) -> None:
        """SIGKILL all processes."""
        for name in list(self.processes):
            self.kill(name)

    def wait(self, workers: int) -> None:
        """Wait until `workers` workers have registered."""
        with known_by(self.tls), Client(self.address, timeout=PATIENCE, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=PATIENCE)

    def kill(self, name: str) -> None:
        """SIGKILL a process and its descendants, except those in a session of their own."""
        process = self.processes.pop(name)
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        groups = {process.pid}
        os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            if child.is_running() and os.getpgid(child.pid) in groups:
                child.kill()
        process.wait()

    def _spawn(self, name: str, folder: Path, *arguments: str, **environment: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, stdout=log, stderr=log, start_new_session=True,
                env=self.environment() | environment,
            )  # fmt: skip


def known_by(tls: dict[str, str]) -> dask.config.set:
    """Give this process the certificates that the variables `tls` name, for one block."""
    return dask.config.set({name.removeprefix("DASK_").lower().replace("__", "."): file for name, file in tls.items()})


def certificate(folder: Path) -> dict[str, str]:
    """Write a self-signed certificate, and return the variables that make Dask use it for all roles."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret, public = folder / "key.pem", folder / "certificate.pem"
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(made.public_bytes(Encoding.PEM))
    files = {"CERT": str(public), "KEY": str(secret)}
    own = {f"{TLS}__{who}__{what}": file for who in ("SCHEDULER", "WORKER", "CLIENT") for what, file in files.items()}
    return own | {f"{TLS}__CA_FILE": str(public)}


@contextmanager
def cluster(folder: Path, repository: Path, workers: int, store: S3, *, encrypted: bool = False) -> Iterator[Cluster]:
    """Run a cluster for one block, with workers worker0, worker1, …"""
    made = Cluster(folder, repository, store, encrypted=encrypted)
    try:
        made.ready(workers)
        yield made
    finally:
        made.kill_all()
