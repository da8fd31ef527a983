#!/usr/bin/env python
"""Waits on an AWS spot machine for the word that it will be taken away, two minutes ahead; then drains it.

Started by aws.yaml on each spot worker. On Kubernetes the pods' preStop hook does the same.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

METADATA = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/") + "/latest"
INTERVAL = 5.0
DRAIN_SECONDS = 110


def ask(path: str, method: str = "GET", **headers: str) -> str:
    """Return what the machine's metadata service says; raises OSError if it has nothing to say."""
    request = urllib.request.Request(f"{METADATA}/{path}", method=method)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    with urllib.request.urlopen(request, timeout=2) as answer:
        return str(answer.read().decode())


def is_leaving() -> bool:
    """Tell whether this machine has been given notice."""
    try:
        token = ask("api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
        return bool(ask("meta-data/spot/instance-action", X_aws_ec2_metadata_token=token))
    except OSError:  # 404 while there is no notice
        return False


def main() -> None:
    """Wait for the notice, then become drain.sh."""
    while not is_leaving():
        time.sleep(INTERVAL)
    print("this machine is being taken away; draining it", file=sys.stderr, flush=True)
    os.execv("/bin/bash", ["bash", str(Path(__file__).with_name("drain.sh")), str(DRAIN_SECONDS)])


if __name__ == "__main__":
    main()
