"""The one way in which a stage is run: books, comparison, Ray, the work, the manifest, the summary."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.ledger import Ledger, Work, fingerprint, seal
from lstm_embed.ledger.manifest import read_manifest
from lstm_embed.ledger.whole import finished, making
from lstm_embed.stages.config import WandbConfig
from lstm_embed.stages.observe import Observer
from lstm_embed.stages.preflight import Needs
from lstm_embed.stages.session import ray_session
from lstm_embed.stages.stage import FolderStage, Job, UnitStage

_SAMPLE_FILES = 5
"""Input files that every node must see before a job works."""


def run_stage(stage: UnitStage[Any] | FolderStage[Any], report: Reporter = SILENT) -> Summary:
    """Run a stage: what is left to do is done, and a finished output stays as it is.

    Raises:
        FileNotFoundError: if an input is not there.
        InputError: if settings, input and output folder do not go together.
        TooMuchRejected: if more was rejected than the settings allow.
        OutputBusy: if another job writes the output folder.
        LstmEmbedError: if the work failed; the same call goes on.
    """
    return _run_units(stage, report) if isinstance(stage, UnitStage) else _run_folder(stage, report)


def open_books(stage: UnitStage[Any]) -> tuple[Ledger, Work]:
    """Return the books of a stage's output folder, and what is left to do; writes nothing.

    Raises:
        FileNotFoundError, InputError: as of `run_stage`.
    """
    _check_output(stage.output)
    stage.open()
    ledger = Ledger(
        stage.output,
        kind=stage.kind,
        settings=stage.settings(),
        config=stage.recorded_config(),
        suffix=stage.suffix,
    )
    return ledger, stage.compare(ledger)


def _check_output(path: str) -> None:
    """Refuse an output that is a file."""
    if storage.exists(path) and not storage.is_dir(path):
        raise InputError(f"{path} is a file; expected a new or empty folder, or one that this job wrote (--output)")


def _run_units(stage: UnitStage[Any], report: Reporter) -> Summary:
    ledger, work = open_books(stage)
    if work.finished:
        return replace(_summary(stage, 0.0), already_done=True, notes=_about_vanished(work, stage.row_name))
    for path in work.vanished[:3]:
        report.note(f"{path} is gone; what it gave is kept (--prune removes it)")
    if stage.config.dry_run:
        return _planned(stage, work)
    with (
        Observer(report, stage.output, stage.output) as observed,
        ray_session(_needs(stage, work), observed),
        _in_wandb(stage, observed) as watched,
    ):
        started = time.monotonic()  # when Ray runs and the nodes are there
        stage.begin(watched)
        with ledger.writing(work) as owner:
            job = Job(stage, ledger, ledger.remaining(work), watched)
            records = stage.make(job)
            owner.check()
            storage.remove_dir(stage.staging_dir)
            bad = getattr(stage.config, "max_bad_fraction", 1.0)
            ledger.finish(job.work, records, max_bad_fraction=bad, extra=stage.manifest())
    return _summary(stage, time.monotonic() - started)


def _summary(stage: UnitStage[Any], seconds: float) -> Summary:
    manifest = read_manifest(stage.output, kind=stage.kind)
    return Summary(
        stage=stage.name,
        output=stage.output,
        rows=manifest["rows"],
        row_name=stage.row_name,
        seconds=seconds,
        facts=stage.facts(manifest),
    )


def _planned(stage: UnitStage[Any], work: Work) -> Summary:
    """Return what would be done, and about how long it would take."""
    name, scale = stage.size_unit
    size = sum(unit.size for unit in work.pending)
    facts: dict[str, Any] = {
        f"{name} as stored": round(size / scale, 1),
        "new units": len(work.added),
        "retired units": len(work.retired),
        "input files gone": len(work.vanished),
    }
    rate = stage.sample_rate(work)
    cpus = os.cpu_count() or 1
    if rate > 0:
        facts[f"seconds on {cpus} CPUs, about"] = round(size / rate / cpus)
        facts[f"{name} a second and CPU, in a small sample"] = round(rate / scale, 3)
    return Summary(
        stage=stage.name,
        output=stage.output,
        rows=len(work.pending),
        row_name=f"of {len(work.units)} units",
        seconds=0.0,
        dry_run=True,
        facts=facts,
    )


def _about_vanished(work: Work, rows: str) -> tuple[str, ...]:
    """Return what a finished job says of its input files that are gone."""
    if not work.vanished:
        return ()
    files = "1 input file is" if len(work.vanished) == 1 else f"{len(work.vanished)} input files are"
    return (f"{files} gone (such as {work.vanished[0]}): the {rows} are kept; --prune takes them away",)


def _needs(stage: UnitStage[Any], work: Work) -> Needs:
    """Add a few files of the units to what a stage needs."""
    paths = {unit.spans[0].path for unit in work.pending[:: max(1, len(work.pending) // _SAMPLE_FILES)]}
    needs = stage.needs()
    return replace(needs, inputs=(*needs.inputs, *sorted(paths)))


@contextlib.contextmanager
def _in_wandb(stage: UnitStage[Any], report: Reporter) -> Iterator[Reporter]:
    """Send progress to Weights & Biases too where that was asked for; one run for each output folder."""
    config = stage.config
    if not (isinstance(config, WandbConfig) and config.wandb_project):
        yield report
        return
    from lstm_embed.stages.wandb_run import WandbProgress, WandbSettings

    settings = WandbSettings(
        project=config.wandb_project,
        entity=config.wandb_entity,
        mode=config.wandb_mode,
        name=storage.name(stage.output),
        id=fingerprint(stage.output)[:16],
        folder=stage.output,
        config=stage.recorded_config(),
        step=f"{stage.name}/done_fraction",
    )
    with WandbProgress(report, settings) as watched:
        yield watched


def _run_folder(stage: FolderStage[Any], report: Reporter) -> Summary:
    started = time.monotonic()
    _check_output(stage.output)
    stage.open()
    settings = stage.settings()
    manifest = finished(stage.output, kind=stage.kind, settings=settings, advice=stage.advice)
    already_done = manifest is not None
    if manifest is None:
        stage.begin(report)
        with (
            Observer(report, stage.output, stage.output) as observed,
            making(
                stage.output,
                kind=stage.kind,
                settings=settings,
                config=stage.recorded_config(),
                made_by=stage.made_by(),
            ),
        ):
            made = stage.make(observed)
        manifest = seal(stage.output, kind=stage.kind, fingerprint=fingerprint(made.decided_by), content=made.content)
    rows, facts = stage.facts(manifest["content"])
    return Summary(
        stage=stage.name,
        output=stage.output,
        rows=rows,
        row_name=stage.row_name,
        seconds=0.0 if already_done else time.monotonic() - started,
        already_done=already_done,
        facts=facts,
    )
