"""The stages of `dvc.yaml`, and the commands that run the stages and compare their results.

This package handles files and parameters. Models and metrics are in the package `aelab`.
"""

import gc
import os
import sys
from pathlib import Path

# DVC hashes the code of this copy of the repository, so Python must import `aelab` from the `src` of this copy. The
# virtual environment may have `aelab` from another copy, because worktrees and DVC experiments share the environment.
SRC = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SRC))

# Collect garbage only after 100,000 new objects: with the default of 700, collections take a fifth of the import time.
gc.set_threshold(100_000)

PARENT = os.getppid()  # process number of the parent, read early, because the parent may die during the slow imports
RUNNER = "AELAB_RUNNER"  # environment variable of a stage: number of the process whose death ends the stage
