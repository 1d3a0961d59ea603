import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from autoencoders import devices
from autoencoders.errors import UserError
from pipeline import params

REPOSITORY = Path(__file__).parent.parent
DEFAULT: dict[str, Any] = YAML(typ="safe", pure=True).load(REPOSITORY / "params.yaml")


def with_value(key: str, value: object) -> dict[str, Any]:
    """The default parameters with another value at a dotted key."""
    content = copy.deepcopy(DEFAULT)
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    section[last] = value
    return content


def without(key: str) -> dict[str, Any]:
    content = with_value(key, None)
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    del section[last]
    return content


def test_the_default_is_valid() -> None:
    checked = params.check(DEFAULT)
    assert list(checked.variants) == ["ae", "dae", "dae-mixed", "vae", "vqvae"]
    assert checked.entry("dae-mixed").arguments() == checked.entry("dae").arguments()
    assert checked.entry("dae-mixed").training == checked.entry("dae").training
    assert checked.entry("vae").arguments()["beta"] == 1.0
    assert checked.entry("vae").arguments()["likelihood"] == {"name": "bernoulli"}


MASKED = {"noise": {"masking": [0.5]}, "copies": 1}


def nested(depth: int) -> Any:
    """A prior above a prior, `depth` times."""
    section: Any = "standard"
    for _ in range(depth):
        section = {"name": "layer", "code": 2, "hidden": [4], "prior": section}
    return section


