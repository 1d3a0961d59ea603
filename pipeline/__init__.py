"""The stages of `dvc.yaml` and the tools around them.

This package handles files and parameters; models and metrics are in `aelab`.
"""

import gc
import os
import sys
from pathlib import Path

# Python must run the code that DVC hashes. A worktree, the copy of a DVC experiment and a copied folder each have their
# own `src`. The virtual environment that these folders share has `aelab` installed from only one of them.
SRC = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SRC))

# Collect garbage only after 100,000 new objects: with the default of 700, collections take a fifth of the import time.
gc.set_threshold(100_000)

PARENT = os.getppid()  # the parent's process number; read before the slow imports, during which the parent may end
RUNNER = "AELAB_RUNNER"  # process number of the `pipeline.runner.repro` that started a stage
