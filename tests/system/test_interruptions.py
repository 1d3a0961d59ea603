"""Kills during a real run of the DAG, and the result of the next run."""

import re
import shutil
import sys
from pathlib import Path

from tests.support.processes import gone, started, wait_for
from tests.support.project import SIDE_BY_SIDE, Project, outcomes

ENDLESS = 1_000_000  # steps, so that the training still runs when the kill comes


def results(folder: Path) -> list[bytes]:
    """Return the models of the VAE and their curves."""
    names = ("models/vae/seed{}.safetensors", "provenance/train/vae/seed{}.jsonl")
    return [(folder / name.format(seed)).read_bytes() for name in names for seed in (0, 1)]


def test_a_killed_process_leaves_the_others_results_and_a_clean_rerun(copied: Project) -> None:
    """Kill a stage, and the process that runs the stages; no process may survive."""
    params = copied.params()
    params["seeds"] = [0]
    params["corruption"]["train"]["other"] = {"noise": {"masking": [0.25]}, "copies": 1}
    vae = params["variants"]["vae"]
    params["variants"] = {"vae": vae}
    vae["training"] = {"steps": ENDLESS}
    copied.write_params(params)
    begin = {"cwd": copied.folder, "env": copied.environment()}
    with started(SIDE_BY_SIDE, **begin) as running:
        wait_for(lambda: copied.processes("train@vae", "pipeline.stages.train"))[0].kill()
        said, _ = running.communicate()
    assert running.returncode == 1
    assert outcomes(said, "done") == ["sources", "corrupt@other"]
    assert outcomes(said, "failed") == ["train@vae"]
    assert "train@vae failed. Its output" in said
    assert "failed: train@vae; not run because of that: evaluate@vae, report" in said
    assert not copied.processes("train@vae", "pipeline.stages.train")
    with started(SIDE_BY_SIDE, **begin) as running:
        stages = wait_for(lambda: copied.processes("train@vae", "pipeline.stages.train"))
        running.kill()
        running.wait()
        assert gone(stages)
    vae["training"] = {"steps": 40}
    copied.write_params(params)
    assert sorted(copied.side_by_side()) == ["evaluate@vae", "report", "sources", "train@vae"]


def test_a_killed_training_goes_on_to_the_same_bits(copied: Project) -> None:
    """MLflow also shows one run with one curve."""
    params = copied.params()
    params["variants"] = {"vae": params["variants"]["vae"] | {"training": {"steps": 600}}}
    copied.write_params(params)
    stage = ("dvc", "repro", "--no-run-cache", "--force", "--single-item", "train@vae")
    own = {"AELAB_CHECKPOINT": "0.05", "AELAB_CPUS": "2"}  # seconds between checkpoints; a process for each seed

    def broken_off() -> bool:
        """Kill the training; return whether the kill came before its end."""
        shutil.rmtree(copied.folder / "checkpoints")
        with started(stage, cwd=copied.folder, env=copied.environment(**own)) as running:
            checkpoints = (copied.folder / "checkpoints").glob
            wait_for(lambda: list(checkpoints("vae-seed1-*/last.safetensors")) or running.poll() is not None)
            for process in copied.processes("train@vae", "pipeline.stages.train")[:1]:
                process.kill()
            running.communicate()
        return running.returncode != 0

    bits = []
    for killed in (True, False):
        if killed:
            wait_for(broken_off)
            shown = copied.run(sys.executable, "-m", "pipeline.reporting.track")
            assert "there are no results of vae, seed 0" in shown.stdout
            assert "2 runs written" in shown.stdout  # the two interrupted trainings
        else:
            shutil.rmtree(copied.folder / "checkpoints")
        done = copied.run(*stage, **own)
        assert done.returncode == 0, done.stderr
        assert ("continues from step" in done.stdout) is killed
        models = (copied.folder / "models/vae" / f"seed{seed}.safetensors" for seed in (0, 1))
        bits.append([model.read_bytes() for model in models])
    assert bits[0] == bits[1]


def test_another_seed_is_trained_alone(copied: Project) -> None:
    before = results(copied.folder)
    copied.write_params(copied.params() | {"seeds": [0, 1, 2]})
    done = copied.run("dvc", "repro", "--single-item", "train@vae")
    assert sorted(re.findall(r"vae-seed(\d) is already trained", done.stdout)) == ["0", "1"]
    assert re.findall(r"vae-seed(\d) autoencoder: step 30/", done.stdout) == ["2"]
    assert results(copied.folder) == before


def test_one_after_the_other_from_scratch_gives_the_same_hashes(finished: Project, copied: Project) -> None:
    """`dvc repro` runs here with two CPUs for each stage; the finished DAG ran two stages at a time with one CPU each.

    `test_cluster` trains the VQ-VAE on a cluster too.
    """
    shutil.rmtree(copied.folder / "checkpoints")
    ran = copied.repro("--force", "evaluate@dae", "evaluate@vae", AELAB_CPUS="2")
    assert {"download", "corrupt@masked", "noise", "classify", "train@dae", "evaluate@vae"} < set(ran)
    before, after = finished.lock(), copied.lock()
    measured = ("provenance", "reports")
    assert {path: digest for path, digest in after.items() if not path.startswith(measured)} == {
        path: digest for path, digest in before.items() if not path.startswith(measured)
    }
