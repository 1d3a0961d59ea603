"""The stages of `dvc.yaml`: paths and parameters here, mathematics in `autoencoders`."""

import gc

gc.set_threshold(100_000)  # objects; looking for garbage after every 700 took a fifth of the time of all imports
