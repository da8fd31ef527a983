"""Weights & Biases: one run however many resumes, on its own step axis, and never a reason for the work to fail."""

from __future__ import annotations

import glob
import math
import netrc
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

from lstm_embed.base import storage
from lstm_embed.base.progress import Reporter

_FLUSH_SECONDS = 5.0
_FINISH_SECONDS = 30.0
_PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class WandbSettings:
    """What a run is and where it goes."""

    project: str
    """Empty for no run."""
    name: str
    id: str
    """Equal ids are one run."""
    folder: str
    """Of the work; the run's files lie under `wandb/` in it."""
    config: Mapping[str, Any]
    step: str
    """Name of the metric that is the step axis."""
    entity: str = ""
    tags: tuple[str, ...] = ()
    mode: str = "auto"
    """auto is online with an API key and offline without; or online, offline, disabled."""


class WandbRun:
    """A run of Weights & Biases that may be none: where it does not start or fails, the work goes on without.

    Args:
        settings: What it is.
        note: Receiver of lines that the user should know.
    """

    def __init__(self, settings: WandbSettings, note: Callable[[str], None]) -> None:
        self._settings = settings
        self._note = note
        self._run: Any = None
        self._failed = False
        self._held: list[Mapping[str, float]] = []
        self._dir = settings.folder
        if storage.is_remote(settings.folder):
            self._dir = os.path.join(tempfile.gettempdir(), f"lstm_embed-wandb-{settings.id}")
        mode = _mode(settings.mode)
        if not settings.project or mode == "disabled":
            return
        if mode == "offline":
            wrong = " (no API key found)" if settings.mode == "auto" and not has_key() else ""
            note(f"Weights & Biases is offline{wrong}; send the run later with: wandb sync {self._kept_in}")
        self._run = self._start(mode)

    @property
    def _kept_in(self) -> str:
        return storage.join(shlex.quote(self._settings.folder), "wandb", f"offline-run-*-{self._settings.id}")

    def _start(self, mode: str) -> Any:
        try:
            return _init(self._settings, self._dir, mode)
        except Exception as error:  # whatever W&B raises must not stop the work
            self._note(f"Weights & Biases does not start ({_first_line(error)})")
        if mode == "offline":
            return None
        try:
            import wandb

            wandb.teardown()  # else its service takes the run that did not start for one that is there
            started = _init(self._settings, self._dir, "offline")
        except Exception:
            return None
        self._note(f"Weights & Biases is kept offline; send the run later with: wandb sync {self._kept_in}")
        return started

    def log(self, row: Mapping[str, float]) -> None:
        """Send one line of metrics."""
        step = row.get(self._settings.step)
        # W&B's own steps are whole numbers, and one that was sent before is not taken again.
        own: dict[str, Any] = {"step": step, "commit": True} if isinstance(step, int) else {}
        self._call(lambda: self._run.log(dict(row), **own))

    def log_later(self, row: Mapping[str, float]) -> None:
        """Send a line that may be taken back by a resume: offline, where nobody watches, `commit` sends it."""
        if self._run is not None and self._run.offline:
            self._held.append(row)
        else:
            self.log(row)

    def commit(self) -> None:
        """Send the lines that will not be taken back any more, and bring them where the run is kept."""
        for row in self._held:
            self.log(row)
        self._held.clear()
        self.upload()

    def upload(self) -> None:
        """Copy what is kept offline into the folder of the work, if that is remote."""
        folder = self._settings.folder
        if self._run is None or not storage.is_remote(folder):
            return
        for path in glob.glob(f"{self._dir}/wandb/offline-run-*/*.wandb"):
            try:
                storage.copy_file(path, storage.join(folder, path[len(self._dir) :]))
            except OSError as error:
                self._note(f"Weights & Biases: {_first_line(error)}")

    def finish(self) -> None:
        """End the run; a network that does not answer is not waited for long."""
        if self._run is None:
            return
        # Also after a failure: W&B would go on with a run that is left open as if it were the next one of this process.
        thread = threading.Thread(target=self._attempt, args=(self._run.finish,), daemon=True)
        thread.start()
        thread.join(_FINISH_SECONDS)
        if thread.is_alive():
            self._note(f"Weights & Biases has not sent everything within {_FINISH_SECONDS:.0f} s; left behind")
        self.upload()

    def _call(self, action: Callable[[], None]) -> None:
        if self._run is not None and not self._failed:
            self._attempt(action)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if not self._failed:
                self._note(f"Weights & Biases failed and is left out from here on ({_first_line(error)})")
            self._failed = True


class WandbProgress:
    """A `Reporter` that hands everything on and logs progress to a run: figures and no text.

    Metrics are named after the stage and the counter, such as `embed/sentences_per_second`, beside `embed/done_fraction`.

    Args:
        report: Receiver of everything.
        settings: What the run is and where it goes.
    """

    def __init__(self, report: Reporter, settings: WandbSettings) -> None:
        self._report = report
        self._run = WandbRun(settings, report.note)
        self._logged = -math.inf
        self._row: dict[str, float] = {}

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        """Hand progress on, and log it now and then."""
        self._report.progress(stage, done, total, unit, **counters)
        figures = {"done_fraction": done / total if total else 1.0, **counters}
        self._row.update({f"{stage}/{name}": value for name, value in figures.items()})
        if time.monotonic() - self._logged >= _PROGRESS_SECONDS:
            self._flush()

    def note(self, message: str) -> None:
        """Hand a line on; it is not sent."""
        self._report.note(message)

    def _flush(self) -> None:
        if self._row:
            self._run.log(self._row)
        self._logged, self._row = time.monotonic(), {}

    def __enter__(self) -> WandbProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._run.finish()


def _init(given: WandbSettings, directory: str, mode: Any) -> Any:
    import wandb

    os.makedirs(directory, exist_ok=True)
    wanted = {
        "console": "off",
        "silent": True,
        "disable_git": True,
        "disable_code": True,
        "init_timeout": float(os.environ.get("WANDB_INIT_TIMEOUT", 30)),
        "x_transaction_log_flush_interval": _FLUSH_SECONDS,
    }
    known: dict[str, Any] = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    started = wandb.init(
        project=given.project,
        entity=given.entity or None,
        tags=given.tags or None,
        name=given.name,
        id=given.id,
        resume="allow",
        reinit="create_new",
        group=given.name,
        dir=directory,
        mode=mode,
        config=dict(given.config),
        settings=wandb.Settings(**known),
    )
    started.define_metric(given.step)
    started.define_metric("*", step_metric=given.step)
    return started


def _mode(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")


def has_key() -> bool:
    """Tell whether there is an API key: in WANDB_API_KEY, or in the netrc file as `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
