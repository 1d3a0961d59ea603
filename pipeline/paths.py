"""Where everything lies, relative to the repository's root."""

from pathlib import Path

RAW = Path("data/raw")  # downloaded files, kept between runs; no output of any stage
CLEAN = Path("data/clean")  # train, validation, test
CORRUPTED = Path("data/corrupted")  # corrupted copies of train and validation, to learn from
NOISY = Path("data/noisy")  # corrupted copies of test, to be tested on
MODELS = Path("models")
EVALUATION = Path("evaluation")
PROVENANCE = Path("provenance")  # what differs between equal runs: times, hardware, versions
REPORTS = Path("reports")
LOGS = Path("logs")  # what each stage said when it last ran through `pipeline.repro`
