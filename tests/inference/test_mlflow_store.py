"""Errors of MLflow, from real databases and servers: lasting errors are explained at once, other errors are not."""

import os
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command as migrations
from alembic.config import Config
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store import db_migrations

from aelab.core.errors import UserError
from aelab.inference import mlflow_store
from tests.support import servers

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
MIGRATIONS = str(Path(db_migrations.__path__[0]))


@pytest.fixture(autouse=True)
def _as_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"TIMEOUT": "2", "MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{key}", value)
    mlflow_store.prepare()


def asked(uri: str) -> None:
    """Make the first request of the projector."""
    mlflow_store.check(uri)
    with mlflow_store.explained(uri):
        MlflowClient(uri).search_experiments()


def _sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def _older(path: Path, revision: str, *, used: bool = True) -> None:
    """Create the database of an older MLflow, by the revision of its tables."""
    from mlflow.store.tracking.dbmodels.initial_models import Base  # noqa: PLC0415

    engine, config = sqlalchemy.create_engine(f"sqlite:///{path}"), Config()
    config.set_main_option("script_location", MIGRATIONS)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        migrations.upgrade(config, revision)
    engine.dispose()
    if used:
        _sql(path, "insert into runs (run_uuid) values ('a')")


def _cut(path: Path, empty: Path) -> None:
    path.write_bytes(empty.read_bytes()[:50_000])


def _newer(path: Path, empty: Path) -> None:
    shutil.copy(empty, path)
    _sql(path, "update alembic_version set version_num = 'ffffffffffff'")


DATABASES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "of an MLflow 3": (lambda path, _: _older(path, "b7e2c1a4d9f3"), r"older .*`cp .*db .*copy`.*`mlflow db upgrade s"),
    "of an MLflow 2": (lambda path, _: _older(path, "acf3f17fdcc7"), "written by an older MLflow"),
    "of an MLflow 1": (lambda path, _: _older(path, "97727af70f4d"), "written by an older MLflow"),
    "of a newer MLflow": (_newer, r"newer MLflow than the 3\S+ of this environment: use the newer one, or move"),
    "a text": (lambda path, _: path.write_text("no database" * 99), "no database at all .*: move the file away"),
    "an image": (lambda path, _: path.write_bytes(b"\x89PNG\r\n\x1a\n" * 99), "no database at all"),
    "cut off": (_cut, "damaged or no database at all"),
    "a folder": (lambda path, _: path.mkdir(), "cannot be written .unable to open database file"),
    "of another program": (lambda path, _: _sql(path, "create table users (id)"), "contains tables of another program"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATABASES)
def test_a_database_that_is_none_for_this_mlflow_is_told_and_left_alone(case: str, tmp_path: Path, empty: Path) -> None:
    make, problem = DATABASES[case]
    path = tmp_path / "mlflow.db"
    make(path, empty)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(UserError, match=problem):
        asked(f"sqlite:///{path}")
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_the_commands_that_are_named_mend_an_older_database(tmp_path: Path) -> None:
    path = tmp_path / "my project" / "mlflow.db"  # a path that must be quoted in a shell
    path.parent.mkdir()
    _older(path, "b7e2c1a4d9f3")
    with pytest.raises(UserError) as caught:
        asked(f"sqlite:///{path}")
    for words in re.findall("`([^`]*)`", str(caught.value))[:2]:
        program, *rest = shlex.split(words)
        command = [sys.executable, "-m", "mlflow", *rest] if program == "mlflow" else [program, *rest]
        subprocess.run(command, check=True, capture_output=True)
    assert path.with_name("mlflow.db.copy").exists()
    asked(f"sqlite:///{path}")


@pytest.mark.parametrize("make", ["nothing", "empty file", "begun", "whole"])
def test_a_database_that_mlflow_can_make_or_complete_is_none_to_complain_of(
    make: str, tmp_path: Path, empty: Path
) -> None:
    path = tmp_path / "mlflow.db"
    if make == "empty file":
        path.touch()
    elif make == "begun":  # the process that created the tables was killed
        _older(path, "451aebb31d03", used=False)
    elif make == "whole":
        shutil.copy(empty, path)
    mlflow_store.check(f"sqlite:///{path}")
    assert path.exists() == (make != "nothing")  # the check creates no file


