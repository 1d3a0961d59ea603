"""Address of MLflow, and explanations of MLflow's errors. MLflow stores the runs and the models.

A lasting error, such as a wrong address, remains until the user removes its cause. A lasting error therefore becomes a
`UserError` with the remedy. Other errors, such as a locked database or a server that is down, may disappear later, and
stay unchanged.
"""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from aelab.core.errors import UserError

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")  # environment variables that say where the runs are
DATABASE = "mlflow.db"
EXPERIMENT = "autoencoders"
NEW = "`make track` writes the results on disk into a new database"
DELETED = (
    "the experiment {0} of MLflow at {at} is deleted: `MLFLOW_TRACKING_URI={typed} mlflow experiments restore "
    "--experiment-id {0}` brings it back, or set MLFLOW_EXPERIMENT_NAME to another name; then `make track`"
)
UNUSABLE = (
    "MLflow at {at} cannot be written ({said}): free disk space, allow writing, or set MLFLOW_TRACKING_URI to another "
    "address"
)
NO_ADDRESS = (
    "{at} is not an MLflow address ({said}): set MLFLOW_TRACKING_URI to http://HOST:5000, https://…, "
    "sqlite:////FOLDER/mlflow.db or postgresql+psycopg2://…, or unset it"
)
REFUSED = (
    "MLflow at {at} refuses the credentials ({said}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN, for a user with the necessary rights; databases and artifact stores have other credentials"
)
LASTING = {  # patterns in the errors of MLflow, databases and servers, each with an explanation
    "unsupported URI|Unity Catalog tracking URI|filesystem tracking backend": NO_ADDRESS,
    "ArgumentError|NoSuchModule|No module named|InvalidUrl": NO_ADDRESS,
    r"The experiment (\S+) must be in the 'active' state": DELETED,
    "error code 40[13]|40[13] Client Error|Unauthorized|Forbidden|UNAUTHENTICATED|PERMISSION_DENIED": REFUSED,
    "authentication failed|no pg_hba.conf|Reading Databricks credential": REFUSED,
    "Access ?Denied|Unable to locate credentials|InvalidAccessKeyId|SignatureDoesNotMatch": REFUSED,
    "certificate verify failed|wrong version number|record layer failure": (
        "MLflow at {at} has a certificate that is not trusted ({said}): set MLFLOW_TRACKING_SERVER_CERT_PATH to the "
        "certificate file of its authority, or write http:// if the server has no certificate"
    ),
    "error code 404|404 Client Error|not in a valid JSON format": (
        "the server at {at} is not MLflow ({said}): another service listens there, a part of the path is missing, or "
        "the server is older than MLflow 3"
    ),
    "file is not a database|disk image is malformed": (
        f"{{at}} is damaged or no database at all ({{said}}): move the file away; {NEW}"
    ),
    "unable to open database|readonly database|disk is full|disk I/O error": UNUSABLE,
    r"(?:database|role) \S+ does not exist|Unknown database": "MLflow's address {at} is wrong: {said}",
}
NO_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def prepare() -> None:
    """Silence MLflow's own output, and make MLflow wait only seconds for a server that is down."""
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # MLflow also raises the errors that it logs
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # MLflow would print wrong addresses
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def address(folder: Path) -> str:
    """Address of MLflow: $MLFLOW_TRACKING_URI, or by default the database `DATABASE` in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / DATABASE}"


def experiment() -> str:
    """Name of the MLflow experiment that contains the runs."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def file_of(uri: str) -> Path | None:
    """Path of the SQLite database at the address `uri`, or None for an address of another kind."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def public(uri: str) -> str:
    """Remove passwords from an address, or from all addresses in a text."""
    return re.sub(r"(//[^/:@\s]*):[^/@\s]*@", r"\1:…@", uri)


def said(error: Exception) -> str:
    """First sentence of an exception's message, without the exception's class, SQL statements and passwords."""
    words = public(" ".join(re.sub(r"^\(\S+\) ", "", str(error)).split()))
    return re.split(r"\. |\.?$| ?\[SQL: | ?\(Background on", words, maxsplit=1)[0]


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Replace lasting errors in a `with` block by a `UserError`. The module's docstring says which errors are lasting.

    Args:
        uri: MLflow's address. The message of the `UserError` names the address without its password.

    Raises:
        UserError: the error is lasting. The message says how to remove the cause.
        Exception: any other error, unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = f"{type(error).__name__} {getattr(error, 'error_code', '')} {error}"
        found = next(filter(None, (re.search(words, text) for words in LASTING)), None)
        if found is None and getattr(error, "errno", None) not in NO_WRITING:
            raise
        sentence = LASTING[found.re.pattern] if found else UNUSABLE
        raise _told(sentence, uri, *(found.groups() if found else ()), said=said(error)) from error


def deleted(uri: str, number: str) -> UserError:
    """Return the `UserError` for an experiment that is deleted in MLflow.

    Args:
        uri: MLflow's address.
        number: the experiment's ID.
    """
    return _told(DELETED, uri, number)


def _told(sentence: str, uri: str, *named: str, said: str = "") -> UserError:
    """Return a `UserError` with the text `sentence`. The text's fields are filled with `uri`, `named` and `said`."""
    return UserError(sentence.format(*named, at=public(uri), typed=quote(public(uri)), said=said))


