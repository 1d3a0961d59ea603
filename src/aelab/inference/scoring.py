"""Command `aelab score`: a table of anomaly scores, maps of errors, and a page of the strangest images (the sheet).

A map shows the error of each pixel: the absolute difference between image and reconstruction, as a mean over the
channels. All maps have the same scale, from 0 to the largest error of a pixel in all images, and the same colours.
A strip shows an image, its reconstruction and its map side by side.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import colormaps
from torch import Tensor

from aelab.core.tensors import device_of
from aelab.data.datasets import Bytes
from aelab.evaluation import anomaly
from aelab.inference import codec, image_files, invocation, tasks
from aelab.inference.image_files import PIPE, Job
from aelab.inference.invocation import Invocation, named
from aelab.ingest.image_folder import Fit

COLOURS = "inferno"  # perceptually uniform (van der Walt & Smith 2015)
TITLES = {"mse": "MSE", "neg_elbo": "−ELBO (nats)", "rate": "rate (nats)", "codebook_distance": "distance to codebook"}


@dataclass(frozen=True)
class Wanted:
    """Options of `aelab score` for the order of the table, for the maps, and for the sheet."""

    by: str  # the score that decides the order; "" means the first score that the model defines
    maps: bool  # whether to write the image's strip to the target file of each job
    sheet: Path | None  # the HTML file of the sheet; None to write no sheet
    top: int  # number of the strangest images in the sheet, and of the least strange images


def score(call: Invocation, jobs: list[Job], out: str, wanted: Wanted, reading: tuple[Fit, int]) -> None:
    """Write the table of scores and, if `wanted` says so, the strips and the sheet.

    Args:
        call: the call of the command, with the model.
        jobs: the images. The target of a job is the file for the image's strip.
        out: the file of the table, or `PIPE`.
        wanted: the options of the command.
        reading: how images of another size are fitted to the model, and how many bits 16-bit files really use.
    """
    model, pictures = call.model, wanted.maps or wanted.sheet is not None
    by = tasks.picked(model, wanted.by)
    if pictures:
        tasks.picked(model, "mse")  # raises an error if the model has no "mse", which the maps need
    generator = torch.Generator(device_of(model)).manual_seed(0)
    read: list[Job] = []
    found: list[dict[str, Tensor]] = []
    largest = 0.0
    for some, x in call.batches(jobs, *reading):
        seen = x.to(device_of(model))
        read += some
        found.append({name: each.cpu() for name, each in anomaly.scores(model, seen, generator).items()})
        if pictures:
            largest = max(largest, float(_errors(seen, tasks.perform(model, "reconstruct", x, tasks.Options())).max()))
    if read:
        scores = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        table = _table([job.name for job in read], scores, call.validation.get("scores", {})).sort_values(
            by, ascending=False, kind="stable"
        )
        if not call.validation:
            call.note(
                "no percentiles: this model has no file with the scores of its validation images; "
                "the pipeline's stage evaluate writes this file"
            )
        ends = {*table["image"][: wanted.top], *table["image"][-wanted.top :]} if wanted.sheet else set()
        chosen = [job for job in read if wanted.maps or job.name in ends]
        shown = dict[str, Bytes]()
        for some, x in call.batches(chosen, *reading, again=True):
            strips = dict(zip([job.name for job in some], _strips(call, x, largest), strict=True))
            shown |= {name: strip for name, strip in strips.items() if name in ends}
            for job in some if wanted.maps else []:
                invocation.put(image_files.png(strips[job.name]), job.target)
        if wanted.sheet is not None:
            invocation.put(_sheet(call, table, by, wanted.top, shown, largest).encode(), wanted.sheet)
        invocation.put(codec.as_bytes(table, Path(out).suffix), None if out == PIPE else Path(out))
    written = [named(each) for each in (out, wanted.sheet) if each is not None]
    call.end(f"scores of {len(read)} images, by {by}: {', '.join(written)}")


def _table(names: Sequence[str], scores: dict[str, Tensor], validation: dict[str, Sequence[float]]) -> pd.DataFrame:
    """Table with a row for each image: each score, and its percentile if `validation` has scores of this name."""
    columns: dict[str, Any] = {"image": pd.Series(names, dtype="str")}
    for name, values in scores.items():
        columns[name] = values.numpy()
        if name in validation:
            columns[f"{name}_percentile"] = anomaly.percentile(values, validation[name]).numpy().round(1)
    return pd.DataFrame(columns)


def _errors(x: Tensor, y: Tensor) -> Tensor:
    """Error of each pixel between images x and reconstructions y: (B, C, H, W) → (B, H, W)."""
    return (x - y.to(x.device)).abs().mean(1)


def _strips(call: Invocation, x: Tensor, largest: float) -> Bytes:
    """Each image, its reconstruction and its map of errors, side by side: (B, C, H, W) → uint8 (B, 3, H, 3·W)."""
    y = tasks.perform(call.model, "reconstruct", x, tasks.Options()).cpu()
    pair = [tasks.as_bytes(each.expand(-1, 3, -1, -1)) for each in (x, y)]
    return np.concatenate([*pair, _coloured(_errors(x, y).numpy() / (largest or 1.0))], axis=3)


def _coloured(values: Any) -> Bytes:
    """Colours of numbers in [0, 1]: (B, H, W) → uint8 (B, 3, H, W)."""
    colours: Bytes = colormaps[COLOURS](values, bytes=True)
    return np.ascontiguousarray(colours[..., :3].transpose(0, 3, 1, 2))


def _sheet(call: Invocation, table: pd.DataFrame, by: str, top: int, shown: dict[str, Bytes], largest: float) -> str:
    """HTML page of the strangest and the least strange images."""
    worst = table[:top]
    best = table[max(top, len(table) - top) :][::-1]  # no image is in both halves of the sheet
    scores = [name for name in table if name in TITLES]

    def card(row: Mapping[Any, Any]) -> dict[str, Any]:
        told = [(TITLES[name], f"{row[name]:.4g}", row.get(f"{name}_percentile"), name == by) for name in scores]
        return {"name": row["image"], "picture": _inline(shown[row["image"]]), "scores": told}

    environment = Environment(
        loader=PackageLoader("aelab.inference", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("sheet.html.j2").render(
        model=call.location,
        by=TITLES[by],
        count=len(table),
        validation=call.validation.get("images"),
        halves=[
            (title, [card(row) for row in rows.to_dict("records")])
            for title, rows in (("The strangest", worst), ("The least strange", best))
            if len(rows)
        ],
        scale=_inline(_coloured(np.linspace(0, 1, 256)[None, None])[0]),
        largest=f"{largest:.2f}",
    )


def _inline(image: Bytes) -> str:
    """Data URL that contains an image as a PNG file."""
    return "data:image/png;base64," + base64.b64encode(image_files.png(image)).decode()
