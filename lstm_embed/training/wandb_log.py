"""Weights & Biases: one run however many resumes, on our own step axis, and never a reason for training to fail.

W&B keeps a run's lines in memory for some seconds before it writes them to disk, and a killed process loses them. So the
checkpoint notes up to which step lines are surely on disk, and a resumed run sends the later ones again; on our own axis a
step that comes twice shows its last value.
"""

from __future__ import annotations

import glob
import netrc
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlparse

from lstm_embed import storage
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import Run
from lstm_embed.training.tracking import STEP, Row

_FLUSH_SECONDS = 5.0
_SURE_SECONDS = 60.0
"""Lines that this process logged so long ago are on disk."""
_FINISH_SECONDS = 30.0


class WandbLog:
    """The Weights & Biases run of a training run.

    Args:
        config: Project and mode.
        run: Whose id it uses.
        rows: Lines of the metrics file so far.
        sure_step: Steps whose lines W&B surely has, as an earlier process knew.
        note: Told what the user should know.
    """

    def __init__(
        self, config: TrainingConfig, run: Run, *, rows: list[Row], sure_step: int, note: Callable[[str], None]
    ) -> None:
        self._note = note
        self._run_dir = run.path
        self._sure_step = sure_step
        self._logged: deque[tuple[float, int]] = deque()
        self._run: Any = None
        self._failed = False
        self._dir = run.path
        if storage.is_remote(run.path):
            self._dir = os.path.join(tempfile.gettempdir(), f"lstm_embed-wandb-{run.wandb_id}")
        mode = _mode(config)
        if not config.wandb_project or mode == "disabled":
            return
        if mode == "offline":
            wrong = " (no API key found)" if config.wandb_mode == "auto" and not has_key() else ""
            note(f"Weights & Biases is offline{wrong}; send the run later with: wandb sync {self._kept_in(run)}")
        self._run = self._start(config, run, mode)
        for row in rows:
            if row[STEP] > sure_step:
                self.log(row)

    def _start(self, config: TrainingConfig, run: Run, mode: str) -> Any:
        try:
            return _init(config, run, self._dir, mode)
        except Exception as error:  # whatever W&B raises must not stop the training
            self._note(f"Weights & Biases does not start ({_first_line(error)})")
        if mode == "offline":
            return None
        try:
            import wandb

            wandb.teardown()  # else its service takes the run that did not start for one that is there
            started = _init(config, run, self._dir, "offline")
        except Exception:
            return None
        self._note(f"Weights & Biases is kept offline; send the run later with: wandb sync {self._kept_in(run)}")
        return started

    def _kept_in(self, run: Run) -> str:
        return storage.join(run.path, "wandb", f"offline-run-*-{run.wandb_id}")

    @property
    def sure_step(self) -> int:
        """Steps whose lines are surely on disk, for the checkpoint."""
        while self._logged and time.monotonic() - self._logged[0][0] > _SURE_SECONDS:
            self._sure_step = max(self._sure_step, self._logged.popleft()[1])
        return self._sure_step

    def log(self, row: Row) -> None:
        """Send one line of metrics."""
        self._call(lambda: self._run.log(row))
        self._logged.append((time.monotonic(), int(row[STEP])))

    def log_table(self, name: str, step: int, columns: list[str], rows: list[list[Any]]) -> None:
        """Send a table; it holds text of the user."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Table(columns=[*columns], data=rows), STEP: step})

        self._call(send)

    def log_model(self, model_dir: str, name: str) -> None:
        """Upload a model folder as an artifact."""

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(name, type="model")
            if storage.is_remote(model_dir):
                artifact.add_reference(model_dir)
            else:
                artifact.add_dir(model_dir)
            self._run.log_artifact(artifact)

        self._call(send)

    def upload(self) -> None:
        """Copy what is kept offline into the run's folder, if that is remote."""
        if self._run is None or not storage.is_remote(self._run_dir):
            return
        for path in glob.glob(f"{self._dir}/wandb/offline-run-*/*.wandb"):
            try:
                storage.copy_file(path, storage.join(self._run_dir, path[len(self._dir) :]))
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


def _init(config: TrainingConfig, run: Run, directory: str, mode: Any) -> Any:
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
        project=config.wandb_project,
        entity=config.wandb_entity or None,
        tags=config.wandb_tags or None,
        name=config.run_name,
        id=run.wandb_id,
        resume="allow",
        reinit="create_new",
        group=config.run_name,
        dir=directory,
        mode=mode,
        config={**config.to_dict(), "meaning": run.meaning, "run": run.fingerprint},
        settings=wandb.Settings(**known),
    )
    started.define_metric(STEP)
    started.define_metric("*", step_metric=STEP)
    return started


def _mode(config: TrainingConfig) -> str:
    if config.wandb_mode != "auto":
        return config.wandb_mode
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
