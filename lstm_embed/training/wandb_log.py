"""The Weights & Biases run of a training run, whose lines are sent once each whatever is killed.

W&B keeps a run's lines in memory for some seconds before it writes them to disk, and a killed process loses them. So the
checkpoint notes up to which step lines are surely on disk, and a resumed run sends the later ones again; on our own axis a
step that comes twice shows its last value.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from lstm_embed.stages.wandb_run import WandbRun, WandbSettings
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import STEP, Row, Run

_SURE_SECONDS = 60.0
"""Lines that this process logged so long ago are on disk."""


class WandbLog(WandbRun):
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
        super().__init__(
            WandbSettings(
                project=config.wandb_project,
                entity=config.wandb_entity,
                tags=config.wandb_tags,
                mode=config.wandb_mode,
                name=config.run_name,
                id=run.wandb_id,
                folder=run.path,
                config={**config.to_dict(), "meaning": run.meaning, "run": run.fingerprint},
                step=STEP,
            ),
            note,
        )
        self._sure_step = sure_step
        self._logged: deque[tuple[float, int]] = deque()
        if self._run is not None:
            for row in rows:
                if row[STEP] > sure_step:
                    self.log(row)

    @property
    def sure_step(self) -> int:
        """Steps whose lines are surely on disk, for the checkpoint."""
        while self._logged and time.monotonic() - self._logged[0][0] > _SURE_SECONDS:
            self._sure_step = max(self._sure_step, self._logged.popleft()[1])
        return self._sure_step

    def log(self, row: Mapping[str, float]) -> None:
        """Send one line of metrics."""
        super().log(row)
        self._logged.append((time.monotonic(), int(row[STEP])))
