"""The stages of `dvc.yaml`: paths and parameters here, mathematics in `aelab`."""

import gc
import os
import sys
from pathlib import Path

# The code that DVC hashes is the code that runs: a worktree, an experiment's copy and a copied folder each have their
# own `src`, while the environment that they share names the one that it was made for.
SRC = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SRC))

gc.set_threshold(100_000)  # objects; looking for garbage after every 700 took a fifth of the time of all imports

PARENT = os.getppid()  # noted before the slow imports: it may be gone after them
RUNNER = "AELAB_RUNNER"  # the process number of the `pipeline.runner.repro` that a stage runs for
