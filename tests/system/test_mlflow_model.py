"""The model that MLflow serves: tested in this process, and by HTTP with a real `mlflow models serve`."""

import contextlib
import json
import os
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from aelab.models import checkpoint
from aelab.report.champions import ALIAS, Candidate, Champion
from aelab.report.mlflow_writer import FINISHED, Evaluated, Projector, Run
from tests.support import servers
from tests.support.processes import PATIENCE, started, wait_for
from tests.support.toys import IMAGE, squares, toy_model

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of MLflow about its packages


@pytest.fixture
def served(tmp_path: Path) -> Any:
    with warnings.catch_warnings(record=True):  # MLflow warns at each import
        from aelab.report.mlflow_model import Served  # noqa: PLC0415

    checkpoint.save(toy_model("vae"), tmp_path / "seed0.safetensors")
    served = Served()

    class Context:
        artifacts = {"weights": str(tmp_path / "seed0.safetensors")}

    served.load_context(cast("Any", Context()))
    return served


def test_it_reconstructs_unless_it_is_told_otherwise(served: Any) -> None:
    x = squares()[:3].astype(np.float32) / 255
    y = served.predict(x)
    np.testing.assert_array_equal(y, served.predict(x, {"task": "reconstruct", "seed": 5}))
    np.testing.assert_array_equal(y, served.model.reconstruct(torch.from_numpy(x)).detach().numpy())
    codes = served.predict(x, {"task": "encode"})
    assert codes.shape == (3, 4)
    assert served.predict(x, {"task": "score", "by": "neg_elbo"}).shape == (3,)
    decoded = served.predict(x[:0], {"task": "decode", "codes": codes.flatten().tolist()})
    np.testing.assert_allclose(decoded, y, atol=1e-6)


def test_of_no_images_nothing_is_made(served: Any) -> None:
    assert served.predict(np.zeros((0, *IMAGE), np.float32)).shape == (0, *IMAGE)


@pytest.mark.parametrize("params", [{"task": "paint"}, {"task": "interpolate"}, {"task": "sample", "count": 0}])
def test_what_cannot_be_done_is_the_callers_mistake(params: dict[str, Any], served: Any) -> None:
    with pytest.raises(MlflowException) as caught:
        served.predict(np.zeros((3, *IMAGE), np.float32), params)
    assert caught.value.get_http_status_code() == 400


class Serving:
    """A running `mlflow models serve`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def answers(self) -> bool:
        """Whether it does."""
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=PATIENCE),
        ):
            return True
        return False

    def ask(self, inputs: Any, **params: Any) -> tuple[int, Any]:
        """Return the HTTP status and the answer: predictions or an error."""
        content = json.dumps({"inputs": inputs} | ({"params": params} if params else {})).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/invocations", content, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, np.array(json.load(answer)["predictions"])
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["message"]


def project(tmp_path: Path, uri: str) -> None:
    """Write a run to MLflow whose model is the champion of generation."""
    weights = tmp_path / "seed0.safetensors"
    checkpoint.save(toy_model("vae"), weights)
    result = Evaluated("f", 2.0, {"validation/neg_elbo": 1.0}, [], weights, "toy", {"train": "0" * 32}, IMAGE)
    projector = Projector(uri, tmp_path / "mlruns", tmp_path / "lock")
    projector.open("")
    assert projector.project(Run("vae-seed0", "", "t", FINISHED, 1.0, {}, {}, [], result))
    best = Candidate("vae", {"neg_elbo": 1.0}, "Bernoulli", "f", "toy")
    assert projector.promote(Champion("generation", 1.0, 1.0, best))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    tmp_path = tmp_path_factory.mktemp("served")
    uri, port = f"sqlite:///{tmp_path / 'mlflow.db'}", servers.free_port()
    project(tmp_path, uri)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/toy-generation@{ALIAS}",
               "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
    serving = Serving(port)
    with (tmp_path / "log").open("w") as log, started(command, stdout=log, stderr=log, env=environment) as process:
        wait_for(lambda: serving.answers() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")[-3000:]
        yield serving


X = squares()[:3].astype(np.float32) / 255


def test_the_server_does_every_task(server: Serving) -> None:
    model = toy_model("vae")
    with torch.no_grad():
        expected = model.reconstruct(torch.from_numpy(X)).numpy()
    status, y = server.ask(X.tolist())
    assert status == 200
    np.testing.assert_allclose(y, expected, atol=1e-5)
    status, codes = server.ask(X.tolist(), task="encode")
    assert (status, codes.shape) == (200, (3, 4))
    _, decoded = server.ask(X[:1].tolist(), task="decode", codes=codes.flatten().tolist())
    np.testing.assert_allclose(decoded, expected, atol=1e-5)
    first, again, other = (server.ask(X[:1].tolist(), task="sample", count=5, seed=seed)[1] for seed in (1, 1, 2))
    assert first.shape == (5, *IMAGE)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert server.ask(X[:2].tolist(), task="interpolate", steps=6)[1].shape == (6, *IMAGE)
    errors = np.square(X - expected).mean((1, 2, 3))
    np.testing.assert_allclose(server.ask(X.tolist(), task="score")[1], errors, rtol=1e-3)
    assert server.ask(X.tolist(), task="score", by="rate")[1].shape == (3,)


@pytest.mark.parametrize(
    ("inputs", "params", "problem"),
    [
        (np.zeros((2, 3, 8, 8)), {}, "Shape of input (2, 3, 8, 8) does not match expected shape (-1, 1, 8, 8)"),
        (np.zeros((8, 8)), {}, "Shape of input (8, 8) does not match"),
        (np.full((1, *IMAGE), "a"), {}, "could not convert string to float"),
        (np.full((1, *IMAGE), 255), {}, "images must have values from 0 to 1"),
        (
            X,
            {"task": "paint"},
            "there is no task 'paint'; the tasks are reconstruct, encode, decode, sample, interpolate",
        ),
        (X, {"task": "sample", "count": "many"}, "count"),
        (X, {"task": "score", "by": "blur"}, "there is no score 'blur'; the scores of this model: mse, neg_elbo, rate"),
        (X, {"task": "interpolate"}, "an interpolation needs 2 images; got 3"),
        (np.zeros(0), {}, "suggests a numpy array input"),  # JSON has no shape for an empty array
    ],
)
def test_the_server_says_what_is_wrong(inputs: Any, params: dict[str, Any], problem: str, server: Serving) -> None:
    status, message = server.ask(inputs.tolist(), **params)
    assert status == 400
    assert problem in message


def test_a_param_of_another_name_is_left_out(server: Serving) -> None:
    """MLflow drops unknown parameters before it asks the model; docs/models.md warns of that."""
    status, y = server.ask(X.tolist(), tusk="encode")
    assert (status, y.shape) == (200, X.shape)
