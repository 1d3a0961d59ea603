"""Hostile files and names, which try to run code, to write to other folders, or to exhaust the memory."""

import gzip
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image

from aelab.core import arrays, tensor_file
from aelab.core.errors import UserError
from aelab.ingest import downloads, image_folder
from aelab.models import checkpoint
from aelab.report import pages, summary, tables
from aelab.report.marks import Name
from aelab.report.metrics import Metric
from aelab.report.tables import Table
from aelab.report.verdicts import Claim, Finding, Judgement, Verdict
from aelab.training.snapshots import LAST, Snapshots
from faults.parameters import DEFAULT
from faults.table import Counts
from pipeline.common import params

# Audit events that Python raises before a command runs, or before a pickle loads a class.
RUNS = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"}
MEMORY, SECONDS = 2**31, 60.0  # the most bytes of memory and seconds that the refusal of a file may take


class Attack:
    """An object that runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


class Ran(BaseException):
    """Raised by the audit hook when an attack tries to run code."""


def attacks(place: Path, seed: int, count: int, only: str = "a_") -> Iterator[Counts]:  # noqa: ARG001 - each once
    """Try every kind of attack once, or only the functions of this module whose names begin with `only`.

    An audit hook stops each attempt to run code. A comparison of the files before and after an attack shows whether
    the attack wrote files outside of its own folder.
    """
    kinds = [function for name, function in sorted(globals().items()) if name.startswith(only)]
    promise = "no code runs, and no file is written elsewhere: the input is refused or escaped"
    counts = Counts("malicious files and names", promise, len(kinds))
    watching, seen = [False], list[str]()

    def audit(event: str, _: object) -> None:
        if watching[0] and event in RUNS:
            seen.append(event)
            raise Ran(event)

    sys.addaudithook(audit)
    for kind in kinds:
        inside = place / kind.__name__ / "inside"
        inside.mkdir(parents=True)
        handle = kind(inside, str(place / kind.__name__ / "pwned"))
        before, began, held = _files(place), time.monotonic(), psutil.Process().memory_info().rss
        watching[0] = True
        try:
            harmless = handle()
        except UserError:
            harmless = True
        except (Ran, Exception) as error:  # noqa: BLE001 - every outcome is counted
            harmless, seen = False, [*seen, repr(error)]
        watching[0] = False
        outside = [path for path in _files(place) - before if not path.is_relative_to(inside)]
        grew = psutil.Process().memory_info().rss - held
        quick = time.monotonic() - began < SECONDS and grew < MEMORY
        counts.add(harmless and not outside and not seen and quick, f"{kind.__name__}: {seen} {outside} {grew} {quick}")
        seen.clear()
    counts.remark = f"{len(kinds)} kinds"
    yield counts


def _files(place: Path) -> set[Path]:
    return {path for path in place.rglob("*") if not path.is_dir()}


Handle = Callable[[], bool]  # lets the project's code read the hostile file; returns whether the attack failed


def _pickle(mark: str) -> bytes:
    return pickle.dumps(Attack(f"touch {mark}"))


def a_model_that_is_a_pickle(inside: Path, mark: str) -> Handle:
    (inside / "m.safetensors").write_bytes(_pickle(mark))
    return lambda: bool(checkpoint.load(inside / "m.safetensors")) and False


def a_model_that_torch_would_unpickle(inside: Path, mark: str) -> Handle:
    torch.save(Attack(f"touch {mark}"), inside / "m.safetensors")
    return lambda: bool(checkpoint.load(inside / "m.safetensors")) and False


def a_checkpoint_that_is_a_pickle(inside: Path, mark: str) -> Handle:
    (inside / LAST).write_bytes(_pickle(mark))
    return lambda: Snapshots(inside).latest() is None


def _safetensors(inside: Path, header: bytes, body: bytes = b"\0" * 64, size: int | None = None) -> Handle:
    (inside / "m.safetensors").write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + body)
    return lambda: bool(tensor_file.read(inside / "m.safetensors")) and False


def a_header_longer_than_the_file(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _safetensors(inside, b"{}", size=2**63)


def a_header_of_a_petabyte(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _safetensors(inside, b'{"a":{"dtype":"F32","shape":[281474976710656],"data_offsets":[0,1125899906842624]}}')


def a_header_with_overlapping_tensors(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    one = {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}
    return _safetensors(inside, json.dumps({"a": one, "b": one}).encode())


def a_header_nested_without_end(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _safetensors(inside, b'{"__metadata__":' + b"[" * 100_000)


def _sealed_model(inside: Path, about: dict[str, Any]) -> Handle:
    tensor_file.write(inside / "m.safetensors", {"x": torch.zeros(1)}, about)
    return lambda: bool(checkpoint.load(inside / "m.safetensors")) and False


def a_model_whose_variant_is_a_module(inside: Path, mark: str) -> Handle:
    return _sealed_model(inside, {"variant": "os", "image": [1, 8, 8], "parameters": {"system": f"touch {mark}"}})


def a_model_whose_variant_is_a_path(inside: Path, mark: str) -> Handle:
    Path(mark + ".py").write_text(f"open({mark!r}, 'w')\n", encoding="utf-8")
    return _sealed_model(inside, {"variant": f"../../{mark}", "image": [1, 8, 8], "parameters": {}})


def a_model_whose_network_is_a_path(inside: Path, mark: str) -> Handle:
    section = {"network": {"name": f"..{mark}"}, "code": 4}
    return _sealed_model(inside, {"variant": "ae", "image": [1, 8, 8], "parameters": section})


def a_n_array_that_is_a_pickle(inside: Path, mark: str) -> Handle:
    with (inside / "images.npy").open("wb") as file:
        np.save(file, np.array([Attack(f"touch {mark}")], dtype=object), allow_pickle=True)

    def handle() -> bool:
        try:
            arrays.read(inside / "images.npy")
        except ValueError:
            return True
        return False

    return handle


def _tar(inside: Path, member: tarfile.TarInfo, content: bytes) -> Handle:
    with tarfile.open(inside / "data.tar", "w") as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return lambda: isinstance(downloads._read_tar(inside / "data.tar"), dict)  # noqa: SLF001


def a_tar_member_above(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _tar(inside, tarfile.TarInfo("../../pwned"), b"x")


def a_tar_member_with_an_absolute_path(inside: Path, mark: str) -> Handle:
    return _tar(inside, tarfile.TarInfo(mark), b"x")


def a_tar_member_that_has_a_known_name_above(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _tar(inside, tarfile.TarInfo("../../train-images-idx3-ubyte"), b"x")


def a_tar_member_that_is_a_link(inside: Path, mark: str) -> Handle:
    link = tarfile.TarInfo("train-images-idx3-ubyte")
    link.type, link.linkname = tarfile.SYMTYPE, mark
    return _tar(inside, link, b"")


def a_gzip_bomb(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    part = gzip.compress(bytes(2**26))
    (inside / "train-images-idx3-ubyte.gz").write_bytes(80 * part)  # 5 GiB of zeros

    def handle() -> bool:
        try:
            downloads._read_all(inside)  # noqa: SLF001
        except RuntimeError as error:
            return "unpacks to more than" in str(error)
        return False

    return handle


def _images(inside: Path, out: Path) -> tuple[list[str], int]:
    """Read a folder of images; return the files that the reader left out, and the number of files that it read."""
    found = image_folder.read(inside, (3, 8, 8), fit="crop", scratch=out, workers=1)
    return [each.path for each in found.left_out], len(found.labels)


def _with_images(inside: Path, put: Callable[[Path], object], left_out: int) -> Handle:
    there = inside / "images"
    there.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(there / f"{number}.png")
    put(there)
    return lambda: len(_images(there, inside)[0]) == left_out


def a_n_image_bomb(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    def put(there: Path) -> None:
        Image.new("1", (60_000, 60_000)).save(there / "bomb.png")

    return _with_images(inside, put, 1)


def a_n_image_that_is_a_link_to_a_device(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    def put(there: Path) -> None:
        (there / "x.png").symlink_to("/dev/zero")

    return _with_images(inside, put, 1)


def a_n_svg_with_a_script(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    return _with_images(inside, lambda there: (there / "x.png").write_text(svg), 1)


def a_postscript_program_as_an_image(inside: Path, mark: str) -> Handle:
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch {mark}) (w) file\n"
    return _with_images(inside, lambda there: (there / "x.png").write_text(program), 1)


def a_n_image_named_as_a_command(inside: Path, mark: str) -> Handle:
    def put(there: Path) -> None:
        Image.new("RGB", (8, 8)).save(there / f"$(touch {Path(mark).name}).png")
        Image.new("RGB", (8, 8)).save(there / "`id`; rm -rf x.png")

    return _with_images(inside, put, 0)


def _parameters(place: Path, change: Callable[[dict[str, Any]], object]) -> Handle:
    content = json.loads(json.dumps(DEFAULT))
    change(content)
    (place / "params.yaml").write_text(json.dumps(content), encoding="utf-8")
    return lambda: bool(params.load(place / "params.yaml")) and False


def a_n_entry_named_as_a_command(inside: Path, mark: str) -> Handle:
    return _parameters(inside, lambda all_: all_["variants"].update({f"$(touch {mark})": all_["variants"]["ae"]}))


def a_n_entry_named_as_a_script(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _parameters(inside, lambda all_: all_["variants"].update({"<script>alert(1)</script>": {}}))


def a_n_entry_named_as_a_formula(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _parameters(inside, lambda all_: all_["variants"].update({'=HYPERLINK("x")': all_["variants"]["ae"]}))


def a_n_entry_named_as_a_path(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _parameters(inside, lambda all_: all_["variants"].update({"../../x": all_["variants"]["ae"]}))


def a_model_name_that_is_a_module(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    return _parameters(inside, lambda all_: all_["variants"]["ae"].update(model="os.system"))


def _yaml(place: Path, text: str) -> Handle:
    (place / "params.yaml").write_text(text, encoding="utf-8")
    return lambda: bool(params.load(place / "params.yaml")) and False


def a_yaml_tag_that_makes_an_object(inside: Path, mark: str) -> Handle:
    return _yaml(inside, f'dataset: !!python/object/apply:os.system ["touch {mark}"]\n')


def a_few_lines_of_yaml_that_fill_the_memory(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    lines = ['a0: &a0 ["x", "x", "x", "x", "x", "x", "x", "x", "x", "x"]']
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return _yaml(inside, "\n".join([*lines, "dataset: *a9", "training: {steps: *a9}", "variants: {ae: *a9}", ""]))


def a_report_full_of_markup(inside: Path, mark: str) -> Handle:  # noqa: ARG001
    evil = '<script>alert("x")</script>'
    claim = Claim("key", evil, evil, evil, ())
    judgement = Judgement(claim, [Finding(lambda _: evil, verdict=Verdict.MIXED)], Verdict.MIXED)
    table = Table(evil, evil, ["", evil], [[evil, "1 | 2"]], [evil])
    nothing = ("values", "gaps", "noise", "rates", "curves", "galleries", "sheets", "codes", "maps", "pictures")
    section = {
        "title": evil, "about": evil, "seeds": table, "links": {}, "origin": {evil: evil}, "parameters": evil,
    }  # fmt: skip
    context: dict[str, Any] = {name: [] for name in nothing} | {
        "title": evil, "lead": evil, "problems": [evil], "sentences": [summary.Sentence(evil, "")], "seeds": 2,
        "differences": table, "tables": [table], "overview": table, "falling": evil,
        "names": {evil: Name(evil, [evil], floor=True)},
        "contrasts": [{"title": evil, "parameters": [(evil, evil, evil)], "table": table, "tied": [evil],
                       "readings": {evil: [evil]}}],
        "claims": [{"claim": claim, "judgement": judgement, "tables": [table], "figures": []}],
        "sections": [section],
        "undefined": [(evil, [evil])], "metrics": {evil: Metric(evil, evil, 1)}, "own": {},
        "parameters": f"# ```\n# {evil}\n", "fence": "````", "folder": inside,
    }  # fmt: skip

    def handle() -> bool:
        page, text = (pages.render(f"comparison.{kind}.j2", context) for kind in ("html", "md"))
        outside_of_the_fence = text.split("````")[0] + text.split("````")[2]
        return "<script>alert" not in page and "<script" not in outside_of_the_fence

    return handle


def a_cell_that_is_a_formula(inside: Path, mark: str) -> Handle:
    def handle() -> bool:
        cells = [tables.spreadsheet(each) for each in (f'=cmd|"/c touch {mark}"!A1', "+1", "-1+1", "@SUM(A1)")]
        pd.DataFrame(cells).to_csv(inside / "x.csv", header=False, index=False)
        lines = (inside / "x.csv").read_text(encoding="utf-8").splitlines()
        return all(line.lstrip('"').startswith("'") for line in lines)

    return handle
