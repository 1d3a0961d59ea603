"""The MLflow that runs are written to and models are read from: where it is, and what waiting for it does not mend."""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from aelab.core.errors import UserError

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")  # where the runs are
DATABASE = "mlflow.db"
EXPERIMENT = "autoencoders"
NEW = "`make track` writes all that is on disk into a new one"
DELETED = (
    "the experiment {0} of MLflow at {at} is deleted: `MLFLOW_TRACKING_URI={typed} mlflow experiments restore "
    "--experiment-id {0}` brings it back, or set MLFLOW_EXPERIMENT_NAME to another name; then `make track`"
)
UNUSABLE = (
    "MLflow at {at} cannot be written ({said}): free space, permit writing there, or name another place in "
    "MLFLOW_TRACKING_URI"
)
NO_ADDRESS = (
    "{at} is no address of an MLflow ({said}): set MLFLOW_TRACKING_URI to http://HOST:5000, https://…, "
    "sqlite:////FOLDER/mlflow.db or postgresql+psycopg2://…, or unset it"
)
REFUSED = (
    "MLflow at {at} refuses the credentials ({said}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
    "MLFLOW_TRACKING_TOKEN, to those of a user with that right; databases and stores of artifacts have their own"
)
LASTING = {  # what mends it, by what MLflow, a database or a server says
    "unsupported URI|Unity Catalog tracking URI|filesystem tracking backend": NO_ADDRESS,
    "ArgumentError|NoSuchModule|No module named|InvalidUrl": NO_ADDRESS,
    r"The experiment (\S+) must be in the 'active' state": DELETED,
    "error code 40[13]|40[13] Client Error|Unauthorized|Forbidden|UNAUTHENTICATED|PERMISSION_DENIED": REFUSED,
    "authentication failed|no pg_hba.conf|Reading Databricks credential": REFUSED,
    "Access ?Denied|Unable to locate credentials|InvalidAccessKeyId|SignatureDoesNotMatch": REFUSED,
    "certificate verify failed|wrong version number|record layer failure": (
        "MLflow at {at} has a certificate that is not trusted ({said}): set MLFLOW_TRACKING_SERVER_CERT_PATH to the "
        "file of its authority, or write http:// if the server has none"
    ),
    "error code 404|404 Client Error|not in a valid JSON format": (
        "what answers at {at} is no MLflow ({said}): another service listens there, a part of the path is missing, or "
        "the server is older than MLflow 3"
    ),
    "file is not a database|disk image is malformed": (
        f"{{at}} is damaged or no database at all ({{said}}): move the file away; {NEW}"
    ),
    "unable to open database|readonly database|disk is full|disk I/O error": UNUSABLE,
    r"(?:database|role) \S+ does not exist|Unknown database": "MLflow at {at} lacks what its address names: {said}",
}
NO_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def prepare() -> None:
    """Have MLflow say nothing itself, and a server that is away cost seconds only."""
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what goes wrong is an exception, too
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # two lines a run that lead to the wrong page
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def address(folder: Path) -> str:
    """$MLFLOW_TRACKING_URI, or the database of a project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / DATABASE}"


def experiment() -> str:
    """The name of the experiment that has the runs."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def file_of(uri: str) -> Path | None:
    """The file of a database that is one."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def public(uri: str) -> str:
    """An address, or a text with some, without passwords."""
    return re.sub(r"(//[^/:@\s]*):[^/@\s]*@", r"\1:…@", uri)


def said(error: Exception) -> str:
    """The first sentence of what an exception says, without its class and the SQL that it came of."""
    words = public(" ".join(re.sub(r"^\(\S+\) ", "", str(error)).split()))
    return re.split(r"\. |\.?$| ?\[SQL: | ?\(Background on", words, maxsplit=1)[0]


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Tell what waiting does not mend from what waiting may: a lock, a server that is away, an error of its own.

    Raises:
        UserError: waiting does not mend what went wrong; the sentence says what does.
        Exception: waiting may.
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
    """What there is to say of a deleted experiment."""
    return _told(DELETED, uri, number)


def _told(sentence: str, uri: str, *named: str, said: str = "") -> UserError:
    return UserError(sentence.format(*named, at=public(uri), typed=quote(public(uri)), said=said))


def check(uri: str) -> None:
    """Look whether a database is one for this MLflow, which itself tries for minutes or upgrades it without a copy.

    Raises:
        UserError: it is not; the sentence says what to do.
        Exception: it cannot be read just now.
    """
    file = file_of(uri)
    if uri.startswith(("http:", "https:")) or (file is not None and not file.exists()):
        return
    import mlflow  # noqa: PLC0415 - slow to import
    from mlflow.store.db.db_types import DATABASE_ENGINES  # noqa: PLC0415

    if re.split(r"[+:]", uri)[0] not in DATABASE_ENGINES:
        return  # what MLflow says of it is enough
    with explained(uri):
        problem = _mismatch(uri)
    here = f"the {mlflow.__version__} of this environment"
    copy = f"cp {quote(str(file))} {quote(f'{file}.copy')}" if file else "dump it with the database's own tools"
    sentences = {
        "foreign": "holds tables of something else: name another file or database in MLFLOW_TRACKING_URI",
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
    """Whether a database is "foreign" to MLflow, or of an "older" or a "newer" one; "" if nothing is wrong.

    An older one without runs is what is left of a process that was killed while it made the tables: MLflow goes on.
    """
    from alembic.migration import MigrationContext  # noqa: PLC0415 - MLflow's own, slow to import
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
