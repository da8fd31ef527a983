"""Whether a cluster has room for a job's workers, and what its autoscaler is doing about it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from lstm_embed.base.errors import LstmEmbedError
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.stages import ray_private

Bundle = Mapping[str, float]
"""Resources that one worker needs on one node, such as {"CPU": 1, "GPU": 1}."""


def wait_for_resources(
    bundles: Sequence[Bundle],
    report: Reporter = SILENT,
    *,
    patience: float = 1800.0,
    quiet: float = 60.0,
    interval: float = 2.0,
) -> None:
    """Return when the cluster has room for all bundles, asking the autoscaler for what is missing.

    Args:
        bundles: One for each worker.
        report: Receiver of what is waited for, now and then.
        patience: Seconds to wait while nodes are on their way.
        quiet: Seconds to wait while no node is on its way; those of a fixed cluster may still be starting.
        interval: Seconds between looks.

    Raises:
        LstmEmbedError: if they do not come.
    """
    import ray

    started = last_sign = time.monotonic()
    told = -1e9
    asked = False
    try:
        while missing := unplaced(bundles, [node["Resources"] for node in ray.nodes() if node["Alive"]]):
            now = time.monotonic()
            if not asked:
                _ask_autoscaler(bundles)
                asked = True
            coming = nodes_on_their_way()
            last_sign = now if coming else last_sign
            what = f"{describe(bundles)} needed, the cluster has {describe([ray.cluster_resources()])}"
            if now - started > patience or now - last_sign > quiet:
                raise LstmEmbedError(
                    f"{what} and no room for {len(missing)} of {len(bundles)} workers ({describe(missing[:1])} on one node); "
                    + (f"nodes did not come within {patience:.0f} s: {coming}" if coming else "no node is on its way")
                    + "; ask for fewer or smaller workers, or for more or larger nodes (maxReplicas, quota)"
                )
            if now - told > 30:
                told = now
                waited_for = f"waiting for the autoscaler: {coming}" if coming else "waiting for nodes to join"
                report.note(f"{what}; {waited_for}")
            time.sleep(interval)
    finally:
        if asked:
            _ask_autoscaler([])  # from here on the work itself tells what it needs


def unplaced(bundles: Sequence[Bundle], nodes: Sequence[Bundle]) -> list[Bundle]:
    """Return the bundles that find no place when they are put on nodes one by one, largest first."""
    free = [dict(node) for node in nodes]
    left = []
    for bundle in sorted(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)), reverse=True):
        fits = [node for node in free if all(node.get(name, 0) >= amount for name, amount in bundle.items() if amount)]
        if not fits:
            left.append(bundle)
            continue
        # Work without a GPU keeps off the GPU nodes while there is room elsewhere.
        node = min(fits, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
        for name, amount in bundle.items():
            node[name] = node.get(name, 0) - amount
    return left


def describe(bundles: Sequence[Bundle]) -> str:
    """Return the sum of bundles as a person says it."""
    cpus = sum(bundle.get("CPU", 0) for bundle in bundles)
    gpus = sum(bundle.get("GPU", 0) for bundle in bundles)
    cpu_text = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return f"{gpus:g} GPU{'' if gpus == 1 else 's'} and {cpu_text}" if gpus else cpu_text


def _ask_autoscaler(bundles: Sequence[Bundle]) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{name: amount for name, amount in bundle.items() if amount} for bundle in bundles])


def nodes_on_their_way() -> str:
    """Return what the autoscaler is starting; "" for nothing."""
    return ", ".join(f"{count} {name} starting" for name, count in sorted(ray_private.nodes_starting().items()))
