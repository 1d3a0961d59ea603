import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dvc.stage.cache import _get_cache_hash

from aelab.core import devices
from aelab.core.errors import UserError
from pipeline.common import params
from tests.support.parameters import BROKEN, DEFAULT, with_value
from tests.support.project import REPOSITORY


def test_the_default_is_valid() -> None:
    checked = params.check(DEFAULT)
    assert list(checked.variants) == ["ae", "dae", "dae-mixed", "vae", "vqvae", "pca", "identity"]
    assert checked.entry("dae-mixed").arguments() == checked.entry("dae").arguments()
    assert checked.entry("dae-mixed").training == checked.entry("dae").training
    assert checked.entry("vae").arguments()["beta"] == 1.0
    assert checked.entry("vae").arguments()["likelihood"] == {"name": "bernoulli"}


@pytest.mark.parametrize(("content", "sentence", "hint"), BROKEN)
def test_each_problem_gets_one_sentence(content: object, sentence: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        params.check(content)
    lines = str(error.value).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"params.yaml: {sentence}")
    assert hint in lines[0]


def test_all_problems_are_reported_at_once() -> None:
    content = with_value("training.steps", 0) | {"seeds": []}
    content["variants"]["vae"]["beta"] = "x"
    with pytest.raises(UserError) as error:
        params.check(content)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_cannot_be_demanded() -> None:
    with pytest.raises(UserError, match="has no usable GPU"):
        params.check(with_value("training.device", "cuda"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "is not valid YAML"),
        ("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> x\n", "has an unresolved merge conflict in line 2: resolve"),
        ("seeds: [0]\nseeds: [1]\n", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        ("seed: 2024-13-01", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        params.load(tmp_path / "params.yaml")


def test_bfloat16_wants_hardware_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_value("training.precision", "bfloat16")
    monkeypatch.setattr(devices, "fast_at_bfloat16", lambda _: True)
    assert params.check(content).training.precision == "bfloat16"
    monkeypatch.setattr(devices, "fast_at_bfloat16", lambda _: False)
    with pytest.raises(UserError, match=r'training\.precision is "bfloat16", but this machine can only emulate it'):
        params.check(content)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        params.load(tmp_path / "params.yaml")


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    text = (REPOSITORY / "params.yaml").read_text().replace("learning_rate: 0.008", "learning_rate: 8e-3", 1)
    (tmp_path / "params.yaml").write_text(text)
    assert params.load(tmp_path / "params.yaml").training.learning_rate == 0.008


def test_budgets_are_overridden_from_the_outside_in() -> None:
    checked = params.check(DEFAULT)
    budget = checked.training.override({"steps": 7}, {"batch_size": 3, "steps": 8})
    assert (budget.steps, budget.batch_size) == (8, 3)
    assert budget.learning_rate == checked.training.learning_rate


@pytest.mark.parametrize(
    "shared",
    [
        "  vae-beta4: {<<: *vae, beta: 4.0}",
        "  vae-2: *vae",
        "  vae-mlp:\n    <<: [*vae]\n    network: {name: mlp, hidden: [200, 200], activation: tanh}",
        "  vae-prior: {model: vae, inputs: clean, network: *vae, code: 32, prior: standard, beta: 1.0}",
    ],
)
def test_an_alias_is_refused_with_its_line(shared: str, tmp_path: Path) -> None:
    """`dvc exp run -S` silently changes only one of the sections that share keys."""
    text = (REPOSITORY / "params.yaml").read_text().replace("\n  vae:\n", "\n  vae: &vae\n")
    (tmp_path / "params.yaml").write_text(text)
    params.load(tmp_path / "params.yaml")  # an unused anchor is harmless
    head, tail = text.split("\n  vqvae:\n")
    (tmp_path / "params.yaml").write_text(f"{head}\n{shared}\n  vqvae:\n{tail}")
    line = (head + "\n" + shared).splitlines().index(next(each for each in shared.splitlines() if "*" in each)) + 1
    with pytest.raises(UserError, match=rf"params.yaml, line {line}: the alias \*vae repeats keys of another place"):
        params.load(tmp_path / "params.yaml")


def test_asterisks_that_are_no_aliases_are_no_matter(tmp_path: Path) -> None:
    text = (REPOSITORY / "params.yaml").read_text() + "notes: {a: 'a * b', b: '*vae'}  # *vae\n"
    (tmp_path / "params.yaml").write_text(text)
    assert params.load(tmp_path / "params.yaml").seeds == [0, 1, 2]


@pytest.mark.parametrize("key", ["size", "nfiles", "width"])
def test_a_key_that_dvcs_run_cache_does_not_compare_is_refused(key: str) -> None:
    compared = _get_cache_hash({"a": [{key: 1}]}) != _get_cache_hash({"a": [{key: 2}]})
    noise = next(iter(DEFAULT["corruption"]["train"].values()))
    places = {
        f"mine.b.0.{key}": DEFAULT | {"mine": {"b": [{key: 1}]}},
        f"corruption.train.{key}": with_value("corruption.train", DEFAULT["corruption"]["train"] | {key: noise}),
        f"dataset.folders.{key}": with_value("dataset.folders", {key: PHOTOS}),
        f"variants.{key}": with_value("variants", DEFAULT["variants"] | {key: DEFAULT["variants"]["ae"]}),
    }
    for where, content in places.items():
        if compared:
            params.check(content)
        else:
            with pytest.raises(UserError, match=rf"{where}: DVC's run cache does not compare keys called {key}: take"):
                params.check(content)


PHOTOS = {"path": "photos"}


def test_a_folders_images_have_the_size_that_is_asked_for() -> None:
    content = with_value("dataset.folders", {"photos": PHOTOS | {"resolution": 128, "channels": 3}})
    assert params.check(content).dataset.image == (1, 28, 28)
    content["dataset"]["name"] = "photos"
    assert params.check(content).dataset.image == (3, 128, 128)


@pytest.mark.parametrize(
    "path", ["~/Pictures", "../photos", "images", "images/cats", "data-of-mine", "models2", "/srv/x"]
)
def test_a_folder_may_lie_anywhere_else(path: str) -> None:
    assert params.check(with_value("dataset.folders", {"photos": {"path": path}}))


def test_no_noise_comes_twice_in_the_default_and_none_is_made_in_vain() -> None:
    """Epoch t sees copy t: with as many copies as epochs, each copy is seen once."""
    checked = params.check(DEFAULT)
    for name, entry in checked.variants.items():
        if entry.inputs != params.CLEAN:
            budget = checked.training.override(entry.training)
            assert checked.learned(entry.inputs).copies == math.ceil(budget.steps * budget.batch_size / 54_000), name


def test_a_section_of_the_users_own_is_left_alone() -> None:
    """Users can add stages with parameters of their own."""
    assert params.check(with_value("hello", {"greeting": "hi"})) == params.check(DEFAULT)


def test_any_model_may_learn_from_any_corruption_and_no_order_of_keys_matters() -> None:
    content = with_value("variants.vae.inputs", "spoilt")
    for noise in ({"masking": [0.5, 0.25], "gaussian": [0.1]}, {"gaussian": [0.1], "masking": [0.25, 0.5]}):
        content["corruption"]["train"]["spoilt"] = {"noise": noise, "copies": 1}
        learned = params.check(content).learned("spoilt")
        assert learned.mixed == [("gaussian", 0.1), ("masking", 0.25), ("masking", 0.5)]


def test_inputs_that_nothing_writes_are_noticed_before_torch_is_needed() -> None:
    with pytest.raises(UserError, match=r'variants\.dae\.inputs is "maskd": must be clean or the name of a corruption'):
        params.check(with_value("variants.dae.inputs", "maskd"), variants=False)
    with pytest.raises(UserError, match=r"there is no corruption 'maskd' in corruption\.train"):
        params.check(DEFAULT).learned("maskd")


def test_without_the_entries_no_torch_is_needed_and_other_keys_are_checked() -> None:
    with pytest.raises(UserError, match=r"training\.step is an unknown key"):
        params.check(with_value("training.step", 1), variants=False)
    script = (
        "import sys; from pipeline.common import params; params.load(variants=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False).returncode == 0


def test_models_that_are_too_large_are_a_sentence_and_take_no_memory() -> None:
    with pytest.raises(UserError, match=r"variants\.ae is too large: training takes [0-9,]+ GiB for the weights alone"):
        params.check(with_value("variants.ae.code", 10**9))  # 3 TB of weights


def test_the_check_of_the_entries_does_not_import_torchs_compiler() -> None:
    """All stages check the entries, and torch's compiler takes more than a second to import."""
    code = """
import sys
from pipeline.common import params
from pipeline.tools import recipe
params.load()
for name in recipe.available():
    recipe.load(name, params.read(params.PARAMS))
    if "torch._dynamo" in sys.modules: sys.exit(f"{name} imports it")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
