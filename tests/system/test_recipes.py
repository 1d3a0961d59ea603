"""Recipes: each one works, a mistake is reported in a sentence, and verdicts follow from the numbers."""

import csv
import json
import shutil
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from aelab.core import disk
from aelab.core.errors import UserError
from aelab.data import datasets
from aelab.evaluation.metric_names import FACTORS
from aelab.ingest import downloads
from pipeline.common import params, paths
from pipeline.stages import classify, corrupt, evaluate, noise, sources, train
from pipeline.tools import recipe
from pipeline.tools.recipe import Expected, Recipe
from pipeline.training.training_folder import TrainingFolder
from tests.support.parameters import DEFAULT
from tests.support.processes import command_of, end, started, wait_for, working_in
from tests.support.project import REPOSITORY, Project
from tests.system.conftest import Copy

NAMES = sorted(path.stem for path in (REPOSITORY / "recipes").glob("*.yaml"))

TINY: dict[str, Any] = {
    "title": "Tiny",
    "paper": "A paper",
    "table": "table 1",
    "setting": "a toy",
    "expected": [{"entry": "small", "metric": "mse", "value": 0.5}, {"entry": "small", "metric": "psnr", "value": 99}],
    "kept": ["curves/validation/small-autoencoder.csv"],
    "minutes": {"cpu": 1},
    "differs": [],
    "params": {
        "dataset": {"name": "digits"},
        "seeds": [3, 4],
        "training": {"steps": 1500, "batch_size": 16},
        "variants": {
            "small": {
                "model": "ae",
                "inputs": "clean",
                "network": {"name": "mlp", "hidden": [8], "activation": "tanh"},
                "code": 2,
            }
        },
    },
}


def tiny(**changes: Any) -> dict[str, Any]:
    return deepcopy(TINY) | changes


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder in which the tests run, with the recipe `tiny`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "results").mkdir(parents=True)
    put(tmp_path, tiny())
    return tmp_path


def put(folder: Path, content: object, name: str = "tiny") -> None:
    with (folder / "recipes" / f"{name}.yaml").open("w") as file:
        YAML().dump(content, file)


# --- existing recipes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_and_so_is_its_trial(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    found, wanted = recipe.load(name, DEFAULT)
    for each in recipe.settings(name, found, wanted).values():
        checked = params.check(recipe.trial(each))
        assert checked.dataset.name == "digits"
        assert len(checked.seeds) == 1
        for entry in checked.variants:
            assert checked.training.override(checked.entry(entry).training).steps <= recipe.TRIAL["steps"]


