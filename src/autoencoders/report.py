"""The comparison of all variants: one row per variant and seed as CSV, a summary as Markdown and as one HTML file."""

import base64
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


@dataclass(frozen=True)
class Column:
    """A metric as it stands in a table."""

    title: str
    digits: int  # after the decimal point
    better: Literal["lower", "higher"] | None = None  # None: no value of it is best
    likelihood: bool = False  # comparable only between variants with the same likelihood


RECONSTRUCTION = {
    "mse": Column("MSE", 5, "lower"),
    "psnr": Column("PSNR (dB)", 2, "higher"),
    "ssim": Column("SSIM", 4, "higher"),
}
LIKELIHOOD = {
    "neg_elbo": Column("−ELBO (nats)", 2, "lower", likelihood=True),
    "rate": Column("rate", 2),
    "distortion": Column("distortion", 2),
    "bits_per_dim": Column("bits/dim", 4, "lower", likelihood=True),
    "neg_elbo_uniform": Column("−ELBO, uniform prior", 2),
    "rate_uniform": Column("rate, uniform prior", 2),
}
CODES = {
    "active_units": Column("active units", 1),
    "perplexity": Column("perplexity", 1),
    "codes_used": Column("codes used", 1),
    "code_distance": Column("‖z_e − e‖² / ‖z_e‖²", 4),
}
COST = {
    "parameters": Column("parameters", 0),
    "train_seconds": Column("training (s)", 1),
    "images_per_second": Column("images/s", 0),
    "peak_memory_mib": Column("peak memory (MiB)", 0),
}
HEADLINE = {
    **RECONSTRUCTION,
    "neg_elbo": LIKELIHOOD["neg_elbo"],
    "perplexity": CODES["perplexity"],
    "denoising_mse": Column("denoising MSE", 5, "lower"),
}


@dataclass(frozen=True)
class Table:
    """A table of text: variants down, metrics across."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]  # a best value is between asterisks, as Markdown's bold


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows."""

    title: str
    path: Path
    caption: str

    @property
    def data_uri(self) -> str:
        """The picture itself as an address."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Section:
    """One variant's part of the report."""

    title: str
    about: str
    figures: list[Figure] = field(default_factory=list)


def table(
    title: str,
    note: str,
    results: pd.DataFrame,
    columns: Mapping[str, Column],
    likelihoods: Iterable[str],
) -> Table:
    """Means over the seeds ± their standard deviation, the best of each column in bold.

    Args:
        title: of the table.
        note: what to know to read it.
        results: one row per variant and seed that finished; NaN where a metric is undefined.
        columns: the metrics to show.
        likelihoods: those that the variants use: where they differ, no −ELBO is best.
    """
    groups = results.groupby("variant", sort=False)
    shown = {name: column for name, column in columns.items() if name in results}
    means, spreads = groups[list(shown)].mean(), groups[list(shown)].std()
    best = {
        name: means[name].min() if column.better == "lower" else means[name].max()
        for name, column in shown.items()
        if column.better and means[name].notna().sum() > 1 and not (column.likelihood and len(set(likelihoods)) > 1)
    }
    rows = [
        [
            str(variant),
            *(
                cell(
                    means.loc[variant, name],
                    spreads.loc[variant, name],
                    column.digits,
                    bold=means.loc[variant, name] == best.get(name),
                )
                for name, column in shown.items()
            ),
        ]
        for variant in means.index
    ]
    arrows = {"lower": " ↓", "higher": " ↑", None: ""}
    return Table(title, note, ["", *(column.title + arrows[column.better] for column in shown.values())], rows)


def cell(mean: float, spread: float, digits: int, *, bold: bool) -> str:
    """`mean ± spread`, n/a where the metric is undefined; no spread where the seeds agree or there is only one."""
    if math.isnan(mean):
        return "n/a"
    text = f"{mean:,.{digits}f}" + ("" if math.isnan(spread) or spread == 0 else f" ± {spread:.{digits}f}")
    return f"**{text}**" if bold else text


def render(name: str, context: Mapping[str, Any]) -> str:
    """The template `name` filled with `context`; everything in an HTML template is escaped."""
    environment = Environment(
        loader=PackageLoader("autoencoders"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(context)
