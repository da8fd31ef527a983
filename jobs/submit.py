"""Submit a job to a Ray cluster, follow its log and end with its exit code; try again when the cluster fails it.

    python jobs/submit.py --address http://HEAD:8265 -- python jobs/train.py --tokens s3://… --run-name first …

What stands after `--` runs on the cluster, from a copy of this folder. Every try gets a submission id of its own
(train-first-1, train-first-2, …), and every try continues where the last one stopped. Interrupting this command leaves the
job running; `--follow ID` goes back to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launch import errors_as_exit_codes, fail, parse

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUNTIME_ENV = os.path.join("cluster", "runtime_env.yaml")
STOPPED = 130
"""Exit code for a job that was stopped, and for this command when it is interrupted."""
_LONGEST_PAUSE = 600.0
_SILENT_HEAD_SECONDS = 300.0
"""How long a head may be out of reach before its job is given up for lost."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Submit a job to a Ray cluster, follow its log and end with its exit code."""

    address: str = ""
    """Dashboard of the cluster, http://HEAD:8265; empty for RAY_API_SERVER_ADDRESS, or this machine."""
    token_file: str = ""
    """File with the cluster's access token; empty for RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."""
    name: str = ""
    """Beginning of the submission ids; empty for the job's name with its run or output."""
    working_dir: str = ROOT
    """Folder that is copied to the cluster (less .gitignore and .rayignore), or the address of a zip file of one."""
    runtime_env: str = ""
    """YAML file of the runtime environment; empty for the working folder's cluster/runtime_env.yaml."""
    env: tuple[str, ...] = ()
    """Environment variables of the job: NAME takes what the nodes have, NAME=VALUE sets it (the dashboard shows it)."""
    grace: int = 120
    """Seconds a stopped job has to write a checkpoint, 1 or more."""
    cpus: float = 0.0
    """CPUs of the job's own process, for word_vectors and evaluate, which work in it; 0 runs it on the head."""
    gpus: float = 0.0
    """GPUs of the job's own process."""
    memory: int = 0
    """Bytes of memory of the job's own process; 0 for any."""
    retries: int = 3
    """Times a failed job is submitted again, 0 or more; never for what the user must correct (exit code 2)."""
    backoff: float = 30.0
    """Seconds before the first retry, doubled for each further one up to ten minutes."""
    wait: bool = True
    """Follow the log and wait for the end; else only print the submission id."""
    logs: str = ""
    """Folder to which the logs of all processes of the job are fetched at the end."""
    follow: str = ""
    """Submission id of a job to follow instead of submitting one."""

    def __post_init__(self) -> None:
        for name, least in (("grace", 1), ("retries", 0), ("backoff", 0), ("cpus", 0), ("gpus", 0), ("memory", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least} (--{name})")
        for variable in self.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(=.*)?", variable, re.DOTALL):
                raise ValueError(f"env names {variable!r}; expected NAME or NAME=VALUE (--env)")


def run(config: Config, command: Sequence[str]) -> int:
    """Submit and follow, or only follow; return the job's exit code."""
    if bool(command) == bool(config.follow):
        fail("expected either a command after --, as in `-- python jobs/train.py …`, or --follow ID")
    if config.token_file:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": os.path.abspath(config.token_file)}
    if config.follow:
        return _finish(config, _connect(config), config.follow)
    entrypoint = entrypoint_of(command, config.working_dir)
    environment = runtime_environment(config)
    name = config.name or name_of(entrypoint)
    pause = config.backoff
    for tries_left in range(config.retries, -1, -1):
        client = _connect(config)
        try:
            job = next_id(name, client.list_jobs())
            client.submit_job(
                entrypoint=shlex.join(entrypoint),
                submission_id=job,
                runtime_env=environment,
                entrypoint_num_cpus=config.cpus or None,
                entrypoint_num_gpus=config.gpus or None,
                entrypoint_memory=config.memory or None,
            )
        except (OSError, RuntimeError) as error:
            _say(f"submitting {name} failed: {_first_line(error)}")
            code = 1
        else:
            _say(f"submitted {job}; stop it with: ray job stop {job}")
            if not config.wait:
                print(job)
                return 0
            code = _finish(config, client, job)
        if code in (0, 2, STOPPED) or not tries_left:
            break
        _say(f"trying again in {pause:.0f} s ({tries_left} {'try' if tries_left == 1 else 'tries'} left)")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return code


def entrypoint_of(command: Sequence[str], working_dir: str) -> list[str]:
    """Return the command as it runs on the cluster; a script alone is run with Python.

    Raises:
        FileNotFoundError: if the working folder does not hold the script.
    """
    entrypoint = ["python", *command] if command[0].endswith(".py") else list(command)
    scripts = [word for word in entrypoint[:3] if word.endswith(".py")]
    if "://" not in working_dir and scripts and not os.path.isfile(os.path.join(working_dir, scripts[0])):
        raise FileNotFoundError(f"no {scripts[0]} in the working folder {working_dir} (--working-dir)")
    return entrypoint


def name_of(entrypoint: Sequence[str]) -> str:
    """Return a name for the submissions of a command: its script, and its run or output."""
    script = next((word for word in entrypoint if word.endswith(".py")), entrypoint[0])
    parts = [os.path.splitext(os.path.basename(script))[0]]
    for flag in ("--run-name", "--output"):
        for position, word in enumerate(entrypoint):
            value = word.partition("=")[2] if word.startswith(f"{flag}=") else ""
            if word == flag and position + 1 < len(entrypoint):
                value = entrypoint[position + 1]
            if value and len(parts) == 1:
                parts.append(value.rstrip("/").rsplit("/", 1)[-1])
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))


