"""Exchanges code and results between this machine and the workers of a cluster, through DVC's remote."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from dvc.exceptions import DvcException
from dvc.fs import localfs
from dvc.repo import Repo
from dvc.stage.cache import _get_cache_hash
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import parse_yaml

from aelab.core.errors import UserError
from aelab.inference import mlflow_store
from pipeline.runner.cluster import worker
from pipeline.runner.cluster.worker import Checkout, StageRequest
from pipeline.runner.cluster.worker_stage import patiently
from pipeline.runner.dvc_stages import DvcStages, Entry
from pipeline.runner.plan import Plan

# A setting of the remote is not sent to workers if the setting's name contains one of these words.
SECRET = ("secret", "password", "token", "key", "connection", "credential")


class Handover:
    """Writes the messages for workers, and exchanges the files of stages with DVC's remote."""

    def __init__(self, dvc: DvcStages, plan: Plan) -> None:
        self.dvc, self.stages, self.upstream = dvc, dvc.stages, dvc.upstream
        self.at_home = stages_at_home(self.stages)
        remote = shared_remote(dvc.repo.config)
        read = set[str]().union(*(plan.upstream[name] for name in plan.waiting)) - plan.waiting
        self._offer(sorted(read))  # workers need these outputs, which may exist only on this machine
        self.checkout = publish(remote)

    def inputs(self, name: str) -> list[str]:
        """Return the paths that the stage `name` reads and other stages write."""
        deps = [dep.fs_path for dep in self.stages[name].deps]
        outs = [out for on in sorted(self.upstream[name]) for out in self.stages[on].outs]
        return [out.def_path for out in outs if any(localfs.overlaps(out.fs_path, dep) for dep in deps)]

    def uses_gpu(self, name: str) -> bool:
        """Whether a stage would use a GPU: whether the stage depends on the key `training.device`."""
        used = {key for dep in self.stages[name].deps for key in getattr(dep, "params", ())}
        return bool(used & {"training", "training.device"})

    def request(self, name: str) -> StageRequest:
        """Return the message that tells a worker how to run a stage."""
        lock = {on: to_single_stage_lockfile(self.stages[on]) for on in self.upstream[name]}
        return {"stage": name, "inputs": self.inputs(name), "lock": lock, "checkout": self.checkout}

    def restore(self, name: str) -> bool:
        """Record a stage's result if the remote's run cache has one, so that the stage does not run. Copy no file.

        Returns:
            Whether the run cache has the result, and the remote has all outputs of the stage.
        """
        stage = self.stages[name]
        made = {out.def_path: out for on in self.upstream[name] for out in self.stages[on].outs}
        away = [out for on in self.upstream[name] - self.at_home for out in self.stages[on].outs]
        with self.dvc.alone:
            try:
                for dep in stage.deps:
                    if dep.def_path in made:
                        dep.hash_info, dep.meta = made[dep.def_path].hash_info, made[dep.def_path].meta
                    elif any(localfs.overlaps(dep.fs_path, out.fs_path) for out in away):
                        return False  # this machine may lack files of the dependency, so the hash is unknown
                    else:
                        dep.save()
            except DvcException:  # an input is missing, which the stage will report
                return False
        key = str(_get_cache_hash(to_single_stage_lockfile(stage), key=True))
        entry = patiently(lambda: self._find(key))
        if entry:
            self.dvc.take(name, entry)
        return entry is not None

    def _find(self, key: str) -> Entry | None:
        """Return the record of a run whose outputs are all in the remote; None if the run cache has no such record.

        For an output folder, the check looks only for the folder's list of files. A push writes the list after the
        files.
        """
        odb = self.dvc.repo.cloud.get_remote_odb(hash_name="md5")
        runs = self.dvc.repo.cloud.get_remote_odb(hash_name="md5-dos2unix")
        runs.fs.fs.invalidate_cache()  # other machines may have written to the remote
        folder = runs.fs.join(runs.path, "runs", key[:2], key)
        for path in sorted(runs.fs.find(folder)) if runs.fs.exists(folder) else []:
            entry: Entry = parse_yaml(runs.fs.cat_file(path), path)
            if all(odb.exists(out["md5"]) for out in entry["outs"]):
                return entry
        return None

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Context in which a stage runs on this machine. Pull the stage's inputs before, and push its outputs after."""
        self.dvc.write_lock()  # the pull reads dvc.lock
        if inputs := self.inputs(name):
            with Repo(_wait_for_lock=True) as repo:
                patiently(lambda: repo.pull(inputs, force=True))
        yield
        self._offer([name])

    def _offer(self, names: list[str]) -> None:
        """Push the outputs of stages to the remote, except outputs that are not in this machine's cache."""
        with self.dvc.alone:
            outs = [out for name in names for out in self.stages[name].outs]
            here = [out.def_path for out in outs if out.use_cache and out.hash_info and not out.changed_cache()]
        if here:
            self.dvc.write_lock()
            with Repo(_wait_for_lock=True) as repo:
                patiently(lambda: repo.push(here))


