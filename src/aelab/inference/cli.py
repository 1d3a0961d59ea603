"""The command `aelab`: trained models on files, folders and pipes.

The command writes to the path that the user names, or to the standard output where that is `-`; every message goes to
the standard error. It ends with 0 if all went well, 1 if something could not be done, 2 if it was called wrongly.
Nothing is coloured. What needs torch is imported inside functions: `--help` and completion do not wait for that.
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
Out = Annotated[str, typer.Argument(metavar="OUT", help="A .png, a folder for a folder, or - for the standard output.")]
TableOut = Annotated[
    str, typer.Argument(metavar="OUT", help="A .parquet, a .csv, or - for CSV on the standard output.")
]
Outs = Annotated[
    str,
    typer.Argument(
        metavar="OUT", help="A .png with all of them, a folder for one file each, or - for the standard output."
    ),
]
Fit = Annotated[
    image_folder.Fit,
    typer.Option(
        help="How an image of another size comes to the model's: its middle, black around it, or distorted; "
        "exact: not at all, it is left out."
    ),
]
Bits = Annotated[
    int,
    typer.Option(
        min=8, max=16, help="Bits that the values of 16-bit files fill: 12 for most scanners and microscopes."
    ),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; what the user can mend becomes one sentence."""
    gc.set_threshold(100_000)  # objects; looking for garbage after every 700 takes a fifth of the time of all imports
    try:
        app(arguments, prog_name="aelab")
    except UserError as error:
        sys.exit(f"aelab: {error}")
    except OSError as error:  # no space, no permission
        sys.exit(f"aelab: {error.filename or 'the output'}: {error.strerror}")


@app.callback(epilog="aelab COMMAND --help has examples.")
def about() -> None:
    """Use trained autoencoders: on an image, a folder of images, or in a pipe."""


def _examples(name: str) -> str:
    return "\n  ".join(["\b\nExamples:", *EXAMPLES[name]])


def command(work: Callable[..., None]) -> None:
    """Register a command that is given an `Invocation`, and has the options of that beside its own parameters."""
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
    """Give images back as a model encodes and decodes them."""
    call.reconstruct(call.jobs(source, out), fit, bits)


@command
def denoise(call: Invocation, source: In, out: Out, fit: Fit = "crop", bits: Bits = 16) -> None:
    """Give corrupted images back without their noise."""
    jobs = call.jobs(source, out)
    if call.model.inputs == "clean":
        call.note(
            "warning: a model of this kind has seen clean images only, and knows no noise: it gives back what it can"
        )
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

    A row for each image: its numbers z0, z1, … or, of a codebook, its indices k0, k1, …
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
            help="The score that decides the order: mse, neg_elbo, rate or codebook_distance; without it the first one "
            "that the model defines."
        ),
    ] = "",
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A folder for a PNG of each image: it, its reconstruction, the error of each pixel."
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="HTML", help="An .html with the worst and the best images, in itself complete."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many of the worst, and of the best, it shows.")] = 12,
) -> None:
    """Say how strange images are to a model, as a table, the strangest first.

    A row for each image: each score that the model defines, and the percent of validation images with a lower one.
    """
    invocation.check_table(out, "scores")
    if sheet is not None and sheet.suffix.lower() != HTML:
        msg = f"a sheet is written as {HTML}; {sheet} does not end in it"
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
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="How many images.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images, the same one the same.")] = 0,
) -> None:
    """Make images up, from a model's prior."""
    paths = call.targets(out, count)
    from aelab.inference import tasks

    invocation.write(tasks.as_bytes(tasks.sample(call.model, count, seed)), paths)
    call.end(f"{count} samples, seed {seed}: {named(out)}")


@command
def interpolate(
    call: Invocation,
    first: Annotated[str, typer.Argument(metavar="A", help="The image to begin with.")],
    last: Annotated[str, typer.Argument(metavar="B", help="The image to end with.")],
    out: Outs,
    *,
    steps: Annotated[int, typer.Option(min=2, max=10_000, help="How many images, A's and B's included.")] = 10,
    fit: Fit = "crop",
    bits: Bits = 16,
) -> None:
    """Go from one image to another, in a straight line between their codes."""
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
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As --model of the other commands.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An .onnx.")],
    *,
    part: Annotated[
        Literal["reconstruct", "encode", "decode"],
        typer.Option(help="Images to images, images to codes (as rows, see encode), or such rows to images."),
    ] = "reconstruct",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as ONNX, for other programs.

    Before it is written, its outputs are compared with torch's at several batch sizes.
    """
    call = Invocation(model, force, quiet)
    if out.suffix != ".onnx":
        msg = f"models are written as ONNX; {out} does not end in .onnx"
        raise typer.BadParameter(msg, param_hint="OUT")
    image_files.check_free([out], force=force)
    from aelab.inference import onnx

    sentence = onnx.export(call.model.cpu(), part, out)
    call.note(f"{out}: {part}, {out.stat().st_size / 1e6:.2f} MB\n{sentence}")


@app.command(epilog=_examples("card"))
def card(
    entry: Annotated[
        str, typer.Option("--model", "-m", metavar="ENTRY", help="An entry of params.yaml, in its project's folder.")
    ],
    out: Annotated[str, typer.Argument(metavar="[OUT]", help="A .md, or - for the standard output.")] = PIPE,
    *,
    force: Force = False,
) -> None:
    """Write a model card: what an entry is, what it learned from, what it is worth.

    Its front matter is that of Hugging Face.
    """
    target = None if out == PIPE else Path(out)
    if target:
        image_files.check_free([target], force=force)
    if not Path("pipeline/tools/card.py").exists():
        msg = "a card is made of a project's results: go to the folder that has its params.yaml"
        raise UserError(msg)
    made = subprocess.run([sys.executable, "-m", "pipeline.tools.card", entry], stdout=subprocess.PIPE, check=False)  # noqa: S603
    if made.returncode:
        raise typer.Exit(made.returncode)
    invocation.put(made.stdout, target)


if __name__ == "__main__":
    main()
