"""Puts the folder of a run in order before training starts: torn checkpoints, Ray's list of them, going back to an older one.

Ray Train keeps a list of the checkpoints that were reported to it, writes it in place, and refuses to start when the list is
torn or names a folder that is gone. Here the list is only Ray's book of what to delete: which checkpoint to resume from is
found by looking at the checkpoints themselves, so a list that is not right is thrown away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.training import checkpoint
from lstm_embed.training.run import DONE, Run, RunFolder

SNAPSHOT = "checkpoint_manager_snapshot.json"

Note = Callable[[str], None]


def recover(run_dir: str, keep: int, note: Note) -> int | None:
    """Remove what is torn and what nobody will delete otherwise; return the step of the newest whole checkpoint.

    Args:
        run_dir: The run's folder, owned by this job.
        keep: How many of the checkpoints that Ray does not know of stay, besides the best one.
        note: Told what was found.
    """
    storage.remove_temporaries(run_dir)
    whole: list[str] = []
    torn: list[str] = []
    best = ""
    for path in checkpoint.list_checkpoints(run_dir):
        try:
            # Only the newest is going to be read, so only its contents are compared.
            state = checkpoint.verify(path, hashes=not whole)
        except InputError as error:
            torn.append(path)
            note(f"checkpoint {storage.name(path)} is incomplete or damaged and was removed: {error}")
            continue
        if not whole:
            best = checkpoint.name_of(state["progress"]["best_step"]) if state["progress"]["best_step"] >= 0 else ""
        whole.append(path)
    if torn:
        where = f"going on from {storage.name(whole[0])}" if whole else "none is whole, so the run begins anew"
        note(f"run {storage.name(run_dir)}: {where}")
    listed = _listed_by_ray(run_dir, {storage.name(path) for path in whole}, note)
    unlisted = [path for path in whole if storage.name(path) not in listed]
    for path in [*torn, *(path for path in unlisted[keep:] if storage.name(path) != best)]:
        storage.remove_dir(path)
    return checkpoint.step_of(whole[0]) if whole else None


def _listed_by_ray(run_dir: str, whole: set[str], note: Note) -> set[str]:
    """Return the checkpoints that Ray's list names; a list that is not right is removed, and then names none."""
    path = storage.join(run_dir, SNAPSHOT)
    if not storage.exists(path):
        return set()
    import ray

    try:
        values = storage.read_json(path)
        version = values["ray_version"]
        listed = {result["checkpoint_dir_name"] for result in values["checkpoint_results"]}
        latest = values["latest_checkpoint_result"]
        listed |= {latest["checkpoint_dir_name"]} if latest else set()
        if version == ray.__version__ and listed <= whole:
            return listed
        reason = f"it names {', '.join(sorted(listed - whole))}" if listed - whole else f"it is of Ray {version}"
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    note(f"Ray's list of checkpoints is made anew ({reason})")
    storage.remove(path)
    return set()


def roll_back(folder: RunFolder, run: Run, source: str, note: Note) -> Run:
    """Go back to an older checkpoint of a run, once; return the run with that noted.

    Args:
        folder: Of the run, owned by this job.
        run: As it is.
        source: The checkpoint: a folder of the run, or a copy of one.
        note: Told what was done.

    Raises:
        InputError: if it is no whole checkpoint.
        FingerprintMismatch: if it is of another run.
    """
    source = storage.resolve(source)
    if not storage.exists(source):
        raise FileNotFoundError(f"no checkpoint at {source} (--from-checkpoint)")
    state = checkpoint.verify(source)
    if state["run"] != run.fingerprint:
        raise FingerprintMismatch(
            f"{source} is of a run with other settings or data (fingerprint {state['run'][:8]}, run {storage.name(run.path)} "
            f"has {run.fingerprint[:8]}); use --init-from to start a new run from its weights"
        )
    target = storage.join(folder.path, checkpoint.name_of(state["step"]))
    if source != target:
        storage.remove_dir(target)
        files = [file.path[len(source) + 1 :] for file in storage.list_files(source)]
        for file in sorted(files, key=lambda name: name == "manifest.json"):
            storage.copy_file(storage.join(source, file), storage.join(target, file))
    newer = [
        path for path in checkpoint.list_checkpoints(folder.path) if (checkpoint.step_of(path) or 0) > state["step"]
    ]
    for path in newer:
        storage.remove_dir(path)
    storage.remove(storage.join(folder.path, SNAPSHOT))
    storage.remove(storage.join(folder.path, DONE))
    note(f"went back to step {state['step']}; {len(newer)} newer checkpoints were deleted")
    return dataclasses.replace(run, rolled_back_to=source)
