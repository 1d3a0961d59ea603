"""The main test metrics of an entry, in one line. An entry is a model with its settings in params.yaml.

The runner prints this line as soon as the stage `evaluate@entry` has ended, long before the report is written.
"""

from aelab.core import disk
from aelab.report.intervals import interval
from aelab.report.metrics import DECIDING, metric
from pipeline.common import paths


def first_look(stage: str) -> str | None:
    """Return the line for a finished stage, such as evaluate@vae; None for any other kind of stage.

    Each metric is a mean over the seeds whose training did not diverge, with its 95 % interval.
    """
    kind, _, entry = stage.partition("@")
    file = paths.EVALUATION / entry / "metrics.json"
    if kind != "evaluate" or not file.exists():
        return None
    seeds = disk.read_json(file).values()
    finished = [seed["metrics"]["test"] for seed in seeds if seed["status"] == "finished"]
    if not finished:
        return "no seed has finished"
    told = []
    for each, name in ((metric(name), name) for name in DECIDING if name in finished[0]):
        value = interval(seed[name] for seed in finished).text(each.digits)
        told.append(f"{each.title} {value} {each.unit}".rstrip())
    count = f"{len(finished)} of {len(seeds)} seeds" if len(finished) < len(seeds) else f"seeds: {len(seeds)}"
    return f"test: {', '.join(told)} ({count})"