def shortened(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return an even shorter trial."""
    with pytest.MonkeyPatch.context() as patch:
        less = {"steps": 2, "batch_size": 16, "samples": 16, "images": 4, "noisy_images": 8}
        patch.setattr(recipe, "TRIAL", less)
        return recipe.trial(wanted)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the inputs of the stages: the code, a few digits, also corrupted, and their classifier."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("src", "pipeline", "dvc.yaml", "requirements.lock"):
        (folder / name).symlink_to(REPOSITORY / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        digits = downloads.load("digits")
        few = {name: (split, rows[:64]) for name, (split, rows) in digits.splits.items()}
        datasets.Data(digits.image, few).save(paths.CLEAN)
        small = params.check(shortened(DEFAULT))
        noise.work(small, {})
        classify.work(small, {})
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_and_gives_its_figures(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    found, wanted = recipe.load(name, DEFAULT)
    small = shortened(wanted)
    monkeypatch.chdir(place)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)  # a training sets its own folder
    paths.ANOMALIES.unlink(missing_ok=True)
    if "dataset.anomalies" in found.sweep or small["dataset"]["anomalies"]:
        np.save(paths.ANOMALIES, np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), np.uint8))
    disk.seal(paths.ANOMALIES.parent)
    YAML().dump(small, Path("params.yaml"))
    sources.main()
    for inputs in {section["inputs"] for section in small["variants"].values()} - {params.CLEAN}:
        corrupt.main(inputs)
    checked, rows = params.check(small), []
    (seed,) = checked.seeds
    for entry in checked.variants:
        train.train_seed(checked, entry, seed)
        TrainingFolder.of(entry, seed, checked, train._machine(checked)).hand_over(entry, seed)
        measured, *_ = evaluate.evaluate(checked, entry, seed)
        row = {"entry": entry, "seed": str(seed), "status": measured["status"], "device": "cpu"}
        row["train_cpu_seconds"] = "1"
        rows.append(row | {key: str(value) for key, value in measured["metrics"]["test"].items()})
    figures = recipe.figures(found, small, rows)
    assert all(figure["mean"] is not None for figure in figures if figure["value"] is not None)
    for metric in set(found.shown) - set(FACTORS):  # the digits have no known factors
        assert any(figure["mean"] is not None for figure in figures if figure["metric"] == metric), metric


def test_the_table_of_results_is_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert recipe.TABLE.read_text(encoding="utf-8") == recipe.page()


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (tiny(papper="x"), "papper is an unknown key; known here: extends, title, paper, .*; did you mean paper"),
        (tiny(minutes={"cpu": -1}), "minutes.cpu is -1: must be greater than 0"),
        (tiny(expected=[]), "expected or shown must name a metric"),
        (tiny(expected=[{"entry": "small", "metric": "mes", "value": 1.0}]), 'expected.0.metric is "mes": must be'),
        (tiny(shown=["mes"]), 'shown.0 is "mes": must be codes_active or a metric of docs/metrics.md'),
        (tiny(extends="bigger"), "extends names 'bigger', which is no recipe; there are "),
        (
            tiny(expected=[{"entry": "small", "metric": "rate", "value": 1.0}]),
            "set better to lower or higher",
        ),
        (
            tiny(expected=[{"entry": "big", "metric": "mse", "value": 1.0}]),
            "`expected` names big; the entries are small",
        ),
        (tiny(params={"training": {"step": 5}}), "params: training.step is an unknown key; .*did you mean steps"),
        (tiny(params={"variants": {"small": {"model": "ea"}}}), "params: variants.small.model: unknown "),
        ("three words only", "the file is"),
    ],
)
def test_a_mistake_is_a_sentence(shelf: Path, content: object, sentence: str) -> None:
    put(shelf, content)
    with pytest.raises(UserError, match=sentence) as raised:
        recipe.load("tiny", DEFAULT)
    assert str(raised.value).startswith("recipes/tiny.yaml")


def test_a_recipe_without_a_mistake_has_none(shelf: Path) -> None:
    assert shelf.exists()
    assert recipe.load("tiny", DEFAULT)[0].title == "Tiny"


def test_an_unknown_recipe_is_a_sentence(shelf: Path) -> None:
    assert shelf.exists()
    with pytest.raises(UserError, match="there is no recipe 'tinny'; there are tiny"):
        recipe.load("tinny", DEFAULT)


def test_a_copy_finds_what_was_downloaded(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.raw() == Path("data/raw")
    copied = shelf / ".dvc/tmp/copy"
    copied.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(shelf))
    monkeypatch.chdir(copied)
    assert paths.raw().resolve() == shelf / "data/raw"


# --- parameters -------------------------------------------------------------------------------------------------------


def test_params_are_merged_and_entries_replaced() -> None:
    wanted = recipe.merged(DEFAULT, TINY["params"])
    assert wanted["training"] == DEFAULT["training"] | {"steps": 1500, "batch_size": 16}
    assert list(wanted["variants"]) == ["small"]
    assert wanted["seeds"] == [3, 4]
    assert wanted["corruption"] == DEFAULT["corruption"]


def test_dvc_makes_of_the_overrides_what_was_wanted(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides  # noqa: PLC0415 - slow

    odd: dict[str, Any] = {"none": None, "yes": True, "small": 1e-07, "empty": {}, "list": [1, "a"], "text": "1e-3"}
    odd |= {"path": r"it's C:\new\'s {x: [1]}, \\", "nothing": ""}
    wanted = {**recipe.merged(DEFAULT, TINY["params"]), "odd": odd}
    del wanted["evaluation"]
    file = tmp_path / "params.yaml"
    file.write_text((REPOSITORY / "params.yaml").read_text())
    apply_overrides(file, recipe.overrides(DEFAULT, wanted))
    assert YAML(typ="safe", pure=True).load(file) == wanted
    assert recipe.overrides(wanted, wanted) == []


# --- verdicts ---------------------------------------------------------------------------------------------------------


def rows(*values: float, status: str = "finished") -> list[dict[str, str]]:
    same = {"entry": "small", "status": status, "psnr": "n/a", "device": "cpu", "train_cpu_seconds": "2.0"}
    return [same | {"seed": str(i), "mse": str(each), "codes_used": str(each)} for i, each in enumerate(values)]


def figure(expected: dict[str, Any], measured: list[dict[str, str]], **section: Any) -> dict[str, Any]:
    wanted = Recipe.model_validate(tiny(expected=[{"entry": "small", **expected}]))
    (found,) = recipe.figures(wanted, {"variants": {"small": section}}, measured)
    return found


@pytest.mark.parametrize(
    ("value", "better", "verdict"),
    [
        (4.5, None, "reached, 2.50000 better"),
        (4.4, None, "undecided, 2.40000 better"),
        (2.0, None, "undecided, 0.00000 better"),
        (1.0, None, "undecided, 1.00000 worse"),
        (-0.5, None, "not reached, 2.50000 worse"),
        (4.5, "higher", "not reached, 2.50000 worse"),
    ],
)
def test_a_verdict_follows_from_mean_and_interval(value: float, better: str | None, verdict: str) -> None:
    found = figure({"metric": "mse", "value": value, "better": better}, rows(1.0, 2.0, 3.0))
    assert found["mean"] == 2.0
    assert found["interval"] == pytest.approx(4.302653 / 3**0.5)  # t(0.975; 2)·1/√3
    assert recipe.verdict(found) == verdict


def test_one_seed_has_no_interval() -> None:
    found = figure({"metric": "mse", "value": 1.0}, rows(2.0))
    assert found["interval"] is None
    assert recipe.verdict(found) == "one seed: 1.00000 worse"


def test_seeds_that_agree_reach_what_they_equal() -> None:
    found = figure({"metric": "mse", "value": 2.0}, rows(2.0, 2.0, 2.0))
    assert found["interval"] == 0
    assert recipe.verdict(found) == "reached, 0.00000 better"


def test_psnr_of_the_mean_is_no_mean_of_psnrs() -> None:
    found = figure({"metric": "psnr_of_mse", "value": 1.0}, rows(0.1, 0.001))
    assert found["mean"] == pytest.approx(20.0)


def test_a_floor_has_no_seconds() -> None:
    found = figure({"metric": "mse", "value": 1.0}, [row | {"train_cpu_seconds": "n/a"} for row in rows(1.0)])
    assert found["train_cpu_seconds"] is None
    assert recipe._published([found])[0][-1] == "–"


def test_what_is_shown_is_a_table_of_entries_by_metrics() -> None:
    wanted = Recipe.model_validate(tiny(expected=[], shown=["mse", "psnr"]))
    found = recipe.figures(wanted, {"variants": {"small": {}}}, rows(1.0, 2.0, 3.0))
    header, row = recipe._shown(found)
    assert header == ["entry", "MSE", "PSNR (dB)", "seeds", "CPU s/seed"]
    assert row == ["small", "2.00000 ± 2.48414", "n/a", "3", "2"]
    assert recipe._published(found) == []
    diverged = recipe.figures(wanted, {"variants": {"small": {}}}, rows(0.0, status="diverged at step 3"))
    assert recipe._shown(diverged)[1][1] == "small, seed 0: diverged at step 3"
    assert recipe._shown([]) == []


def test_a_file_that_the_report_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_reported", lambda *_: None)
    with pytest.raises(
        UserError, match=r"tiny\.yaml: `kept` names figures/x\.svg, which the experiment's report lacks"
    ):
        recipe._kept("tiny", "figures/x.svg")


def test_a_recipe_extends_another(shelf: Path) -> None:
    put(shelf, {"extends": "tiny", "title": "Longer", "params": {"training": {"steps": 9}}}, "longer")
    found, wanted = recipe.load("longer", DEFAULT)
    _, base = recipe.load("tiny", DEFAULT)
    assert (found.title, found.paper) == ("Longer", TINY["paper"])
    assert wanted == base | {"training": base["training"] | {"steps": 9}}


def test_a_sweep_is_an_experiment_for_each_value(shelf: Path) -> None:
    put(shelf, tiny(sweep={"dataset.train_images": [100, 200]}, kept=[]))
    found, wanted = recipe.load("tiny", DEFAULT)
    of_each = recipe.settings("tiny", found, wanted)
    assert {name: each["dataset"]["train_images"] for name, each in of_each.items()} == {"tiny-0": 100, "tiny-1": 200}
    assert all({**each, "dataset": 0} == {**wanted, "dataset": 0} for each in of_each.values())
    put(shelf, tiny(sweep={"dataset.train_images": [100, 1]}, kept=[]))
    with pytest.raises(UserError, match=r"dataset\.train_images is 1: must be"):  # every value is checked
        recipe.load("tiny", DEFAULT)
    put(shelf, tiny(sweep={"dataset.train_images": [100, 200]}))
    with pytest.raises(UserError, match="sweep must name one parameter, and a recipe with sweep must"):
        recipe.load("tiny", DEFAULT)


def test_a_seed_of_a_sweep_has_its_mean_over_the_experiments() -> None:
    found = figure({"metric": "mse", "value": 1.0}, [*rows(1.0, 2.0, 3.0), *rows(3.0, 2.0, 4.0)])
    assert found["values"] == {"0": 2.0, "1": 2.0, "2": 3.5}
    assert found["mean"] == pytest.approx(2.5)
    assert found["interval"] == pytest.approx(4.302653 * 0.75**0.5 / 3**0.5)
    undefined = rows(1.0, 2.0, 3.0)
    undefined[0]["mse"] = "n/a"
    assert figure({"metric": "mse", "value": 1.0}, [*rows(1.0, 2.0, 3.0), *undefined])["mean"] is None
    diverged = rows(9.0, status="diverged at step 3")
    assert figure({"metric": "mse", "value": 1.0}, [*rows(1.0, 2.0), *diverged])["mean"] is None


def test_on_a_gpu_the_seconds_are_wall_time() -> None:
    measured = [row | {"device": "cuda", "train_seconds": "3.0"} for row in rows(1.0)]
    found = figure({"metric": "mse", "value": 1.0}, measured)
    assert (found["train_seconds"], "train_cpu_seconds" in found) == (3.0, False)


def test_a_diverged_seed_leaves_no_mean() -> None:
    found = figure({"metric": "mse", "value": 5.0}, [*rows(1.0, 2.0), *rows(0.0, status="diverged at step 3")])
    assert found["mean"] is None
    assert recipe.verdict(found) == "small, seed 0: diverged at step 3"


def test_an_undefined_metric_is_no_zero() -> None:
    found = figure({"metric": "psnr", "value": 5.0}, rows(1.0, 2.0))
    assert found["mean"] is None
    assert recipe.verdict(found) == "undefined for this entry"


def test_codes_are_counted_in_percent_of_the_codebook() -> None:
    sixteen = {"name": "codebook", "codes": 16, "dimensions": 2}
    found = figure({"metric": "codes_active", "value": 25}, rows(4.0, 8.0), quantizer=sixteen)
    assert found["values"] == {"0": 25.0, "1": 50.0}
    assert recipe.verdict(found) == "undecided, 12.5 better"


def test_a_target_says_the_direction() -> None:
    assert Expected(entry="a", metric="mse", value=0.5).target == "MSE ≤ 0.5"
    assert Expected(entry="a", metric="psnr", value=28).target == "PSNR (dB) ≥ 28"


# --- the real DAG -----------------------------------------------------------------------------------------------------

COMMAND = (sys.executable, "-m", "pipeline.tools.recipe")


@pytest.fixture(scope="module")
def project(copy: Copy) -> Project:
    """Commit a finished DAG with the recipe `tiny`, which can reuse the DAG's results."""
    made = copy("recipes")
    put(made.folder, tiny())
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "results")
    return made


