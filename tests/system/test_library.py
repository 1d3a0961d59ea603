"""Tests of the names that `import aelab` offers."""

import subprocess
import sys

import pytest

import aelab


def test_every_name_is_there_and_no_other() -> None:
    assert set(aelab.__all__) == set(aelab.EXPORTS)
    assert all(callable(getattr(aelab, name)) for name in aelab.__all__)
    with pytest.raises(AttributeError, match="it offers Budget"):
        _ = aelab.fit


def test_importing_it_is_cheap() -> None:
    script = "import sys, aelab; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
