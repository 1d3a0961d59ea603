"""Model cards: the front matter suits Hugging Face, and undefined metrics have no number."""

import math
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from aelab.report import card
from aelab.report.card import Card
from aelab.report.evidence import Entry, Evidence


def made(**changes: Any) -> Card:
    nothing: dict[str, Any] = {"data": ["10 images"], "procedure": ["9 steps"], "limits": ["one seed"]}
    return Card(
        **{
            "name": "mnist-ae", "about": "An autoencoder.", "dataset": "mnist", **nothing,
            "undefined": {"neg_elbo": "there is no prior"}, "parameters": "ae:\n  model: ae\n",
            "uses": ["aelab encode in out --model models/ae"], "commit": "abc",
        } | changes
    )  # fmt: skip


def evidence(**metrics: float) -> tuple[Entry, Evidence]:
    ae = Entry("ae", pixels=None, parameters={"model": "ae"}, curves=[])
    pca = Entry("pca", pixels=None, parameters={"model": "pca"}, curves=[], floor=True)
    rows = [{"entry": "ae", "seed": seed, **{name: value + seed for name, value in metrics.items()}} for seed in (0, 1)]
    return ae, Evidence([ae, pca], pd.DataFrame([*rows, {"entry": "pca", "seed": 0, "mse": 7.0}]))


def front(text: str) -> dict[str, Any]:
    opening, content, _ = text.split("---\n", 2)
    assert opening == ""
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(content)
    return found


def problems(content: dict[str, Any]) -> list[str]:
    """Return the fields that Hugging Face's documentation requires and the card lacks."""
    texts = [key for key in ("license", "library_name") if not isinstance(content.get(key), str)]
    lists = [
        key for key in ("tags", "datasets", "metrics")
        if not isinstance(content.get(key), list) or not all(isinstance(each, str) for each in content[key])
    ]  # fmt: skip
    wrong = []
    for model in content["model-index"]:
        wrong += [] if isinstance(model["name"], str) else ["name"]
        for result in model["results"]:
            wrong += [] if result["task"]["type"] and {"type", "name"} <= result["dataset"].keys() else ["result"]
            wrong += [
                each["type"] for each in result["metrics"]
                if not isinstance(each["value"], float) or not math.isfinite(each["value"])
            ]  # fmt: skip
    return texts + lists + wrong


def test_the_front_matter_is_what_hugging_face_reads() -> None:
    content = front(card.markdown(made(), *evidence(mse=1.0, psnr=20.0)))
    assert problems(content) == []
    (model,) = content["model-index"]
    (result,) = model["results"]
    assert {each["type"]: each["value"] for each in result["metrics"]} == {"mse": 1.5, "psnr": 20.5}
    assert (content["datasets"], content["metrics"]) == (["mnist"], ["mse", "psnr"])
    assert problems(content | {"license": None}) == ["license"]
    result["metrics"][0]["value"] = math.nan
    assert problems(content) == ["mse"]


def test_what_is_not_defined_is_said_and_is_no_number() -> None:
    text = card.markdown(made(), *evidence(mse=1.0))
    row = next(line for line in text.splitlines() if line.startswith("| −ELBO"))
    assert row.split(" | ")[1:] == ["n/a", "n/a |"]
    assert "- −ELBO: n/a, there is no prior.\n" in text
    assert "neg_elbo" not in str(front(text))


def test_numbers_stand_with_their_intervals_beside_the_floors() -> None:
    text = card.markdown(made(), *evidence(mse=1.0))
    assert "±: 95 % interval over seeds" in text
    row = next(line for line in text.splitlines() if line.startswith("| MSE"))
    assert [each[:7] for each in row.split(" | ")[1:]] == ["1.50000", "7.00000"]
    assert "±" in row.split(" | ")[1]


def test_an_entry_of_which_no_seed_finished_has_a_card_without_figures() -> None:
    ae, found = evidence(mse=1.0)
    text = card.markdown(made(), ae, Evidence(found.entries, found.results[found.results["entry"] != "ae"]))
    assert front(text)["model-index"] == [{"name": "mnist-ae", "results": []}]


@pytest.mark.parametrize("name", ["a: b", "- x", "{y}"])
def test_no_name_breaks_the_front_matter(name: str) -> None:
    assert front(card.markdown(made(name=name), *evidence(mse=1.0)))["model-index"][0]["name"] == name
