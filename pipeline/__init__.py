"""The stages of `dvc.yaml` and the tools around them. Paths and parameters are here, mathematics is in `aelab`."""

import gc
import os
import sys
from pathlib import Path

# Python must run the code that DVC hashes. A worktree, an experiment's copy and a copied folder each have their own
# `src`, but they share an environment, which names the `src` of the folder where it was installed.
SRC = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SRC))

gc.set_threshold(100_000)  # objects; with Python's default of 700, garbage collection took a fifth of the import time

PARENT = os.getppid()  # read before the slow imports, during which the parent may end
RUNNER = "AELAB_RUNNER"  # process number of the `pipeline.runner.repro` that started a stage