def check(uri: str) -> None:
    """Check that the tables of a database fit the installed version of MLflow.

    Without this check, MLflow would retry for minutes, or upgrade the database without a copy of the old database.

    Args:
        uri: MLflow's address. Servers, and database files that do not exist yet, are not checked.

    Raises:
        UserError: the database does not fit. The message names the remedy.
        Exception: the database cannot be read at the moment, for example because the database is locked.
    """
    file = file_of(uri)
    if uri.startswith(("http:", "https:")) or (file is not None and not file.exists()):
        return
    import mlflow  # noqa: PLC0415 - slow to import
    from mlflow.store.db.db_types import DATABASE_ENGINES  # noqa: PLC0415

    if re.split(r"[+:]", uri)[0] not in DATABASE_ENGINES:
        return  # the address names no database; if the address is wrong, MLflow's message is clear
    with explained(uri):
        problem = _mismatch(uri)
    here = f"the {mlflow.__version__} of this environment"
    copy = f"cp {quote(str(file))} {quote(f'{file}.copy')}" if file else "dump it with the database's own tools"
    sentences = {
        "foreign": "contains tables of another program: set MLFLOW_TRACKING_URI to another file or database",
        "newer": f"was written by a newer MLflow than {here}: use the newer one, or move the file away; {NEW}",
        "older": (
            f"was written by an older MLflow than {here}: keep a copy (`{copy}`), then "
            f"`mlflow db upgrade {quote(public(uri))}`, then `make track`"
        ),
    }
    if problem:
        msg = f"the database {public(uri)} {sentences[problem]}"
        raise UserError(msg)


def _mismatch(uri: str) -> str:
    """Return "" if a database fits the installed MLflow, else "older", "newer" or "foreign".

    A foreign database has the tables of another program. An older database without runs fits, because MLflow adds the
    missing tables. For example, such a database remains if a process is killed while MLflow creates the tables.
    """
    from alembic.migration import MigrationContext  # noqa: PLC0415 - slow to import, like the next imports
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from mlflow.store import db_migrations  # noqa: PLC0415
    from sqlalchemy import create_engine, inspect, literal, select, table  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    with create_engine(uri, poolclass=NullPool).connect() as connection:
        tables = inspect(connection).get_table_names()
        revision = MigrationContext.configure(connection).get_current_revision()
        used = "runs" in tables and connection.scalar(select(literal(1)).select_from(table("runs")).limit(1))
    if revision is None:
        return "foreign" if tables and "experiments" not in tables else ""
    scripts = ScriptDirectory(str(Path(db_migrations.__path__[0])))
    if revision == scripts.get_current_head():
        return ""
    known = revision in {each.revision for each in scripts.walk_revisions()}
    return "newer" if not known else "older" if used else ""