def stages_at_home(stages: Mapping[str, Any]) -> set[str]:
    """Return the stages that must run on this machine.

    - A stage with inputs or outputs that DVC's remote cannot transfer.
    - A stage with an output folder, if another stage reads a single file of the folder. `dvc.lock` has no hash of this
      file.
    - A stage that always runs, and each stage that reads the outputs of a stage that always runs.
    """
    looks = {out.def_path for stage in stages.values() if stage.always_changed for out in stage.outs}
    made = {out.def_path for stage in stages.values() for out in stage.outs}
    deps = {name: {dep.def_path for dep in stage.deps} for name, stage in stages.items()}
    around = {
        path: {str(parent) for parent in PurePath(path).parents} & made for path in set[str]().union(*deps.values())
    }
    parted = set[str]().union(*around.values())  # output folders of which a stage reads only a part
    own = {name: {path for path in read - made if not around[path]} for name, read in deps.items()}
    read = sorted(set[str]().union(*own.values()))
    list_ignored = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--", *read, ":!*.pyc")
    ignored = [Path(name) for name in _git(*list_ignored).split("\0") if name] if read else []
    stay = {path for path in read if any(file.is_relative_to(os.path.normpath(path)) for file in ignored)}
    return {
        name
        for name, stage in stages.items()
        if stage.always_changed
        or any(PurePath(out).is_relative_to(path) for out in looks for path in deps[name])
        or own[name] & stay
        or any(not out.use_cache or out.def_path in parted for out in stage.outs)
    }


def shared_remote(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of DVC's default remote, without secrets.

    Raises:
        UserError: there is no default remote, or DVC's run cache does not support the kind of the remote.
    """
    name = config["core"].get("remote")
    if name is None:
        msg = "a cluster needs a remote that all workers can reach: `dvc remote add --default NAME s3://BUCKET/FOLDER`"
        raise UserError(msg)
    if config["remote"][name].get("version_aware") or config["remote"][name].get("worktree"):
        msg = f"the remote {name} keeps versions, which DVC's run cache does not support: choose another default remote"
        raise UserError(msg)
    return {key: value for key, value in config["remote"][name].items() if not any(word in key for word in SECRET)}


def publish(remote: dict[str, Any]) -> Checkout:
    """Push the code to the remote, with uncommitted changes, and return the values with which a worker finds the code.

    Raises:
        UserError: the remote does not accept the code.
    """
    head = _git("rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        index, bundle = Path(folder) / "index", Path(folder) / "code.bundle"
        shutil.copy(_git("rev-parse", "--git-path", "index"), index)
        _git("add", "--all", GIT_INDEX_FILE=str(index))
        tree = _git("write-tree", GIT_INDEX_FILE=str(index))
        name = f"{head}-{tree}.bundle"
        try:
            files, path = worker.storage(remote)
            target = files.join(path, "code", name)
            if not files.exists(target):
                me = ("-c", "user.name=cluster", "-c", "user.email=cluster")
                code = _git(*me, "commit-tree", tree, "-p", head, "-m", "Checked-out files")
                _git("update-ref", worker.CODE, code)
                _git("bundle", "create", "--quiet", str(bundle), worker.CODE)
                _git("update-ref", "-d", worker.CODE)
                files.put_file(str(bundle), target)
        except Exception as error:  # noqa: BLE001 - every file system has errors of its own
            msg = f"the remote {remote['url']} does not accept the code for the workers: {error}"
            raise UserError(msg) from None
    return {"bundle": name, "head": head, "remote": remote, "environment": _mlflow()}


def _mlflow() -> dict[str, str]:
    """Return the environment variables for an MLflow server. Without a server, workers get no variables."""
    names = mlflow_store.VARIABLES if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http") else ()
    return {name: os.environ[name] for name in names if name in os.environ}


def _git(*arguments: str, **environment: str) -> str:
    try:
        return worker.git(*arguments, folder=None, **environment)
    except RuntimeError as error:
        raise UserError(str(error)) from None