def workspace(project: Project) -> dict[Path, bytes]:
    """Return the files that a recipe must not change."""
    found = [path for place in ("reports", "models", "data") for path in (project.folder / place).rglob("*")]
    files = [path for path in (*project.folder.glob("*"), *found) if path.is_file() and "mlflow.db" not in path.name]
    return {path: path.read_bytes() for path in files}


def test_a_killed_recipe_goes_on_and_leaves_the_workspace_alone(project: Project) -> None:
    before = workspace(project)

    def broken_off() -> bool:
        """Kill the recipe; return whether the kill came before the training's end. A finished training is discarded."""
        shutil.rmtree(project.folder / "checkpoints")
        own = project.environment(AELAB_CHECKPOINT="0.05")
        with started([*COMMAND, "tiny"], cwd=project.folder, env=own) as running:
            checkpoints = (project.folder / "checkpoints").glob
            wait_for(lambda: list(checkpoints("small-seed4-*/last.safetensors")) or running.poll() is not None)
            # The training runs in a folder below the project.
            end([each for each in working_in(project.folder) if "pipeline.stages.train" in command_of(each)])
            said, _ = running.communicate()
        if running.returncode == 0:
            shutil.rmtree(project.folder / ".dvc/cache/runs")
            return False
        assert running.returncode == 1
        assert "tiny failed for the reason above" in said
        assert "Traceback" not in said
        return True

    wait_for(broken_off)
    done = project.run(*COMMAND, "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continues from step" in done.stdout
    assert "| small | MSE | 2 |" in done.stdout
    assert workspace(project) == before


def test_its_result_can_be_traced(project: Project) -> None:
    result = json.loads((project.folder / "recipes/results/tiny.json").read_text())
    assert result["commit"] == project.run("git", "rev-parse", "HEAD").stdout.strip()
    assert result["uncommitted_changes"] == []
    assert result["parameters"]["training"] == DEFAULT["training"] | {"steps": 1500, "batch_size": 16}
    assert {"hardware", "precision", "mode", "python", "torch", "data"} <= set(result)
    mse, psnr = result["figures"]
    assert list(mse["values"]) == ["3", "4"]
    assert mse["interval"] > 0
    assert recipe.verdict(mse).startswith("reached")
    assert recipe.verdict(psnr).startswith("not reached")
    page = (project.folder / "recipes/results.md").read_text()
    assert "| small | MSE | 2 |" in page
    assert "[small-autoencoder.csv](results/tiny/small-autoencoder.csv)" in page
    assert (project.folder / "recipes/results/tiny/small-autoencoder.csv").read_text().startswith("step,seconds,loss")
    assert "not reached" in page


def test_it_is_an_experiment_under_its_name(project: Project) -> None:
    assert "tiny" in project.run("dvc", "exp", "list", "--name-only").stdout.split()


def test_a_trial_of_a_recipe_is_an_experiment_of_its_own_and_writes_no_result(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows come from the experiment above; another test trains and evaluates every recipe's trial."""
    head = project.run("git", "rev-parse", "HEAD").stdout.strip()
    table = project.run("git", "show", f"refs/exps/{head[:2]}/{head[2:]}/tiny:reports/comparison.csv").stdout
    asked: dict[str, Any] = {}

    def experiment(name: str, wanted: dict[str, Any]) -> list[dict[str, str]]:
        asked[name] = wanted
        return list(csv.DictReader(table.splitlines()))

    def results() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in results_folder.rglob("*.*")}

    results_folder = project.folder / "recipes/results"
    before = results()
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(recipe, "experiment", experiment)
    recipe.main("tiny", quick=True)
    assert asked == {"tiny-quick": recipe.trial(recipe.load("tiny", recipe.committed())[1])}
    assert "This trial on the digits gives no verdict" in capsys.readouterr().out
    assert results() == before


def test_the_list_says_what_there_is(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.folder)
    recipe.main(None)
    said = capsys.readouterr().out
    assert "mnist-vq-rate: VQ-VAE with a learned prior" in said
    assert "vqvae: −ELBO (nats) ≤ 110" in said
    assert "0.1 hours on a CPU" in said
