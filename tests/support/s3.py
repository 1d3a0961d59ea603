"""Real S3 server, `rclone serve s3`, which tests can kill, freeze and restart. Its objects are plain files."""

import contextlib
import http.client
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.config import Config

from tests.support.processes import wait_for
from tests.support.servers import Killable, free_port

BUCKET = "bucket"  # exists from the start


class S3(Killable):
    """S3 server on loopback with one user. An object of a bucket is the file `folder/bucket/key`."""

    def __init__(self, folder: Path) -> None:
        (folder / BUCKET).mkdir(parents=True, exist_ok=True)
        self.folder, self.bucket, self.port = folder.resolve(), BUCKET, free_port()
        self.key, self.secret = "key", secrets.token_hex(16)
        self.command = ["serve", "s3", "--addr", f"127.0.0.1:{self.port}", str(self.folder)]
        self.keys = f'"{self.key},{self.secret}"'  # value of RCLONE_AUTH_KEY

    @property
    def url(self) -> str:
        """Endpoint of the server."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Environment variables of a client, for boto3, DVC and MLflow."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            # With a part of an object, rclone sends the checksum of the whole object, while Amazon sends none.
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def start(self) -> None:
        """Start the server, and wait until it answers. After a kill, port and objects are the same."""
        program = Path(sys.executable).parent / "rclone"
        log = ["--log-file", str(self.folder.with_suffix(".log"))]
        self.process = subprocess.Popen(
            [str(program), *self.command, *log], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env=os.environ | {"RCLONE_CONFIG": "/dev/null", "RCLONE_AUTH_KEY": self.keys},
        )  # fmt: skip
        wait_for(lambda: self.answers() or (self.process and self.process.poll() is not None))
        if not self.answers():
            raise RuntimeError(self.folder.with_suffix(".log").read_text(encoding="utf-8")[-2000:])

    def answers(self) -> bool:
        """Check whether the server answers, even with a refusal."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("HEAD", "/")
            return bool(connection.getresponse().status)
        return False


@contextmanager
def s3(folder: Path) -> Iterator[S3]:
    """Run an S3 server for one block."""
    server = S3(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def use(repository: Path, server: S3, path: str = "dvc") -> None:
    """Make the server's bucket the default DVC remote of a repository. Secrets stay in the environment."""
    remote = {"url": f"s3://{server.bucket}/{path}", "endpointurl": server.url, "verify": True}
    with Config(str(repository / ".dvc")).edit("repo") as config:
        config["remote"]["s3"] = remote
        config["core"]["remote"] = "s3"
