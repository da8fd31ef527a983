"""What made something: the fingerprint of what decides it, and the provenance that is recorded beside it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from typing import Any


def fingerprint(value: Any) -> str:
    """Return the hash of a JSON-like value: what decides some content, and nothing else.

    The hash is the first 32 hex digits of the SHA-256 of the value's JSON with sorted keys.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def provenance() -> dict[str, str]:
    """Return where and with what this process runs: recorded beside outputs, never compared."""
    versions = {}
    for package in ("lstm_embed", "ray", "torch", "gensim", "pyarrow", "sentencex"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": platform.node(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **versions,
    }