@pytest.mark.parametrize(
    "uri",
    ["htp://server:5000", "localhost:5000", "127.0.0.1:5000", "mlflow.db", "./mlruns", "sqlite://mlflow.db",
     "sqlite:/mlflow.db", "postgres://a@localhost/mlflow", "mysql://a@localhost/mlflow", "https:/server", "uc:x"],
)  # fmt: skip
def test_what_is_no_address_is_told(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{uri} is not an MLflow address .*: set MLFLOW_TRACKING_URI to http"):
        asked(uri)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (401, "You are not authenticated", "refuses the credentials .*MLFLOW_TRACKING_USERNAME"),
        (403, "Permission denied", "refuses the credentials"),
        (403, '{"message": "Forbidden"}', "refuses the credentials .*Forbidden"),  # from a gateway
        (403, "Invalid Host header", "refuses the credentials"),
        (401, '{"error_code": "UNAUTHENTICATED", "message": "token expired"}', "refuses .*token expired"),
        (404, "<html>not here</html>", "is not MLflow .*another service listens"),
        (200, "<html>Please sign in</html>", "is not MLflow"),
    ],
)
def test_a_server_that_waiting_does_not_mend_is_told(status: int, body: str, problem: str) -> None:
    with servers.answering(status, body) as uri, pytest.raises(UserError, match=problem):
        asked(uri)


def test_a_server_without_tls_is_told() -> None:
    with (
        servers.answering(200, "{}") as uri,
        pytest.raises(UserError, match=r"certificate that is not trusted .* http://"),
    ):
        asked(uri.replace("http:", "https:"))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_waiting_may_mend_is_not(status: int) -> None:
    with servers.answering(status, "busy") as uri, pytest.raises(MlflowException) as caught:
        asked(uri)
    assert not isinstance(caught.value, UserError)


def test_a_server_that_is_away_or_hangs_may_come_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        for port in (servers.free_port(), hanging.getsockname()[1]):
            with pytest.raises(MlflowException):
                asked(f"http://127.0.0.1:{port}")


def test_a_locked_database_may_be_free_again(uri: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(Exception, match="locked") as caught:
            mlflow_store.check(uri)
        assert not isinstance(caught.value, UserError)
    assert mlflow_store.said(caught.value) == "database is locked"
    mlflow_store.check(uri)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (PermissionError(13, "Permission denied", "mlruns"), "cannot be written"),
        (OSError(28, "No space left on device"), "cannot be written"),
        (MlflowException("(sqlite3.OperationalError) attempt to write a readonly database"), "cannot be written"),
        (RuntimeError('FATAL:  password authentication failed for user "a"'), "refuses the credentials"),
        (RuntimeError('FATAL:  database "mlfow" does not exist'), "address postgresql.* is wrong: .*mlfow"),
        (RuntimeError("An error occurred (AccessDenied) when calling the PutObject operation"), "refuses the"),
        (RuntimeError("Unable to locate credentials"), "refuses the credentials"),
        (MlflowException("API request to https://me:secret@host/api failed: 401 Client Error"), "me:…@host/api"),
        (MlflowException("The experiment 7 must be in the 'active' state.\nCurrent state is deleted."), "-id 7`"),
    ],
)  # fmt: skip
def test_what_comes_later_is_told_too_and_no_password_with_it(error: Exception, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught, mlflow_store.explained("postgresql://me:secret@host/db"):
        raise error
    assert "secret" not in str(caught.value)


def test_the_address_is_the_project_s_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert mlflow_store.address(tmp_path) == f"sqlite:///{tmp_path}{os.sep}mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert mlflow_store.address(tmp_path) == "http://server:5000"