BROKEN = [
    (with_value("training.step", 5), "training.step is an unknown key; known here: steps,", "did you mean steps?"),
    (with_value("variants.vae.betta", 1), "variants.vae.betta is an unknown key; known here:", "did you mean beta?"),
    (
        with_value("variants.vqvae.prior.depth", 2),
        "variants.vqvae.prior.depth is an unknown key; known here: width,",
        "",
    ),
    (
        with_value("variants.vqvae.prior.training.step", 2),
        "variants.vqvae.prior.training.step is an unknown key; known here: steps, batch_size,",
        "did you mean steps?",
    ),
    (
        with_value("corruption.train.mixed.copy", 2),
        "corruption.train.mixed.copy is an unknown key; known here: noise, copies",
        "did you mean copies?",
    ),
    (with_value("experiment", 1), "experiment is an unknown key; known here: dataset,", ""),
    (with_value("training.steps", "many"), 'training.steps is "many": must be a valid integer', ""),
    (
        with_value("training.learning_rate", "1e-3"),
        'training.learning_rate is "1e-3": must be a valid number',
        "without quotes",
    ),
    (with_value("variants.ae.code", True), "variants.ae.code is True: must be a valid integer", ""),
    (with_value("variants.ae.code", 0), "variants.ae.code is 0: must be greater than 0", ""),
    (with_value("variants.vae.beta", -1.0), "variants.vae.beta is -1.0: must be greater than or equal to 0", ""),
    (with_value("variants.vae.beta", math.nan), "variants.vae.beta is nan: must be", ""),
    (with_value("training.learning_rate", math.inf), "training.learning_rate is inf: must be", ""),
    (
        with_value("corruption.reference.level", 1.5),
        "corruption.reference.level is 1.5: must be less than or equal",
        "",
    ),
    (
        with_value("corruption.reference.kind", "blur"),
        'corruption.reference.kind is "blur": must be one of masking, gaussian',
        "",
    ),
    (with_value("corruption.train.mixed.noise.blur", [0.5]), "corruption.train.mixed.noise.blur is", "must be one of"),
    (with_value("corruption.train.mixed.noise.masking", 0.5), "corruption.train.mixed.noise.masking is 0.5:", "list"),
    (with_value("corruption.train.mixed.noise", {}), "corruption.train.mixed.noise is {}:", "at least 1 item"),
    (without("corruption.train.mixed.copies"), "corruption.train.mixed.copies is missing", ""),
    *(
        (
            with_value(f"corruption.train.{name}", MASKED),
            f"corruption.train.{name} is",
            f"data/{name} holds other images",
        )
        for name in ("clean", "noisy", "raw", "Raw")
    ),
    (with_value("corruption.train.$(ls)", MASKED), "corruption.train.$(ls) is", "letters, digits, - and _"),
    (without("corruption.train.mixed"), 'variants.dae-mixed.inputs is "mixed": must be clean', "clean, masked"),
    (with_value("corruption.test.blur", [0.5]), "corruption.test.blur is", "must be one of masking"),
    (with_value("dataset.name", "imagenet"), 'dataset.name is "imagenet": must be one of mnist, fashion-mnist,', ""),
    (with_value("dataset.validation", 0), "dataset.validation is 0: must be greater than or equal to 0.01", ""),
    (
        with_value("variants.gan", {"model": "gan", "inputs": "clean"}),
        "variants.gan.model: unknown model 'gan'; there are ae, contractive, dae",
        "",
    ),
    (
        with_value("variants.new", {"inputs": "clean"}),
        "variants.new.model is missing; there are ae, contractive, dae",
        "",
    ),
    (with_value("variants.vae beta", DEFAULT["variants"]["vae"]), "variants.vae beta is", "letters, digits, - and _"),
    (with_value("variants.$(ls)", DEFAULT["variants"]["vae"]), "variants.$(ls) is", "letters, digits, - and _"),
    (without("variants.vae.network"), "variants.vae.network is missing", ""),
    (without("variants.vae.network.name"), "variants.vae.network.name is missing; there are conv, mlp, patches", ""),
    (
        with_value("variants.vae.network", 3),
        "variants.vae.network is 3: must be the name of a network or a mapping",
        "",
    ),
    (
        with_value("variants.vae.network", {"name": "unet"}),
        "variants.vae.network.name: unknown network 'unet'; there are conv, mlp, patches",
        "",
    ),
    (
        with_value("variants.vae.network.wdith", 3),
        "variants.vae.network.wdith is an unknown key; known here: name, width, downsampling",
        "did you mean width?",
    ),
    (with_value("variants.vae.network.width", 1), "variants.vae.network.width is 1: must be greater than or equal", ""),
    (
        with_value("variants.vae.network.downsampling", 5),
        "variants.vae cannot be built for images of shape (1, 28, 28): both sides must be multiples of downsampling, 5",
        "",
    ),
    (
        with_value("variants.vqvae.network", {"name": "mlp", "hidden": [10]}),
        "variants.vqvae cannot be built for images of shape (1, 28, 28): the network mlp has no grid to put codes on",
        "",
    ),
    (
        with_value("variants.vae.network", {"name": "mlp", "hidden": []}),
        "variants.vae.network.hidden is []:",
        "at least 1 item",
    ),
    (
        with_value("variants.vqvae.quantizer.codes", 0),
        "variants.vqvae.quantizer.codes is 0: must be greater than 0",
        "",
    ),
    (with_value("variants.vae.warm_up", 2), "variants.vae.warm_up is 2: must be less than or equal to 1", ""),
    (with_value("training.points", 0), "training.points is 0: must be greater than or equal to 1", ""),
    (with_value("dataset.folder.fit", "squeeze"), "dataset.folder.fit is \"squeeze\": must be 'crop', 'pad' or", ""),
    (with_value("dataset.folder.channels", 2), "dataset.folder.channels is 2: must be 1 or 3", ""),
    (with_value("variants", {}), "variants is {}:", "at least 1 item"),
    (with_value("variants", ["vae"]), "variants is ['vae']: must be a valid dictionary", ""),
    (with_value("variants.vae", None), "variants.vae is None: must be a mapping of keys to values", ""),
    (
        with_value("variants.vae.inputs", "noisy"),
        'variants.vae.inputs is "noisy": must be clean or the name of a corruption in corruption.train',
        "known here: clean, masked, mixed",
    ),
    (with_value("variants.ae.inputs", "mixed"), 'variants.ae.inputs is "mixed": the model ae has to see clean', ""),
    (with_value("variants.vae.inputs", 3), "variants.vae.inputs is 3: must be a valid string", ""),
    (
        with_value("variants.vae.likelihood", "poisson"),
        "variants.vae.likelihood.name: unknown likelihood 'poisson'; there are bernoulli, categorical, gaussian, lo",
        "",
    ),
    (
        with_value("variants.ae.training", {"steps": -1}),
        "variants.ae.training.steps is -1: must be greater than or equal to 1",
        "",
    ),
    (
        with_value("variants.ae.training", {"learning_rate": 5}),
        "variants.ae.training.learning_rate is 5: must be less",
        "",
    ),
    (
        with_value("variants.dae.inputs", "clean"),
        'variants.dae.inputs is "clean": the model dae has to see',
        "corrupted",
    ),
    (
        with_value("variants.vqvae.prior.training", {"learning_rate": 0}),
        "variants.vqvae.prior.training.learning_rate",
        "",
    ),
    (with_value("seeds", []), "seeds is []:", "at least 1 item"),
    (with_value("seeds", 0), "seeds is 0: must be a valid list", ""),
    (with_value("seeds", [0, 0]), "seeds is [0, 0]: each seed may stand there only once", ""),
    (with_value("seeds", [-1]), "seeds.0 is -1: must be greater than or equal to 0", ""),
    (
        with_value("training.precision", "float16"),
        "training.precision is \"float16\": must be 'float32' or 'bfloat16'",
        "",
    ),
    (with_value("training.mode", "fast"), "training.mode is \"fast\": must be 'graph' or 'eager'", ""),
    (with_value("training.threads", 0), "training.threads is 0: must be greater than or equal to 1", ""),
    (with_value("variants.vqvae.prior.heads", 3), "variants.vqvae cannot be built", "multiple of heads"),
    (without("evaluation"), "evaluation is missing", ""),
    (with_value("corruption.test.masking", [1e-5]), "corruption.test.masking.0 is 1e-05: must be greater", "0.001"),
    (
        with_value("evaluation.importance.samples", 10**40),
        "evaluation.importance.samples is 1000",
        "less than or equal",
    ),
    (with_value("dataset.binarize", "yes"), 'dataset.binarize is "yes": must be', "'dynamic'"),
    (with_value("variants." + "a" * 200, DEFAULT["variants"]["vae"]), "variants.aaaa", "letters, digits"),
    (
        with_value("variants.vae.prior", nested(600)),
        "variants.vae.prior.prior.prior",
        "prior has parts within parts: at most 12 levels",
    ),
    (without("variants.vae.code"), "variants.vae.code is missing", ""),
    ([], "the file is []:", "must be a valid dictionary"),
    (None, "the file is None:", "must be a valid dictionary"),
]


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


