"""Call of the command line `aelab`: the options, input, output and messages that all commands share.

The module `cli.py` defines the commands.

Modules that import torch are imported inside functions, so `--help` and shell completion are quick.
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
        help="A file (models/vae/seed0.safetensors), a folder (models/vae), or a model in MLflow "
        "(models:/mnist-denoising@champion). HEAD~1:models/vae is the folder in a Git revision or DVC experiment.",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace existing files.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]


@dataclass
class Invocation:
    """Options of one call, and the number of images that failed.

    `cli.command` turns each constructor argument into an option of every command.
    """

    location: Model
    force: Force = False
    quiet: Quiet = False
    total: int = field(default=1, init=False)  # number of images to read from a folder; 1 if no folder is read
    failed: int = field(default=0, init=False)  # number of images that could not be read

    def note(self, text: str) -> None:
        """Print a message, unless the user chose `--quiet`."""
        if not self.quiet:
            typer.echo(text, err=True)

    def fail(self, text: str) -> None:
        """Count a failed image, and print the message `text`. The command continues with the other images."""
        self.failed += 1
        typer.echo(f"aelab: {text}", err=True)

    def leave_out(self, file: LeftOut) -> None:
        """Report a file that is left out. The file counts as a failure if it is damaged, or is the only input."""
        if file.broken or self.total == 1:
            self.fail(f"{file.path} {file.reason}")
        else:
            self.total -= 1
            self.note(f"{file.path} {file.reason}")

    def end(self, made: str) -> None:
        """Print the message `made`, unless all images failed. If an image failed, end with exit code 1."""
        if self.failed < self.total:
            self.note(made)
        if self.failed:
            if self.total > 1:
                typer.echo(f"aelab: {self.failed} of {self.total} images were left out", err=True)
            raise typer.Exit(1)

    @property
    def model(self) -> "Autoencoder":
        """Model in evaluation mode, on a GPU if the machine has one. An empty CUDA_VISIBLE_DEVICES hides the GPU."""
        return self._loaded[0]

    @property
    def validation(self) -> dict[str, Any]:
        """Anomaly scores of validation images, as `anomaly.reference` returns them; empty if their file is missing."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> "tuple[Autoencoder, dict[str, Any]]":
        import torch

        from aelab.core import devices
        from aelab.inference.model_locator import located
        from aelab.models import checkpoint

        gc.freeze()  # at exit, garbage collection of the imported modules would take half a second
        device = devices.prepare("auto", torch.get_num_threads())
        with located(self.location) as found:
            model, validation = checkpoint.load(found.path, device), found.validation()
        if found.name != self.location:
            self.note(f"model: {found.name}")
        return model, validation

    # --- reading -----------------------------------------------------------------------------------------------------

    def jobs(self, source: str, out: str | None = None) -> list[Job]:
        """List the images to read.

        Args:
            source: an image, a folder of images, or `PIPE`.
            out: a file or a folder for the output. With None or `PIPE`, the jobs have no target file.
        """
        target = None if out in {None, PIPE} else Path(str(out))
        if source == PIPE or not Path(source).is_dir():
            jobs = [image_files.job(source, target)]
        elif out == PIPE:
            msg = "a folder of images cannot be written to the standard output: name a folder"
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
        """Read images in batches, in the shape that the model needs. Unreadable images are reported and left out.

        Args:
            jobs: the images to read.
            fit: how images of another size are fitted to the model.
            bits: bits that 16-bit files really use, 8 to 16.
            again: whether the images are read for the second time. Then no warning is repeated.

        Yields:
            The jobs of a batch, and their images, floats (B, C, H, W) in [0, 1], B ≤ `BATCH`.
        """
        from aelab.core.tensors import as_float

        depth = Depth(bits)

        quiet = True if self.quiet or len(jobs) == 1 else None  # with None, tqdm shows a bar only in a terminal
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
        """Write the reconstruction of every image to the target of its job."""
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
        """Paths of the files to which a command writes `count` images.

        Returns:
            If `out` ends in .png, one file for all images, else `count` files in the folder `out`. For the standard
            output, the list is [None].
        """
        if out == PIPE:
            return [None]
        alone = Path(out).suffix.lower() == image_files.PNG
        paths = [Path(out)] if alone else image_files.numbered(Path(out), count)
        image_files.check_free(paths, force=self.force)
        return paths


def check_table(out: str, what: str) -> None:
    """Check that a table of `what` can be written to `out`.

    Raises:
        BadParameter: `out` is not `PIPE`, and does not end in one of `TABLES`.
    """
    if out != PIPE and Path(out).suffix.lower() not in TABLES:
        msg = f"{what} are written as {' or '.join(TABLES)}; {out} ends in neither"
        raise typer.BadParameter(msg, param_hint="OUT")


def write(images: Bytes, targets: Sequence[Path | None], columns: int | None = None) -> None:
    """Write images (B, C, H, W) to B targets. With a single target, all images form a sheet with `columns` columns."""
    if len(targets) != len(images):
        images = image_files.sheet(images, columns)[None]
    for image, target in zip(images, targets, strict=True):
        put(image_files.png(image), target)


def put(content: bytes, target: Path | None) -> None:
    """Write `content` to the file `target` atomically, or to the standard output if `target` is None."""
    if target is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, content)


def named(target: str | Path | None) -> str:
    """Name of a target in messages."""
    return "the standard output" if target in {None, PIPE} else str(target)
