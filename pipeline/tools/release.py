"""release: all of a release but its publication, in `dist/`.

    python -m pipeline.tools.release

From the last commit: a wheel and a source distribution that are the same bytes wherever that commit is built, what the
project runs with as an SBOM in CycloneDX and as a table of licences, and the SHA-256 of each of these files.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from aelab.core import disk
from aelab.core.errors import UserError

DIST = Path("dist")
LOCK = "requirements.lock"


def main() -> None:
    """Build the last commit twice, compare, and say what is in it: dist/. Nothing is published."""
    try:
        version = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
        check_changelog(Path("CHANGELOG.md").read_text(encoding="utf-8"), version)
        check_committed()
        shutil.rmtree(DIST, ignore_errors=True)
        build(Path(), DIST)
        bill(Path(LOCK), DIST / f"aelab-{version}.cdx.json")
        (DIST / "licenses.md").write_text(licences(Path(LOCK)), encoding="utf-8")
    except UserError as error:
        sys.exit(f"\n{error}\n")
    sums = "".join(f"{disk.digest(path)}  {path.name}\n" for path in sorted(DIST.iterdir()))
    (DIST / "SHA256SUMS").write_text(sums, encoding="utf-8")
    print(f"{sums}\nIn {DIST}/, nothing is published. Next: git tag v{version}, and upload the wheel and the .tar.gz.")


def check_changelog(text: str, version: str) -> None:
    """Let the changelog say what this version brings, and since when.

    Raises:
        UserError: it has no section of the version with a date.
    """
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE):
        msg = f"CHANGELOG.md has no section of this version: call what is under Unreleased `## {version} - YYYY-MM-DD`"
        raise UserError(msg)


def check_committed() -> None:
    """Let what is built be what lies here.

    Raises:
        UserError: there are changes without a commit.
    """
    if changed := _output("git", "status", "--porcelain", "--untracked-files=no"):
        msg = f"a release is made of a commit, and these files have changed since the last one:\n{changed}"
        raise UserError(msg)


def build(repository: Path, target: Path) -> None:
    """The wheel and the source distribution of the last commit, from two clones of it that lie in different folders.

    Raises:
        UserError: the two are not the same bytes.
    """
    epoch = _output("git", "-C", str(repository), "log", "-1", "--format=%ct")
    with TemporaryDirectory() as place:
        twice = [_built(repository, Path(place, name), epoch) for name in ("one", "another")]
        one, another = ({path.name: disk.digest(path) for path in folder.iterdir()} for folder in twice)
        if one != another:
            differ = sorted(name for name in one if one[name] != another.get(name))
            msg = f"built twice from one commit, these are not the same bytes: {', '.join(differ)}"
            raise UserError(msg)
        shutil.copytree(twice[0], target)


def _built(repository: Path, place: Path, epoch: str) -> Path:
    source, target = place / "source", place / "built"
    _output("git", "clone", "--quiet", str(repository.resolve()), str(source))
    environment = os.environ | {"SOURCE_DATE_EPOCH": epoch}
    _output(sys.executable, "-m", "hatchling", "build", "-d", str(target), cwd=source, env=environment)
    return target


def bill(lock: Path, target: Path) -> None:
    """What the project runs with, as CycloneDX; the tool that writes it checks it against CycloneDX's schema."""
    options = ["--pyproject", "pyproject.toml", "--mc-type", "library", "--output-reproducible", "--validate"]
    _output(sys.executable, "-m", "cyclonedx_py", "requirements", str(lock), *options, "--output-file", str(target))


def licences(lock: Path) -> str:
    """The licence of each package of the lock, as its own metadata say."""
    names = re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [f"| {name} | {version} | {_licence(name)} |" for name, version in names]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows, ""])


def _licence(name: str) -> str:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return "not known here: this machine does not need the package"
    return next((text for text in _said(found) if text), "not said")


def _said(package: Distribution) -> Iterator[str]:
    """The ways in which metadata name a licence, the newest first; a text of a licence is no name of one."""
    metadata: Any = package.metadata
    yield metadata.get("License-Expression", "")
    classifiers = metadata.get_all("Classifier", [])
    yield ", ".join(each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: OSI"))
    text = metadata.get("License", "")
    yield text if "\n" not in text else ""
    yield ", ".join(each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::"))


def _output(*command: str, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # noqa: S603
    if done.returncode:
        msg = f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"
        raise UserError(msg)
    return done.stdout.strip()


if __name__ == "__main__":
    typer.run(main)
