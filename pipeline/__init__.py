"""The stages of `dvc.yaml`: paths and parameters here, mathematics in `aelab`."""

import gc
import os

gc.set_threshold(100_000)  # objects; looking for garbage after every 700 took a fifth of the time of all imports

PARENT = os.getppid()  # noted before the slow imports: it may be gone after them
RUNNER = "AELAB_RUNNER"  # the process number of the `pipeline.runner.repro` that a stage runs for