def next_id(name: str, jobs: Sequence[JobDetails]) -> str:
    """Return the first submission id NAME-1, NAME-2, … after those that were used.

    Raises:
        OutputBusy: if a job of the name is still running.
    """
    from lstm_embed.base.errors import OutputBusy

    last = 0
    for job in jobs:
        match = re.fullmatch(rf"{re.escape(name)}-(\d+)", job.submission_id or "")
        if match and not job.status.is_terminal():
            raise OutputBusy(
                f"{job.submission_id} is {job.status.value.lower()}; follow it with --follow {job.submission_id}, or stop it "
                f"with: ray job stop {job.submission_id}"
            )
        last = max(last, int(match[1])) if match else last
    return f"{name}-{last + 1}"


def runtime_environment(config: Config) -> dict[str, Any]:
    """Return the runtime environment of the file, with what the flags add."""
    import yaml

    remote = "://" in config.working_dir
    path = config.runtime_env or os.path.join(ROOT if remote else config.working_dir, RUNTIME_ENV)
    values: dict[str, Any] = {}
    if config.runtime_env or os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file) or {}
    variables = dict(values.get("env_vars") or {})
    variables["RAY_JOB_STOP_WAIT_TIME_S"] = str(config.grace)
    for variable in config.env:
        name, given, value = variable.partition("=")
        variables[name] = value if given else f"${{{name}}}"
    return {**values, "working_dir": config.working_dir, "env_vars": variables}


