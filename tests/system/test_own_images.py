"""A user's folder of images, in a run of the whole DAG."""

import json

import numpy as np
from PIL import Image

from tests.support.project import SIDE_BY_SIDE, Project

RUNS = "Running stage 'download'"


def test_own_images_run_through_the_whole_dag(copied: Project) -> None:
    """Use photographs of odd sizes and formats, some of them broken, in a project that ran on the digits before."""
    rng = np.random.default_rng(0)
    photos = copied.folder.parent / "photos"
    for i in range(30):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        pixels = np.clip(rng.normal(128, 60, (*size, 3)), 0, 255).astype(np.uint8)
        folder = photos / ("cats" if i % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("L" if i % 5 == 0 else "RGB").save(folder / f"{i}.{'png' if i % 3 else 'jpg'}")
    (photos / "notes.txt").write_text("no image")
    (photos / "empty.png").write_bytes(b"")
    (photos / "gone.png").symlink_to("nowhere.png")
    (photos / "loop").symlink_to(".")
    (photos / "caf\udce9.png").write_bytes(b"no image")
    params = copied.params()
    params["dataset"] |= {
        "name": "photos",
        "folders": {"photos": {"path": "../photos", "resolution": 32, "broken": 0.01}},
    }
    params["seeds"] = [0]
    params["variants"] = {"vqvae": params["variants"]["vqvae"]}
    params["corruption"]["train"] = {}
    copied.write_params(params)
    done = copied.run(*SIDE_BY_SIDE)
    assert done.returncode == 1
    said = "3 of the 33 images in ../photos cannot be used, a larger share than dataset.folders.photos.broken, 0.01,"
    assert said in done.stderr
    params["dataset"]["folders"]["photos"]["broken"] = 0.1
    copied.write_params(params)
    done = copied.run(*SIDE_BY_SIDE)
    assert done.returncode == 0, done.stderr
    assert "download | ../photos: 15 cats, 15 dogs" in done.stdout
    noted = json.loads((copied.folder / "provenance" / "download.json").read_text())
    assert noted["left_out"] == {
        "empty.png": "is empty",
        "notes.txt": "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one",
        "gone.png": "is a link to nothing",
        "loop": "is a link to a folder that contains it",
        "caf\\xe9.png": "is not a PNG, JPEG, WebP, BMP or TIFF image, or a damaged one",
    }
    assert "files left out: 5" in (copied.folder / "reports" / "comparison.md").read_text()
    assert set(np.load(copied.folder / "data/clean/train/labels.npy")) == {0, 1}

    # A copy of the repository finds the images too, and runs nothing without a change.
    apart = copied.run("dvc", "exp", "run", "--temp", "download")
    assert apart.returncode == 0, apart.stdout + apart.stderr
    assert RUNS not in apart.stdout
    Image.new("RGB", (20, 20)).save(photos / "dogs" / "0.jpg")
    apart = copied.run("dvc", "exp", "run", "--temp", "download")
    assert RUNS in apart.stdout, apart.stdout + apart.stderr
    before = copied.lock()["data/clean/train"]
    assert copied.repro("download") == ["images@photos"]  # the experiment already ran the other stage
    assert copied.lock()["data/clean/train"] != before
