"""How many actors a job gets."""

from __future__ import annotations

import pytest

from lstm_embed.base.errors import InputError
from lstm_embed.stages.pool import pool_size


@pytest.mark.parametrize(
    ("num_workers", "gpu", "now", "ever", "found"),
    [
        ("0", False, {"CPU": 4}, {}, (3, 3)),
        ("0", False, {"CPU": 2}, {}, (1, 1)),
        ("0", False, {"CPU": 256}, {}, (240, 240)),
        ("255", False, {"CPU": 256}, {}, (255, 255)),
        ("3", False, {"CPU": 4}, {}, (3, 3)),
        ("1:8", False, {"CPU": 4}, {}, (1, 8)),
        ("4", False, {"CPU": 0}, {"CPU": 64}, (4, 4)),
        ("0", True, {"CPU": 16, "GPU": 2}, {}, (2, 2)),
        ("0", True, {"CPU": 0}, {"CPU": 16, "GPU": 2}, (1, 1)),
    ],
)
def test_as_many_workers_as_fit_beside_the_readers(
    num_workers: str, gpu: bool, now: dict[str, float], ever: dict[str, float], found: tuple[int, int]
) -> None:
    assert pool_size(num_workers, gpu, now, ever) == found


@pytest.mark.parametrize(
    ("num_workers", "gpu", "now"),
    [("4", False, {"CPU": 4}), ("0", False, {"CPU": 0.5}), ("1", True, {"CPU": 4}), ("1", True, {"CPU": 1, "GPU": 4})],
)
def test_workers_that_would_starve_the_readers_are_refused(num_workers: str, gpu: bool, now: dict[str, float]) -> None:
    with pytest.raises(InputError, match="smaller --num-workers or a larger cluster"):
        pool_size(num_workers, gpu, now, {})
