"""Command line `aelab`, which applies trained models to image files, folders and pipes.

Each command writes to the path that the user names; `-` is the standard output. All messages go to the standard error.
The exit code is 0 for success, 1 for a failure, and 2 for wrong arguments. The output has no colours.

Modules that import torch are imported inside functions, so `--help` and shell completion are quick.
"""

import gc
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aelab.core.errors import UserError
from aelab.inference import image_files, invocation
from aelab.inference.image_files import PIPE
from aelab.inference.invocation import Force, Invocation, Quiet, named
from aelab.ingest import image_folder

if TYPE_CHECKING:
    from torch import Tensor

HTML = ".html"
EXAMPLES = tomllib.loads(Path(__file__).with_name("examples.toml").read_text(encoding="utf-8"))  # by command

app = typer.Typer(
    name="aelab",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

In = Annotated[str, typer.Argument(metavar="IN", help="An image, a folder of images, or - for the standard input.")]
Out = Annotated[
    str, typer.Argument(metavar="OUT", help="A .png file, a folder if IN is a folder, or - for the standard output.")
]
TableOut = Annotated[
    str, typer.Argument(metavar="OUT", help="A .parquet or .csv file, or - for CSV on the standard output.")
]
Outs = Annotated[
    str,
    typer.Argument(
        metavar="OUT", help="A .png file with all images, a folder of .png files, or - for the standard output."
    ),
]
Fit = Annotated[
    image_folder.Fit,
    typer.Option(
        help="How to treat images of another size: crop to the middle, pad with black, stretch, or leave out (exact)."
    ),
]
Bits = Annotated[
    int,
    typer.Option(min=8, max=16, help="Bits that 16-bit files really use, such as 12 for most microscopes."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. An error that the user can correct is shown without a traceback."""
    gc.set_threshold(100_000)  # with the default of 700 objects, garbage collection takes a fifth of the import time
    try:
        app(arguments, prog_name="aelab")
    except UserError as error:
        sys.exit(f"aelab: {error}")
    except OSError as error:  # for example no space or no permission
        sys.exit(f"aelab: {error.filename or 'the output'}: {error.strerror}")


@app.callback(epilog="aelab COMMAND --help shows examples.")
def about() -> None:
    """Apply trained autoencoders to images, folders of images and pipes."""


def _examples(name: str) -> str:
    return "\n  ".join(["\b\nExamples:", *EXAMPLES[name]])


def command(work: Callable[..., None]) -> None:
    """Register a function as a command of `aelab`.

    The options of the command are the function's own parameters and the constructor arguments of `Invocation`.

    Args:
        work: the function. The first argument is an `Invocation`, followed by the function's own parameters. The
            function's name and docstring become the name and the help of the command.
    """
    shared = inspect.signature(Invocation).parameters.values()

    def run(**given: Any) -> None:
        call = Invocation(**{each.name: given.pop(each.name) for each in shared})
        work(call, **given)

    _, *own = inspect.signature(work).parameters.values()
    together = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
    run.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    app.command(work.__name__, help=work.__doc__, epilog=_examples(work.__name__))(run)


@command
def reconstruct(call: Invocation, source: In, out: Out, fit: Fit = "crop", bits: Bits = 16) -> None:
    """Reconstruct images."""
    call.reconstruct(call.jobs(source, out), fit, bits)


@command
def denoise(call: Invocation, source: In, out: Out, fit: Fit = "crop", bits: Bits = 16) -> None:
    """Remove noise from images."""
    jobs = call.jobs(source, out)
    if call.model.inputs == "clean":
        call.note("warning: models of this kind learn from clean images only, and may leave the noise in the images")
    call.reconstruct(jobs, fit, bits)


@command
def encode(
    call: Invocation,
    source: In,
    out: TableOut,
    fit: Fit = "crop",
    bits: Bits = 16,
) -> None:
    """Write the codes of images as a table.

    Each row has the name and the code of an image: numbers z0, z1, … or, for a codebook, indices k0, k1, …
    """
    invocation.check_table(out, "codes")
    jobs = call.jobs(source)
    if out != PIPE:
        image_files.check_free([Path(out)], force=call.force)
    import torch

    from aelab.inference import codec, tasks

    form = codec.Codec(call.model)
    names, rows = list[str](), list["Tensor"]()
    for read, x in call.batches(jobs, fit, bits):
        names += [job.name for job in read]
        rows.append(tasks.perform(call.model, "encode", x, tasks.Options()).cpu())
    if rows:
        table = codec.table(names, torch.cat(rows), integers=form.integers)
        invocation.put(codec.as_bytes(table, Path(out).suffix), None if out == PIPE else Path(out))
    call.end(f"codes of {len(names)} images, {form.width} numbers each: {named(out)}")


@command
def score(
    call: Invocation,
    source: In,
    out: TableOut,
    fit: Fit = "crop",
    bits: Bits = 16,
    by: Annotated[
        str,
        typer.Option(
            help="Score that decides the order: mse, neg_elbo, rate or codebook_distance. The default is the first "
            "score that the model defines."
        ),
    ] = "",
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder for one PNG per image: image, reconstruction and the error of each pixel."
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="HTML", help="An .html file with the strangest and least strange images."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Images in each half of the sheet.")] = 12,
) -> None:
    """Rank images by anomaly score.

    The table has a row for each image, the strangest image first. A row has all scores that the model defines and, for
    each score, the percentage of validation images with a lower score.
    """
    invocation.check_table(out, "scores")
    if sheet is not None and sheet.suffix.lower() != HTML:
        msg = f"a sheet is written as HTML: {sheet} does not end in {HTML}"
        raise typer.BadParameter(msg, param_hint="--sheet")
    if maps is not None and not Path(source).is_dir():
        maps /= f"{'stdin' if source == PIPE else Path(source).stem}{image_files.PNG}"
    jobs = call.jobs(source, None if maps is None else str(maps))
    files = [Path(each) for each in (out, sheet) if each not in {None, PIPE}]
    image_files.check_free(files, force=call.force)
    from aelab.inference import scoring

    scoring.score(call, jobs, out, scoring.Wanted(by, maps is not None, sheet, top), (fit, bits))


@command
def sample(
    call: Invocation,
    out: Outs,
    *,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="Number of images.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal images.")] = 0,
) -> None:
    """Draw images from a model's prior."""
    paths = call.targets(out, count)
    from aelab.inference import tasks

    invocation.write(tasks.as_bytes(tasks.sample(call.model, count, seed)), paths)
    call.end(f"{count} samples, seed {seed}: {named(out)}")


@command
def interpolate(
    call: Invocation,
    first: Annotated[str, typer.Argument(metavar="A", help="First image.")],
    last: Annotated[str, typer.Argument(metavar="B", help="Last image.")],
    out: Outs,
    *,
    steps: Annotated[int, typer.Option(min=2, max=10_000, help="Number of images, including A and B.")] = 10,
    fit: Fit = "crop",
    bits: Bits = 16,
) -> None:
    """Interpolate between the codes of two images."""
    paths = call.targets(out, steps)
    jobs = [image_files.job(first), image_files.job(last)]
    import torch

    from aelab.inference import tasks

    seen = [x for _, x in call.batches(jobs, fit, bits)]
    if call.failed:
        raise typer.Exit(1)
    images = tasks.perform(call.model, "interpolate", torch.cat(seen), tasks.Options(steps=steps))
    invocation.write(tasks.as_bytes(images), paths, columns=steps)
    call.end(f"{steps} images from {first} to {last}: {named(out)}")


@app.command(epilog=_examples("export"))
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, named as for --model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An .onnx file.")],
    *,
    part: Annotated[
        Literal["reconstruct", "encode", "decode"],
        typer.Option(help="Function to export: images to reconstructions, images to codes, or codes to images."),
    ] = "reconstruct",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Export a model as ONNX, for other programs.

    The file is written only if the exported model's outputs agree with torch's at several batch sizes.
    """
    call = Invocation(model, force, quiet)
    if out.suffix != ".onnx":
        msg = f"a model is exported as ONNX: {out} does not end in .onnx"
        raise typer.BadParameter(msg, param_hint="OUT")
    image_files.check_free([out], force=force)
    from aelab.inference import onnx

    sentence = onnx.export(call.model.cpu(), part, out)
    call.note(f"{out}: {part}, {out.stat().st_size / 1e6:.2f} MB\n{sentence}")


@app.command(epilog=_examples("card"))
def card(
    entry: Annotated[
        str, typer.Option("--model", "-m", metavar="ENTRY", help="An entry of params.yaml, or its folder models/ENTRY.")
    ],
    out: Annotated[str, typer.Argument(metavar="[OUT]", help="A .md file, or - for the standard output.")] = PIPE,
    *,
    force: Force = False,
) -> None:
    """Write the model card of an entry.

    The card describes model, data, training and results. Its front matter follows Hugging Face.
    """
    target = None if out == PIPE else Path(out)
    if target:
        image_files.check_free([target], force=force)
    if not Path("pipeline/tools/card.py").exists():
        msg = "a card needs the results of a project: run the command in the folder that has params.yaml"
        raise UserError(msg)
    made = subprocess.run([sys.executable, "-m", "pipeline.tools.card", entry], stdout=subprocess.PIPE, check=False)  # noqa: S603
    if made.returncode:
        raise typer.Exit(made.returncode)
    invocation.put(made.stdout, target)


if __name__ == "__main__":
    main()
