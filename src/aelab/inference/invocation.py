"""A call of the command `aelab`: what it reads, writes and says. The commands themselves stand in `cli.py`.

What needs torch is imported inside functions: `--help` and completion do not wait for that.
"""

import gc
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from tqdm.auto import tqdm

from aelab.core.disk import write_atomically
from aelab.data.datasets import Bytes
from aelab.inference import image_files
from aelab.inference.image_files import PIPE, Job
from aelab.ingest.image_folder import Depth, Fit, LeftOut, decoded

if TYPE_CHECKING:
    from torch import Tensor

    from aelab.models.base import Autoencoder

TABLES = (".parquet", ".csv")
BATCH = 100  # images in memory at a time

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="AELAB_MODEL",
        metavar="MODEL",
        help="A file (models/vae/seed0.safetensors), its folder (models/vae), either as of a revision, tag or DVC "
        "experiment (HEAD~1:models/vae), or MLflow's (models:/mnist-denoising@champion, runs:/ID/mnist-vae-seed0).",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what went wrong.")]


@dataclass
class Invocation:
    """The options of one call, and how much of what it asks for could not be done.

    What its constructor takes is an option of every command: `cli.command` sees to that.
    """

    location: Model
    force: Force = False
    quiet: Quiet = False
    total: int = field(default=1, init=False)  # images to read, or else the one thing to be made
    failed: int = field(default=0, init=False)

    def note(self, text: str) -> None:
        """Tell a user who has not asked for quiet."""
        if not self.quiet:
            typer.echo(text, err=True)

    def fail(self, text: str) -> None:
        """Name what is left out; the rest goes on."""
        self.failed += 1
        typer.echo(f"aelab: {text}", err=True)

    def leave_out(self, file: LeftOut) -> None:
        """Name a file of a folder that is no image, which nothing is wrong with, or one that cannot be used."""
        if file.broken or self.total == 1:
            self.fail(f"{file.path} {file.reason}")
        else:
            self.total -= 1
            self.note(f"{file.path} {file.reason}")

    def end(self, made: str) -> None:
        """Say what has been made, and end with 1 if something has not."""
        if self.failed < self.total:
            self.note(made)
        if self.failed:
            if self.total > 1:
                typer.echo(f"aelab: {self.failed} of {self.total} images were left out", err=True)
            raise typer.Exit(1)

    @property
    def model(self) -> "Autoencoder":
        """The model in evaluation mode, on a GPU if there is one: CUDA_VISIBLE_DEVICES= hides it."""
        return self._loaded[0]

    @property
    def validation(self) -> dict[str, Any]:
        """How the model scores validation images, as `anomaly.reference` has it; nothing where that is not known."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> "tuple[Autoencoder, dict[str, Any]]":
        import torch

        from aelab.core import devices
        from aelab.inference.model_locator import located
        from aelab.models import checkpoint

        gc.freeze()  # what is imported stays; looking through it once more at the end took half a second
        device = devices.prepare("auto", torch.get_num_threads())
        with located(self.location) as found:
            model, validation = checkpoint.load(found.path, device), found.validation()
        if found.name != self.location:
            self.note(f"model: {found.name}")
        return model, validation

    # --- reading -----------------------------------------------------------------------------------------------------

    def jobs(self, source: str, out: str | None = None) -> list[Job]:
        """The images to read, and the file that each is written to; none if there is no `out`, or it is a pipe."""
        target = None if out in {None, PIPE} else Path(str(out))
        if source == PIPE or not Path(source).is_dir():
            jobs = [image_files.job(source, target)]
        elif out == PIPE:
            msg = "a folder becomes a folder; - takes one image"
            raise typer.BadParameter(msg, param_hint="OUT")
        else:
            jobs, left_out = image_files.jobs(Path(source), target)
            self.total = len(jobs) + len(left_out)
            for each in left_out:
                self.leave_out(each)
        image_files.check_free([job.target for job in jobs if job.target is not None], force=self.force)
        return jobs

    def batches(
        self, jobs: list[Job], fit: Fit, bits: int, *, again: bool = False
    ) -> "Iterator[tuple[list[Job], Tensor]]":
        """The images as the model takes them, floats (B, C, H, W), and the jobs that they belong to; an image that
        cannot be read is named and left out. Where they are read `again`, no warning is repeated.
        """
        from aelab.core.tensors import as_float

        depth = Depth(bits)

        quiet = True if self.quiet or len(jobs) == 1 else None  # None: no bar where stderr is no terminal
        with tqdm(total=len(jobs), unit="image", leave=False, disable=quiet, file=sys.stderr) as bar:
            for start in range(0, len(jobs), BATCH):
                read, pixels = list[Job](), list[Bytes]()
                for job in jobs[start : start + BATCH]:
                    with warnings.catch_warnings(action="ignore"):
                        seen = decoded(job.source, self.model.image, fit, depth)
                    bar.update()
                    if isinstance(seen, str):
                        self.leave_out(LeftOut(job.name, seen))
                    else:
                        read.append(job)
                        pixels.append(seen)
                if read:
                    yield read, as_float(np.stack(pixels))
        if (warning := depth.too_dark("", "--bits")) and not again:
            self.note(f"warning: {warning}")

    # --- writing -----------------------------------------------------------------------------------------------------

    def reconstruct(self, jobs: list[Job], fit: Fit, bits: int) -> None:
        """Write the reconstruction of every image."""
        from aelab.inference import tasks

        written: list[str] = []
        for read, x in self.batches(jobs, fit, bits):
            images = tasks.as_bytes(tasks.perform(self.model, "reconstruct", x, tasks.Options()))
            for job, image in zip(read, images, strict=True):
                put(image_files.png(image), job.target)
                written.append(named(job.target))
        more = f" and {len(written) - 1} more" if len(written) > 1 else ""
        self.end(f"written: {written[0]}{more}" if written else "")

    def targets(self, out: str, count: int) -> Sequence[Path | None]:
        """The files of `count` images, or the one file of all of them; None is the standard output."""
        if out == PIPE:
            return [None]
        alone = Path(out).suffix.lower() == image_files.PNG
        paths = [Path(out)] if alone else image_files.numbered(Path(out), count)
        image_files.check_free(paths, force=self.force)
        return paths


def check_table(out: str, what: str) -> None:
    """See that `out` can be a table of `what`.

    Raises:
        BadParameter: it cannot.
    """
    if out != PIPE and Path(out).suffix.lower() not in TABLES:
        msg = f"{what} are written as {' or '.join(TABLES)}; {out} ends in neither"
        raise typer.BadParameter(msg, param_hint="OUT")


def write(images: Bytes, targets: Sequence[Path | None], columns: int | None = None) -> None:
    """Write images (B, C, H, W) into as many files, or all of them as one, in rows of `columns`."""
    if len(targets) != len(images):
        images = image_files.sheet(images, columns)[None]
    for image, target in zip(images, targets, strict=True):
        put(image_files.png(image), target)


def put(content: bytes, target: Path | None) -> None:
    """Write a file, all of it or nothing, or to the standard output where there is no target."""
    if target is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, content)


def named(target: str | Path | None) -> str:
    """The target's name in a message."""
    return "the standard output" if target in {None, PIPE} else str(target)
