"""Make a strict JSON schema of a Kubernetes custom resource definition: `build.py CRD.yaml SCHEMA.json.gz`."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

VERSION = "v1"
# CRDs leave this open, since Kubernetes itself checks it; these are the fields a manifest has use for.
METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object"},
        "annotations": {"type": "object"},
    },
    "additionalProperties": False,
}


def strict(schema: Any) -> Any:
    """Return a schema in which objects have no other fields than those named, and Kubernetes' own words are translated."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    result = {
        key: {name: strict(field) for name, field in value.items()} if key == "properties" else strict(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-") and key not in ("description", "default", "format", "nullable")
    }
    if "properties" in result and "additionalProperties" not in result:
        result["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return result


def schema_of(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the strict schema of one version of a custom resource definition."""
    version = next(entry for entry in definition["spec"]["versions"] if entry["name"] == VERSION)
    schema: dict[str, Any] = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = METADATA
    return schema


if __name__ == "__main__":
    made = json.dumps(schema_of(yaml.safe_load(Path(sys.argv[1]).read_text())), separators=(",", ":"), sort_keys=True)
    Path(sys.argv[2]).write_bytes(gzip.compress(made.encode(), mtime=0))
