"""Entry point of `python -m faults`; the code is in `suite`."""

import typer

from faults.suite import main

if __name__ == "__main__":
    typer.run(main)
