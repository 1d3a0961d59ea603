"""`python -m faults`: see `suite`."""

import typer

from faults.suite import main

if __name__ == "__main__":
    typer.run(main)
