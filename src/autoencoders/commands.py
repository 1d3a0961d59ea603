"""The command `autoencoders`: trained models on files, folders and pipes.

What it writes goes to the path that the user names, or to the standard output where that is `-`; every message goes to
the standard error. It ends with 0 if all went well, 1 if something could not be done, 2 if it was called wrongly.
Nothing is coloured. Imports what is slow only once there is something to do.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from autoencoders.errors import UserError

if TYPE_CHECKING:  # else `--help` would import torch
    from torch import Tensor

    from autoencoders.base import Autoencoder
    from autoencoders.datasets import Bytes
    from autoencoders.pictures import Fit, Job

PIPE = "-"
TABLES = (".parquet", ".csv")
BATCH = 100  # images in memory at a time

app = typer.Typer(
    name="autoencoders",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

In = Annotated[str, typer.Argument(metavar="IN", help="An image, a folder of images, or - for the standard input.")]
Out = Annotated[str, typer.Argument(metavar="OUT", help="A .png, a folder for a folder, or - for the standard output.")]
Pictures = Annotated[
    str,
    typer.Argument(
        metavar="OUT", help="A .png with all of them, a folder for one file each, or - for the standard output."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="AUTOENCODERS_MODEL",
        metavar="MODEL",
        help="A file (models/vae/seed0.safetensors), its folder (models/vae), either as of a revision "
        "(HEAD~1:models/vae), or MLflow's (models:/reconstruction@champion, runs:/ID/vae-seed0).",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option("--rev", metavar="REV", help="Take MODEL as of this Git revision, tag or DVC experiment."),
]
Fitting = Annotated[
    Literal["crop", "pad", "stretch", "exact"],
    typer.Option(
        help="How an image of another size comes to the model's: its middle, black around it, or distorted; "
        "exact: not at all, it is left out."
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: a GPU if there is one.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what went wrong.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; what the user can mend becomes one sentence."""
    try:
        app(arguments, prog_name="autoencoders")
    except UserError as error:
        sys.exit(f"autoencoders: {error}")
    except OSError as error:  # no space, no permission
        sys.exit(f"autoencoders: {error.filename or 'the output'}: {error.strerror}")


@app.callback(
    epilog="""\b
Examples:
  autoencoders reconstruct digit.png copy.png --model models/vae
  autoencoders denoise scans/ cleaned/ --model models:/denoising@champion
  cat digit.png | autoencoders encode - - --model models/vae
  autoencoders sample digits.png --count 25 --model models/vqvae --seed 7
  autoencoders interpolate 3.png 8.png strip.png --model models/ae
  autoencoders export models/vae vae.onnx

COMMAND --help has more of them.
"""
)
def about() -> None:
    """Use trained autoencoders: on an image, a folder of images, or in a pipe."""


@dataclass
class Work:
    """One call of the command: what it says, and whether all of it could be done."""

    quiet: bool
    verbose: bool
    total: int = 1  # images to read, or else the one thing to be made
    failed: int = 0
    resized: list[tuple[str, tuple[int, int]]] = field(default_factory=list)  # names of images, and what size they had

    def note(self, text: str) -> None:
        """What a user wants to know."""
        if not self.quiet:
            typer.echo(text, err=True)

    def detail(self, text: str) -> None:
        """What some users want to know."""
        if self.verbose:
            typer.echo(text, err=True)

    def fail(self, text: str) -> None:
        """Something is left out; the rest goes on."""
        self.failed += 1
        typer.echo(f"autoencoders: {text}", err=True)

    def end(self, made: str) -> None:
        """Say what has been made, and end with 1 if something has not."""
        if self.failed < self.total:
            self.note(made)
        if self.failed:
            if self.total > 1:
                typer.echo(f"autoencoders: {self.failed} of {self.total} images were left out", err=True)
            raise typer.Exit(1)


