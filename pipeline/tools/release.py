"""release: build a release in `dist/`, without publishing it.

    python -m pipeline.tools.release

The program builds a wheel and a source distribution from the last commit. Every machine builds the same bytes. `dist/`
also gets an SBOM (a list of the dependencies, in the format CycloneDX), a table of the dependencies' licences, and the
SHA-256 of each file.
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
    """Build the last commit, and write the two packages to dist/, with the SBOM, the licences and the hashes."""
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
    print(f"{sums}\nThe files are in {DIST}/. Nothing is published.")
    print(f"Next: git tag v{version}, and upload the wheel and the .tar.gz.")


def check_changelog(text: str, version: str) -> None:
    """Check that the changelog `text` has a section for `version`, with a date in its title.

    Raises:
        UserError: the section is missing.
    """
    if not re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE):
        msg = f"CHANGELOG.md has no section for this version: rename Unreleased to `## {version} - YYYY-MM-DD`"
        raise UserError(msg)


def check_committed() -> None:
    """Check that all changes are committed.

    Raises:
        UserError: there are uncommitted changes.
    """
    if changed := _output("git", "status", "--porcelain", "--untracked-files=no"):
        msg = f"a release is built from a commit; commit these changed files first:\n{changed}"
        raise UserError(msg)


def build(repository: Path, target: Path) -> None:
    """Build the wheel and the source distribution of the last commit, and write both to the folder `target`.

    The function builds both files twice, from clones in two folders, because the folder must not matter.

    Raises:
        UserError: the two builds differ.
    """
    epoch = _output("git", "-C", str(repository), "log", "-1", "--format=%ct")
    with TemporaryDirectory() as place:
        twice = [_built(repository, Path(place, name), epoch) for name in ("one", "another")]
        one, another = ({path.name: disk.digest(path) for path in folder.iterdir()} for folder in twice)
        if one != another:
            differ = sorted(name for name in one if one[name] != another.get(name))
            msg = f"two builds of one commit differ in: {', '.join(differ)}"
            raise UserError(msg)
        shutil.copytree(twice[0], target)


def _built(repository: Path, place: Path, epoch: str) -> Path:
    """Build both files in a new clone inside `place`, and return their folder. All files get the time `epoch`."""
    source, target = place / "source", place / "built"
    _output("git", "clone", "--quiet", str(repository.resolve()), str(source))
    environment = os.environ | {"SOURCE_DATE_EPOCH": epoch}
    _output(sys.executable, "-m", "hatchling", "build", "-d", str(target), cwd=source, env=environment)
    return target


def bill(lock: Path, target: Path) -> None:
    """Write the SBOM (software bill of materials) of the packages that the file `lock` lists.

    The format is CycloneDX. The tool `cyclonedx_py` also validates the SBOM against the schema of the format.
    """
    options = ["--pyproject", "pyproject.toml", "--mc-type", "library", "--output-reproducible", "--validate"]
    _output(sys.executable, "-m", "cyclonedx_py", "requirements", str(lock), *options, "--output-file", str(target))


def licences(lock: Path) -> str:
    """Return a Markdown table with the licence of each package in the file `lock`, from the package's metadata."""
    names = re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [f"| {name} | {version} | {_licence(name)} |" for name, version in names]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows, ""])


def _licence(name: str) -> str:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return "unknown: the package is not installed on this machine"
    return next((text for text in _said(found) if text), "not stated")


def _said(package: Distribution) -> Iterator[str]:
    """Yield the name of the package's licence from several fields of the metadata, the preferred field first.

    The name is empty if a field is missing or contains no name.
    """
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
