"""A folder of images of one's own, through the whole DAG."""

import json

import numpy as np
from PIL import Image

from tests.support.project import SIDE_BY_SIDE, Project


def test_own_images_run_through_the_whole_dag(copied: Project) -> None:
    """Photographs of odd sizes and kinds, two of them broken, in a project that has run on the digits before."""
    rng = np.random.default_rng(0)
    for i in range(30):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        pixels = np.clip(rng.normal(128, 60, (*size, 3)), 0, 255).astype(np.uint8)
        folder = copied.folder / "images" / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("L" if i % 5 == 0 else "RGB").save(folder / f"{i}.{'png' if i % 3 else 'jpg'}")
    (copied.folder / "images" / "notes.txt").write_text("no image")
    (copied.folder / "images" / "empty.png").write_bytes(b"")
    params = copied.params()
    params["dataset"]["name"] = "folder"
    params["dataset"]["folder"] |= {"size": 32, "broken": 0.01}
    params["seeds"] = [0]
    params["variants"] = {"vqvae": params["variants"]["vqvae"]}
    params["corruption"]["train"] = {}
    copied.write_params(params)
    done = copied.run(*SIDE_BY_SIDE)
    assert done.returncode == 1
    assert "2 of the 32 files in images cannot be used, more than the share dataset.folder.broken, 0.01" in done.stderr
    params["dataset"]["folder"]["broken"] = 0.1
    copied.write_params(params)
    ran = copied.side_by_side()
    assert ran[0] == "download"
    assert ran[-1] == "report"
    noted = json.loads((copied.folder / "provenance" / "download.json").read_text())
    assert noted["left_out"] == {
        "empty.png": "is empty",
        "notes.txt": "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one",
    }
    assert "2 files were left out" in (copied.folder / "reports" / "comparison.md").read_text()
    assert set(np.load(copied.folder / "data/clean/train/labels.npy")) == {0, 1}
    (copied.folder / "images" / "dogs" / "0.jpg").unlink()
    assert copied.repro("--dry")[0] == "download"