@app.command(
    epilog="""\b
Examples:
  autoencoders reconstruct digit.png copy.png --model models/vae
  autoencoders reconstruct digits/ copies/ --model models:/reconstruction@champion
  autoencoders reconstruct photo.jpg copy.png --model models/vqvae --fit pad
  cat digit.png | autoencoders reconstruct - - --model models/ae > copy.png
"""
)
def reconstruct(
    source: In,
    out: Out,
    model: Model,
    *,
    rev: Revision = None,
    fit: Fitting = "crop",
    force: Force = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Give images back as a model encodes and decodes them."""
    work = Work(quiet, verbose)
    jobs = _plan(source, out, work, force=force)
    _give_back(_trained(model, rev, device, work), jobs, fit, work)


@app.command(
    epilog="""\b
Examples:
  autoencoders denoise noisy.png clean.png --model models/dae
  autoencoders denoise scans/ cleaned/ --model models:/denoising@champion
"""
)
def denoise(
    source: In,
    out: Out,
    model: Model,
    *,
    rev: Revision = None,
    fit: Fitting = "crop",
    force: Force = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Give corrupted images back without their noise."""
    work = Work(quiet, verbose)
    jobs = _plan(source, out, work, force=force)
    trained = _trained(model, rev, device, work)
    if trained.inputs == "clean":
        work.note(
            "warning: a model of this kind has seen clean images only, and knows no noise: it gives back what it can"
        )
    _give_back(trained, jobs, fit, work)


@app.command(
    epilog="""\b
Examples:
  autoencoders encode digits/ codes.parquet --model models/vae
  autoencoders encode digit.png - --model models/vqvae
"""
)
def encode(
    source: In,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A .parquet, a .csv, or - for CSV on the standard output.")],
    model: Model,
    *,
    rev: Revision = None,
    fit: Fitting = "crop",
    force: Force = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the codes of images as a table.

    A row for each image: its numbers z0, z1, … or, of a codebook, its indices k0, k1, …
    """
    from autoencoders import pictures

    work = Work(quiet, verbose)
    if out != PIPE and Path(out).suffix.lower() not in TABLES:
        msg = f"codes are written as {' or '.join(TABLES)}; {out} ends in neither"
        raise typer.BadParameter(msg, param_hint="OUT")
    jobs = _reading(source, work)
    if out != PIPE:
        pictures.check_free([Path(out)], force=force)
    trained = _trained(model, rev, device, work)
    import torch

    from autoencoders import codes

    codec = codes.Codec(trained)
    names, rows = list[str](), list["Tensor"]()
    with torch.no_grad():
        for done, x in _batches(jobs, trained, fit, work):
            names += [job.name for job in done]
            rows.append(codec.encode(x).cpu())
    if rows:
        table = codes.table(names, torch.cat(rows), integers=codec.integers)
        if out == PIPE:
            sys.stdout.buffer.write(codes.as_csv(table))
            sys.stdout.buffer.flush()
        else:
            codes.write(table, Path(out))
    work.end(f"codes of {len(names)} images, {codec.width} numbers each: {_named(out)}")


@app.command(
    epilog="""\b
Examples:
  autoencoders sample digits.png --count 25 --model models/vae --seed 7
  autoencoders sample digits/ --count 1000 --model models:/generation@champion
"""
)
def sample(
    out: Pictures,
    model: Model,
    *,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="How many images.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images, the same one the same.")] = 0,
    rev: Revision = None,
    force: Force = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make images up, from a model's prior."""
    work = Work(quiet, verbose)
    paths = _several(out, count, force=force)
    trained = _trained(model, rev, device, work)
    import torch

    from autoencoders import tasks

    with torch.no_grad():
        images = tasks.sample(trained, count, seed)
    _write(images, out, paths, None)
    work.end(f"{count} samples, seed {seed}: {_named(out)}")


@app.command(
    epilog="""\b
Examples:
  autoencoders interpolate 3.png 8.png strip.png --model models/vae
  autoencoders interpolate 3.png 8.png frames/ --steps 60 --model models/vae
"""
)
def interpolate(
    first: Annotated[str, typer.Argument(metavar="A", help="The image to begin with.")],
    last: Annotated[str, typer.Argument(metavar="B", help="The image to end with.")],
    out: Pictures,
    model: Model,
    *,
    steps: Annotated[int, typer.Option(min=2, max=10_000, help="How many images, A's and B's included.")] = 10,
    rev: Revision = None,
    fit: Fitting = "crop",
    force: Force = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Go from one image to another, in a straight line between their codes."""
    work = Work(quiet, verbose)
    paths = _several(out, steps, force=force)
    jobs = [job for each in (first, last) for job in _one(each)]
    trained = _trained(model, rev, device, work)
    import torch

    from autoencoders import tasks

    seen = [x for _, x in _batches(jobs, trained, fit, work)]
    if work.failed:
        raise typer.Exit(1)
    with torch.no_grad():
        images = tasks.interpolate(trained, torch.cat(seen), steps)
    _write(images, out, paths, steps)
    work.end(f"{steps} images from {first} to {last}: {_named(out)}")


@app.command(
    epilog="""\b
Examples:
  autoencoders export models/vae vae.onnx
  autoencoders export models:/reconstruction@champion encoder.onnx --part encode
"""
)
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As --model of the other commands.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An .onnx.")],
    *,
    part: Annotated[
        Literal["reconstruct", "encode", "decode"],
        typer.Option(help="Images to images, images to codes (as rows, see encode), or such rows to images."),
    ] = "reconstruct",
    rev: Revision = None,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a model as ONNX, for other programs.

    Before it is written, its outputs are compared with torch's at several batch sizes.
    """
    work = Work(quiet, verbose)
    if out.suffix != ".onnx":
        msg = f"models are written as ONNX; {out} does not end in .onnx"
        raise typer.BadParameter(msg, param_hint="OUT")
    from autoencoders import export as exporting
    from autoencoders import pictures

    pictures.check_free([out], force=force)

    exporting.check_installed()
    found = exporting.export(_trained(model, rev, "cpu", work), part, out)
    work.note(f"{out}: {part}, {out.stat().st_size / 1e6:.2f} MB, SHA-256 {found.digest}\n{found.sentence}")


# --- what the commands share -----------------------------------------------------------------------------------------


def _trained(model: str, revision: str | None, device: str, work: Work) -> "Autoencoder":
    """The model, in evaluation mode."""
    import torch

    from autoencoders import checkpoint, devices
    from autoencoders.located import located

    if device == "cuda" and not torch.cuda.is_available():
        msg = "torch finds no GPU here: --device cpu does without"
        raise UserError(msg)
    on = devices.prepare(device, torch.get_num_threads())
    with located(model, revision) as (path, name):
        trained = checkpoint.load(path, on)
    if name != model:
        work.note(f"model: {name}")
    channels, height, width = trained.image
    pixels = f"{width}×{height} pixels, {channels} channel{'s' * (channels > 1)}"
    work.detail(f"{trained.configuration['variant']} for images of {pixels}, on {devices.describe(on)}")
    return trained


def _plan(source: str, out: str, work: Work, *, force: bool) -> "list[Job]":
    """The images to read, and where each is to be written."""
    from autoencoders import pictures

    _check_output(out)
    if source == PIPE or not Path(source).is_dir():
        jobs = _one(source, None if out == PIPE else Path(out))
    elif out == PIPE:
        msg = "a folder becomes a folder; - takes one image"
        raise typer.BadParameter(msg, param_hint="OUT")
    else:
        jobs = pictures.jobs(Path(source), _inside(source, work), Path(out))
    pictures.check_free([job.target for job in jobs if job.target is not None], force=force)
    return jobs


def _reading(source: str, work: Work) -> "list[Job]":
    """The images to read, when nothing is written for each."""
    from autoencoders.pictures import Job

    if source == PIPE or not Path(source).is_dir():
        return _one(source)
    return [Job(name, Path(source) / name, None) for name in _inside(source, work)]


def _one(source: str, out: Path | None = None) -> "list[Job]":
    """A single image; the standard input is read at once."""
    from autoencoders import pictures

    if source != PIPE:
        return [pictures.job(Path(source), source, out)]
    if sys.stdin.isatty():
        msg = "- is the standard input, which is to be an image: … | autoencoders … -"
        raise typer.BadParameter(msg, param_hint="IN")
    return [pictures.job(sys.stdin.buffer.read(), "stdin", out)]


def _inside(source: str, work: Work) -> list[str]:
    """The files of a folder; what is not looked at is told."""
    from autoencoders import pictures

    names, left_out = pictures.inside(Path(source))
    work.total = len(names) + len(left_out)
    for each in left_out:
        work.fail(f"{each.path} {each.reason}")
    return names


def _several(out: str, count: int, *, force: bool) -> list[Path]:
    """Where `count` images are to be written one by one; none where they become one."""
    from autoencoders import pictures

    _check_output(out)
    if out == PIPE:
        return []
    alone = Path(out).suffix.lower() == pictures.PNG
    paths = [] if alone else pictures.numbered(Path(out), count)
    pictures.check_free(paths or [Path(out)], force=force)
    return paths


def _check_output(out: str) -> None:
    if out == PIPE and sys.stdout.isatty():
        msg = "- is the standard output, a terminal, which shows no PNG: autoencoders … - > image.png"
        raise typer.BadParameter(msg, param_hint="OUT")


def _batches(jobs: "list[Job]", trained: "Autoencoder", fit: "Fit", work: Work) -> "Iterator[tuple[list[Job], Tensor]]":
    """The images as the model takes them, floats (B, C, H, W) on its device, and what is to be done with each; those
    that cannot be read are told.
    """
    import numpy as np
    from tqdm.auto import tqdm

    from autoencoders import pictures
    from autoencoders.training import as_float, device_of

    _, height, width = trained.image
    resized: list[str] = []
    quiet = True if work.quiet or len(jobs) == 1 else None  # None: no bar where stderr is no terminal
    with tqdm(total=len(jobs), unit="image", leave=False, disable=quiet, file=sys.stderr) as bar:
        for start in range(0, len(jobs), BATCH):
            done, pixels = list["Job"](), []
            for job in jobs[start : start + BATCH]:
                seen = pictures.read(job.source, trained.image, fit)
                bar.update()
                if isinstance(seen, str):
                    work.fail(f"{job.name} {seen}")
                    continue
                if seen.size != (width, height):
                    resized.append(f"{job.name} is {pictures.words(seen.size)} pixels")
                    work.detail(resized[-1])
                done.append(job)
                pixels.append(seen.pixels)
            if done:
                yield done, as_float(np.stack(pixels)).to(device_of(trained))
    if resized:
        which = f"{resized[0]}; it was" if len(resized) == 1 else f"{len(resized)} images had another size; they were"
        work.note(f"{which} brought to the model's {width}×{height} (--fit {fit})")


def _give_back(trained: "Autoencoder", jobs: "list[Job]", fit: "Fit", work: Work) -> None:
    """Reconstruct every image, and write it."""
    import torch

    from autoencoders.tasks import as_bytes

    written: list[str] = []
    for done, x in _batches(jobs, trained, fit, work):
        with torch.no_grad():
            images = as_bytes(trained.reconstruct(x))
        for job, image in zip(done, images, strict=True):
            _put(image, job.target)
            written.append(_named(job.target))
    work.end(
        f"written: {written[0]}" + (f" and {len(written) - 1} more" if len(written) > 1 else "") if written else ""
    )


def _write(images: "Tensor", out: str, paths: list[Path], columns: int | None) -> None:
    """Write images (B, C, H, W) one by one, or all of them as one, in rows of `columns`."""
    from autoencoders import pictures
    from autoencoders.tasks import as_bytes

    stored = as_bytes(images)
    for image, path in zip(stored, paths, strict=False):
        pictures.write(image, path)
    if not paths:
        _put(pictures.sheet(stored, columns), None if out == PIPE else Path(out))


def _put(image: "Bytes", target: Path | None) -> None:
    """Write an image (C, H, W), to the standard output where there is no target."""
    from autoencoders import pictures

    if target is None:
        sys.stdout.buffer.write(pictures.png(image))
        sys.stdout.buffer.flush()
    else:
        pictures.write(image, target)


def _named(target: str | Path | None) -> str:
    return "the standard output" if target in {None, PIPE} else str(target)


if __name__ == "__main__":
    main()