def test_entries_of_one_model_by_anchors_and_merges(tmp_path: Path) -> None:
    text = (REPOSITORY / "params.yaml").read_text()
    head, tail = text.split("\n  vqvae:\n")
    entries = """
  vae-beta4: {<<: *vae, beta: 4.0}
  vae-mlp:
    <<: *vae
    network: {name: mlp, hidden: [200, 200], activation: tanh}
"""
    (tmp_path / "params.yaml").write_text(head + entries + "\n  vqvae:\n" + tail)
    checked = params.load(tmp_path / "params.yaml")
    assert list(checked.variants) == ["ae", "dae", "dae-mixed", "vae", "vae-beta4", "vae-mlp", "vqvae"]
    vae, beta4, mlp = (checked.entry(name) for name in ("vae", "vae-beta4", "vae-mlp"))
    assert vae.model == beta4.model == mlp.model == "vae"
    assert beta4.arguments() == vae.arguments() | {"beta": 4.0}
    assert mlp.arguments()["network"] == {"name": "mlp", "hidden": [200, 200], "activation": "tanh"}
    assert mlp.training == vae.training


def test_a_folders_images_have_the_size_that_is_asked_for() -> None:
    content = with_value("dataset.name", "folder")
    content["dataset"]["folder"] |= {"size": 128, "channels": 3}
    assert params.check(content).dataset.image == (3, 128, 128)


def test_no_noise_comes_twice_in_the_default_and_none_is_made_in_vain() -> None:
    """Epoch t sees copy t: with as many copies as epochs each is seen, and no noise comes again."""
    checked = params.check(DEFAULT)
    for name, entry in checked.variants.items():
        if entry.inputs != params.CLEAN:
            budget = checked.training.override(entry.training)
            assert checked.learned(entry.inputs).copies == math.ceil(budget.steps * budget.batch_size / 54_000), name


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
    with pytest.raises(UserError, match="experiment is an unknown key"):
        params.check(with_value("experiment", 1), variants=False)
    script = "import sys; from pipeline import params; params.load(variants=False); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False).returncode == 0


def test_models_that_are_too_large_are_a_sentence_and_take_no_memory() -> None:
    with pytest.raises(
        UserError, match=r"variants\.ae is too large: to train it takes [0-9,]+ GiB for its weights alone"
    ):
        params.check(with_value("variants.ae.code", 10**9))  # 3 TB of weights