def _connect(config: Config) -> JobSubmissionClient:
    """Return a client, waiting for a head that is just being restarted."""
    import logging

    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    from lstm_embed.base.errors import InputError, LstmEmbedError

    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    headers = json.loads(os.environ.get("RAY_JOB_HEADERS", "null"))
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://localhost:8265"
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray would prefer to the argument
    deadline = time.monotonic() + (_SILENT_HEAD_SECONDS if config.retries else 0.0)
    pause = 1.0
    while True:
        try:
            return JobSubmissionClient(address, headers=headers)
        except AuthenticationError:
            raise InputError(
                f"{address} wants an access token, or another one; give it with --token-file FILE, or set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN (cluster/README.md says where it is)"
            ) from None
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() > deadline:
                raise LstmEmbedError(f"no Ray cluster answers at {address}: {_first_line(error)} (--address)") from None
            if pause == 1.0:
                _say(f"{address} does not answer; trying again for {_SILENT_HEAD_SECONDS:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


def _finish(config: Config, client: JobSubmissionClient, job: str) -> int:
    """Follow a job to its end; fetch its logs if asked to; return its exit code."""
    try:
        details = _follow(client, job)
    except KeyboardInterrupt:
        _say(f"\n{job} goes on; follow it with --follow {job}, stop it with: ray job stop {job}")
        return STOPPED
    if config.logs and details:
        try:
            _say(f"fetched {fetch_logs(client, details, config.logs)} log files to {config.logs}")
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            _say(f"could not fetch the logs: {_first_line(error)}")
    return exit_code(job, details)


def exit_code(job: str, details: JobDetails | None) -> int:
    """Return the exit code that a finished job stands for, saying what it came to."""
    if details is None:
        _say(f"{job} is lost: the head of the cluster went away or was started anew")
        return 1
    status = details.status.value
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        _say(f"{job} was stopped; submit the same command again to continue")
        return STOPPED
    code = details.driver_exit_code
    # Ray's message repeats the end of the log, which has been printed.
    _say(f"{job} failed" + (f" with exit code {code}" if code else f": {_first_line(details.message or status)}"))
    return int(code) if code else 1


def _follow(client: JobSubmissionClient, job: str) -> JobDetails | None:
    """Print a job's log until it ends; return what it came to, None if the head has lost it."""
    printed = 0
    silent_since: float | None = None
    while True:
        try:
            printed = asyncio.run(_print_log(client, job, printed))
            details = client.get_job_info(job)
            if details.status.is_terminal():
                sys.stdout.write(client.get_job_logs(job)[printed:])  # where the connection broke at the very end
                sys.stdout.flush()
                return details
            silent_since = None
        except RuntimeError as error:
            if "does not exist" in str(error):
                return None
        except OSError:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > _SILENT_HEAD_SECONDS:
                return None
        time.sleep(1.0)


async def _print_log(client: JobSubmissionClient, job: str, printed: int) -> int:
    """Print what follows the first `printed` characters of a job's log, until it ends; return the new number."""
    import aiohttp

    received = 0
    with contextlib.suppress(aiohttp.ClientError, RuntimeError):
        async for text in client.tail_job_logs(job):
            received += len(text)
            if received > printed:
                sys.stdout.write(text[-(received - printed) :])
                sys.stdout.flush()
                printed = received
    return printed


def fetch_logs(client: JobSubmissionClient, details: JobDetails, folder: str) -> int:
    """Write the logs of a job's driver and workers to a local folder; return how many files that were.

    Nodes that are gone have taken theirs along.
    """
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "driver.log"), "w", encoding="utf-8") as file:
        file.write(client.get_job_logs(str(details.submission_id)))
    number = 1
    if not details.job_id:
        return number  # it ended before it connected to Ray
    nodes = _state(client, "nodes", limit=10_000)["result"]
    for node in (node for node in nodes if node["state"] == "ALIVE"):
        groups = _state(client, "logs", node_id=node["node_id"], glob=f"*-{details.job_id}-*")
        for name in sorted({name for group in groups.values() for name in group}):
            target = os.path.join(folder, f"{node['node_ip']}-{node['node_id'][:6]}", os.path.basename(name))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w", encoding="utf-8") as file:
                file.write(_get(client, "logs/file", node_id=node["node_id"], filename=name, lines=-1).text)
            number += 1
    return number


def _state(client: JobSubmissionClient, what: str, **parameters: Any) -> Any:
    return _get(client, what, **parameters).json()["data"]["result"]


def _get(client: JobSubmissionClient, what: str, **parameters: Any) -> Any:
    # Ray's own functions for this want the address of the head's store, which is seldom within reach from outside.
    answer = client._do_request("GET", f"/api/v0/{what}", params={"timeout": 60, **parameters})
    answer.raise_for_status()
    return answer


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after the first `--`."""
    words = list(arguments)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


if __name__ == "__main__":
    own, rest = split(sys.argv[1:])
    settings = parse(Config, own, __doc__ or "")
    with errors_as_exit_codes():
        raise SystemExit(run(settings, rest))
