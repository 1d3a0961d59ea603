"""ui: serve the project's MLflow on this machine, and print the address of the page with all runs."""

import os
import socket
import sys
from typing import Annotated

import typer

from aelab.core.errors import UserError
from aelab.inference import mlflow_store
from aelab.report.mlflow_writer import PORT, page
from pipeline.common import paths

HOST = "127.0.0.1"  # only for this machine, because MLflow's page has no passwords
COMMAND = (sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--workers", "1", "--port")


def main(
    *, port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server; `make ui PORT=…` sets it.")] = PORT
) -> None:
    """Print the address of MLflow's page of runs. If $MLFLOW_TRACKING_URI names no server, start a server."""
    uri = mlflow_store.address(paths.root())
    try:
        mlflow_store.prepare()
        address = _address(uri, port)
    except UserError as error:
        sys.exit(f"\n{error}\n")
    except Exception as error:  # noqa: BLE001 - databases and networks raise many classes of errors
        sys.exit(f"\nMLflow at {mlflow_store.public(uri)} does not answer: {mlflow_store.said(error)}\n")
    if uri.startswith("http"):
        print(f"The runs: {address} (on a server, so this command serves nothing)")
        return
    print(f"The runs: {address}", flush=True)
    less = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # otherwise, MLflow starts four processes without work
    os.execve(COMMAND[0], [*COMMAND, str(port)], os.environ | less | {"MLFLOW_BACKEND_STORE_URI": uri})  # noqa: S606


def _address(uri: str, port: int) -> str:
    """Check that the database exists and the port is free, and return the address of MLflow's page of runs."""
    file = mlflow_store.file_of(uri)
    if file is not None and not file.exists():
        msg = f"{file} does not exist: `make repro` writes it, or `make track` from the results on disk"
        raise UserError(msg)
    mlflow_store.check(uri)
    with mlflow_store.explained(uri):
        address = page(uri, port)
    if not uri.startswith("http") and (problem := _problem(port)):
        free = next((each for each in range(PORT + 1, 65536) if not _problem(each)), PORT)
        msg = f"port {port} {problem}: `make ui PORT={free}` uses another port"
        raise UserError(msg)
    return address


def _problem(port: int) -> str:
    """Return the reason why a port cannot be used, or "" if the port is free."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:  # macOS lets two programs listen on one port
            return "is taken by another program"
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    return ""


if __name__ == "__main__":
    typer.run(main)
