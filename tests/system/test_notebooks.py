"""The notebooks of docs/ run as committed, draw the promised pictures, and contain no output in git."""

import base64
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from tests.support.processes import PATIENCE
from tests.support.project import REPOSITORY, Project

NOTEBOOKS = sorted((REPOSITORY / "docs").glob("*.ipynb"))
LIBRARY, RUN = "notebook-library.ipynb", "notebook-run.ipynb"
WIDGETS = "application/vnd.jupyter.widget-state+json"
# Checks of values that the pictures of the first notebook cannot show.
VALUES = """
assert [len(each) for each in (photos.train, photos.validation, photos.test)] == [29, 3, 8]
assert photos.image == (3, 16, 16)
assert values["vae"]["mse"] < 0.09, "that of the mean image"
assert values["dae"]["denoising_masking"] < values["vae"]["denoising_masking"]
assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
"""


def committed(notebook: Any) -> list[str]:
    """Return the cells of a file that contain output."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.source for cell in code if cell.outputs or cell.execution_count is not None]


def executed(path: Path, scratch: Path) -> Any:
    """Run all cells of a notebook in its own folder, even after errors, and return the notebook."""
    target = scratch / "executed.ipynb"
    done = subprocess.run(
        [Path(sys.executable).parent / "jupyter-execute", "--allow-errors",
         f"--startup_timeout={PATIENCE:.0f}", f"--timeout={PATIENCE:.0f}", f"--output={target}", path],
        env=os.environ | {"IPYTHONDIR": str(scratch), "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return nbformat.read(target, as_version=4)


def problems(notebook: Any) -> Iterator[str]:
    """Yield the problems of a run: exceptions, also behind sliders, warnings, and missing pictures."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    for widget in notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {}).values():
        outputs += widget["state"].get("outputs", [])
    for output in outputs:
        if output["output_type"] == "error":
            yield f"{output['ename']}: {output['evalue']}"
        elif output.get("name") == "stderr":
            yield f"said {output['text']}"
    for cell in notebook.cells:
        if promised(cell) and not any(drawn(output) for output in cell.outputs):
            yield f"no picture: {cell.metadata['mystnb']['image']['alt']}"


def promised(cell: Any) -> bool:
    """Whether a cell promises a picture: it has a text that describes the picture."""
    return "image" in cell.metadata.get("mystnb", {})


def drawn(output: Any) -> bool:
    """Whether an output is a picture with more than one colour."""
    if "image/png" not in output.get("data", {}):
        return False
    with Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))) as picture:
        darkest, lightest = picture.convert("L").getextrema()
    return darkest != lightest


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_holds_no_output_and_has_questions_as_titles(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert committed(notebook) == []
    titles = [line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("## ")]
    assert len(titles) >= 8
    assert [title for title in titles if not title.endswith("?")] == []
    assert sum(map(promised, notebook.cells)) >= 7


def test_the_notebook_of_the_library_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(REPOSITORY / "docs" / LIBRARY, as_version=4)
    notebook.cells.append(new_code_cell(VALUES))
    (tmp_path / "docs").mkdir()
    nbformat.write(notebook, tmp_path / "docs" / LIBRARY)
    done = executed(tmp_path / "docs" / LIBRARY, tmp_path)
    assert list(problems(done)) == []
    assert "images[:, None] adds the channel" in done.cells[-2].outputs[0].text
    assert [path.name for path in (tmp_path / "docs").iterdir()] == [LIBRARY]  # the run leaves no files behind


def test_the_notebook_of_a_run_runs(finished: Project, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished.folder / "docs").iterdir()}
    assert list(problems(executed(finished.folder / "docs" / RUN, tmp_path))) == []
    assert {path: path.stat().st_mtime_ns for path in (finished.folder / "docs").iterdir()} == before


def test_without_a_run_it_says_what_makes_one(tmp_path: Path) -> None:
    notebook = nbformat.read(REPOSITORY / "docs" / RUN, as_version=4)
    (tmp_path / "docs").mkdir()
    first = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    nbformat.write(new_notebook(cells=first), tmp_path / "docs" / RUN)
    (problem,) = problems(executed(tmp_path / "docs" / RUN, tmp_path))
    assert problem.startswith("AssertionError: there is no finished run here: `make repro`")


def test_what_goes_wrong_is_noticed(tmp_path: Path) -> None:
    picture = {"mystnb": {"image": {"alt": "a square"}}}
    wrong = [
        new_code_cell("1 / 0"),
        new_code_cell("from ipywidgets import interact\ninteract(lambda x: [][x], x=3);"),
        new_code_cell("import warnings; warnings.warn('careful')"),
        new_code_cell("'no square'", metadata=picture),
        new_code_cell("from PIL import Image; Image.new('L', (8, 8), 255)", metadata=picture),
    ]
    nbformat.write(new_notebook(cells=wrong), tmp_path / "wrong.ipynb")
    found = sorted(problems(executed(tmp_path / "wrong.ipynb", tmp_path)))
    assert [each.split("\n")[0].split(" /")[0] for each in found] == [
        "IndexError: list index out of range",
        "ZeroDivisionError: division by zero",
        "no picture: a square",
        "no picture: a square",
        "said",
    ]


def test_outputs_in_a_file_are_noticed() -> None:
    cells = [
        new_code_cell("1"),
        new_code_cell("2", execution_count=1),
        new_code_cell("3", outputs=[new_output("stream", text="3")]),
    ]
    assert committed(new_notebook(cells=cells)) == ["2", "3"]
