"""Real servers for tests: `mlflow server` on SQLite or PostgreSQL, which tests can kill, freeze and restart."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.support.processes import PATIENCE, wait_for


def free_port() -> int:
    """Free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Run an HTTP server that answers every request with the same status and body."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Killable:
    """Process in its own session, which tests can kill, freeze and continue."""

    process: subprocess.Popen[bytes] | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the session: SIGKILL, SIGSTOP to freeze them, or SIGCONT to continue."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            if number == signal.SIGKILL:
                self.process.wait()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.signal(signal.SIGKILL)


class Server(Killable):
    """Process `mlflow server` on loopback, with proxied artifacts in a folder."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.database = database or f"sqlite:///{folder.resolve() / 'server.db'}"

    @property
    def uri(self) -> str:
        """Address for MLFLOW_TRACKING_URI."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        """Start the server, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", self.database,
                   "--artifacts-destination", str(self.folder.resolve() / "artifacts")]  # fmt: skip
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")} | {"PATH": path}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        if wait:
            self.wait(self.folder / "server.log")

    def wait(self, log: Path) -> None:
        """Wait until the server answers; raise an error with the end of its log if it does not."""
        wait_for(lambda: self.answers() or (self.process and self.process.poll() is not None))
        if not self.answers():
            raise RuntimeError(log.read_text(encoding="utf-8")[-2000:])

    def answers(self) -> bool:
        """Check whether the server answers."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False


@contextmanager
def serving(folder: Path, database: str | None = None) -> Iterator[Server]:
    """Run an MLflow server for one block."""
    server = Server(folder, database)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def postgresql_programs() -> Path | None:
    """Folder of PostgreSQL's programs, as Debian installs them or on the PATH. None if PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    there = shutil.which("initdb")
    return found[-1].parent if found else Path(there).parent if there else None


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run a new PostgreSQL on loopback for one block, and give its address.

    PostgreSQL refuses to run as root. In that case the user postgres runs the server.
    """
    programs = postgresql_programs()
    assert programs is not None
    folder.mkdir(parents=True)
    place, port, as_user = folder / "postgres", free_port(), list[str]()
    place.mkdir()
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(place, user.pw_uid, user.pw_gid)
        for parent in (place, *place.parents):
            parent.chmod(parent.stat().st_mode | 0o111)
        as_user = ["runuser", "-u", "postgres", "--"]

    def run(*command: str, check: bool = True) -> None:
        subprocess.run([*as_user, *command], cwd="/", check=check, capture_output=True)

    run(str(programs / "initdb"), "--auth=trust", "--username=mlflow", "--no-sync", "-D", str(place / "data"))
    options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={place} -c fsync=off"
    control = [str(programs / "pg_ctl"), "-D", str(place / "data"), "-w", "-t", str(int(PATIENCE))]
    try:
        run(*control, "-l", str(place / "log"), "-o", options, "start")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        run(*control, "-m", "immediate", "stop", check=False)  # on a busy machine, the server may stop later
