"""A team's MLflow as in compose.yaml, with processes as services: PostgreSQL, an S3 store, a server."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML

from aelab.report.mlflow_writer import Projector
from tests.support import forks, servers
from tests.support.processes import wait_for
from tests.support.project import REPOSITORY
from tests.support.runs import runs_at, toy_run
from tests.support.s3 import S3, s3

COMPOSE: dict[str, Any] = YAML(typ="safe", pure=True).load(REPOSITORY / "compose.yaml")
RUNS = 2
pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of MLflow


def test_the_services_have_the_lock_s_versions_and_no_secret() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    text = (REPOSITORY / "compose.yaml").read_text(encoding="utf-8")
    pinned = re.findall(r"([\w-]+==[\d.]+)", text)
    assert len(pinned) == 3
    assert all(f"\n{each} " in lock for each in pinned)
    rclone = re.search(r"rclone/rclone:([\d.]+)", text)
    assert rclone
    development = (REPOSITORY / "requirements-dev.lock").read_text(encoding="utf-8")
    assert f"\nrclone-bin=={rclone[1]} " in development  # the packages of the tests
    for name, service in COMPOSE["services"].items():
        for key, value in service["environment"].items():
            assert "$" in value or not re.search("SECRET|PASSWORD|AUTH", key), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, S3]]:
    """Return the address of the server that compose.yaml starts, and its store."""
    if servers.postgresql_programs() is None:
        pytest.skip("needs PostgreSQL: Debian's package postgresql")
    place, port = tmp_path_factory.mktemp("team"), str(servers.free_port())
    services = COMPOSE["services"]
    with servers.postgresql(place / "database") as database, s3(place / "store") as store:
        store.kill()  # it was started with the other tests' settings
        address = {":8080": f"127.0.0.1:{store.port}", "/data": str(store.folder)}
        store.command = [address.get(word, word) for word in services["store"]["command"]]
        store.keys = services["store"]["environment"]["RCLONE_AUTH_KEY"].replace("${S3_SECRET}", store.secret)
        store.key, store.bucket = "mlflow", "mlflow"
        (store.folder / "mlflow").mkdir()
        store.start()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        here = {
            "PATH": path,
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_S3_ENDPOINT_URL": store.url,
            "AWS_SECRET_ACCESS_KEY": store.secret,
        }
        own = _without_keys() | services["server"]["environment"] | here
        *shell, script = services["upgrade"]["command"]
        subprocess.run([*shell, script.replace("$$", "$")], env=own, check=True, capture_output=True)
        words = {"0.0.0.0": "127.0.0.1", "5000": port, "4": "1"}  # noqa: S104
        command = [words.get(word, word) for word in services["server"]["command"]]
        server = servers.Server(place / "unused")
        server.port = int(port)
        try:
            with (place / "log").open("wb") as log:
                server.process = subprocess.Popen(
                    command, cwd=place, env=own, stdout=log, stderr=log, start_new_session=True
                )
            server.wait(place / "log")
            _, *healthy = services["server"]["healthcheck"]["test"]
            subprocess.run([word.replace(":5000/", f":{port}/") for word in healthy], env=own, check=True)
            yield server.uri, store
        finally:
            server.kill()


def _without_keys() -> dict[str, str]:
    """Return this environment without keys for a store."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("AWS", "MLFLOW_S3"))}


def machine(uri: str, folder: Path, names: list[str]) -> None:
    """Write runs with these names from another folder, as the report does, and try again after failures."""
    for key in os.environ.keys() - _without_keys().keys():
        del os.environ[key]
    folder.mkdir()
    run, projector = toy_run(folder), Projector(uri, folder / "mlruns", folder / "lock")
    left = list(names)

    def written() -> bool:
        with contextlib.suppress(MlflowException):  # several machines create the experiment's tags at once
            projector.open("columns")
            while left:
                projector.project(replace(run, name=left[0], training=left[0]))
                del left[0]
        return not left

    wait_for(written)


def test_machines_write_each_their_own_runs_and_none_again(team: tuple[str, S3], tmp_path: Path) -> None:
    uri, store = team
    names = [f"run{i}" for i in range(RUNS)]
    for turn in ([(uri, tmp_path / name, [name]) for name in names], [(uri, tmp_path / "late", names)]):
        with forks.started(machine, turn) as machines:
            for each in machines:
                each.join()
            assert [each.exitcode for each in machines] == [0] * len(turn)
    found = runs_at(uri)
    assert sorted(str(run.info.run_name) for run in found) == [f"run{i}" for i in range(RUNS)]
    client = MlflowClient(uri)
    for run in found:
        assert run.data.metrics["test/mse"] == 0.5
        assert len(client.get_metric_history(run.info.run_id, "autoencoder/train_loss")) == 2
        kept = client.download_artifacts(run.info.run_id, "figures/figure.png", str(tmp_path))
        assert Path(kept).read_bytes() == b"png"
    stored = [path.name for path in (store.folder / store.bucket).rglob("*") if path.is_file()]
    assert stored.count("figure.png") == RUNS


def test_without_its_store_the_server_says_so_and_writes_it_later(team: tuple[str, S3], tmp_path: Path) -> None:
    uri, store = team
    run = replace(toy_run(tmp_path), name="late", training="late")
    projector = Projector(uri, tmp_path / "mlruns", tmp_path / "lock")
    projector.open("columns")
    store.kill()
    with pytest.raises(Exception, match=r"500|artifacts|INTERNAL"):
        projector.project(run)
    store.start()
    projector.open("columns")
    assert projector.project(run)
    (late,) = (each for each in runs_at(uri) if each.info.run_name == "late")
    assert late.info.status == "FINISHED"
