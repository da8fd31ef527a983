"""A run on Ray Train: what it is checked for before the cluster works, how it is started, stopped and brought back.

The job's process plans the run, owns its folder and starts a `TorchTrainer`; its main thread then passes on progress and, when
it is told to end, the wish to stop. Workers find the newest whole checkpoint by themselves. A worker checks before everything
it writes that the job which started it still owns the folder: a job that took the run over has removed the mark.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from lstm_embed.base import errors, storage
from lstm_embed.base.errors import InputError, LstmEmbedError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.corpus.token_set import KIND as TOKEN_SET
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.ledger.owner import Owner, owned
from lstm_embed.ledger.sealed import MANIFEST, read_manifest
from lstm_embed.stages.observe import Gauges, Observer, stall_watch
from lstm_embed.stages.preflight import Needs
from lstm_embed.stages.session import ray_session
from lstm_embed.training import worker
from lstm_embed.training.batches import BatchPlan
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.loader import cache_folder
from lstm_embed.training.run import Run, RunFolder, plan_run

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

_ENVIRONMENT = {
    # Ray Train reads these in this process, when a run starts.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
_POLL_SECONDS = 0.25
_PATIENCE_SECONDS = 90.0


def finished_run(config: TrainingConfig) -> Summary | None:
    """Return the summary of a run that has ended and is not asked for more, else None. Starts nothing.

    Raises:
        FileNotFoundError: if token set or word vectors are missing.
        InputError: if the name is that of a run with other settings or data.
    """
    folder = RunFolder.of(config)
    existing = folder.read()
    run = _plan(config, existing, folder)
    if existing is None:
        return None
    facts = folder.done()
    ended = run == existing and facts is not None and facts["step"] == run.end
    if facts is None or not ended or not run.is_rolled_back(config.from_checkpoint) or not _has_model(folder):
        return None
    return _summary(folder, facts, seconds=0.0, already_done=True)


def needs(config: TrainingConfig) -> Needs:
    """Return what a run needs of the nodes."""
    worker = {"CPU": float(config.cpus_per_worker), "GPU": float(config.gpu)}
    vectors = storage.resolve(config.vectors)
    tokens = storage.resolve(config.tokens)
    disk: tuple[tuple[str, int], ...] = ()
    if storage.is_remote(tokens):
        size = sum(part.get("bytes", 0) for part in read_manifest(tokens, kind=TOKEN_SET)["parts"])
        disk = ((cache_folder(config.cache_dir), min(config.cache_bytes, size)),)
    return Needs(
        output=storage.resolve(config.storage),
        inputs=tuple(storage.join(folder, MANIFEST) for folder in (tokens, vectors)),
        bundles=(worker,) * config.workers[0],
        disk=disk,
    )


def train(config: TrainingConfig, report: Reporter = SILENT) -> Summary:
    """Train, or continue, a run to its end.

    SIGTERM or Ctrl-C saves a checkpoint and returns; the summary then has the fact `stopped`. Must be called from the main
    thread for that.

    Raises:
        FileNotFoundError: if token set or word vectors are missing.
        InputError: if data and settings do not go together, or the name is that of another run.
        OutputBusy: if another job trains the run.
        NonFiniteLoss: if a loss or gradient is not a finite number.
        LstmEmbedError: if workers failed more often than the config allows.
    """
    if summary := finished_run(config):
        return summary
    with Observer(report, config.run_name) as observed, ray_session(needs(config), observed):
        return _train(config, observed)


def _train(config: TrainingConfig, report: Reporter) -> Summary:
    from lstm_embed.training.recovery import recover, roll_back

    begun = time.monotonic()
    _check_resources(config)
    folder = RunFolder.of(config)
    precision = _precision(config, folder.read())
    with owned(folder.path) as owner:
        existing = folder.read()
        run = _plan(config, existing, folder, precision)
        if not run.is_rolled_back(config.from_checkpoint):
            run = roll_back(folder, run, config.from_checkpoint, report.note)
        resumed = recover(folder.path, config.keep, report.note)
        if existing is not None:
            start = "has no checkpoint yet and begins anew" if resumed is None else f"goes on from step {resumed}"
            report.note(f"run {config.run_name} {start}; {run.end} steps in all")
        folder.write(run, config)
        facts = _fit(config, run, owner, resumed or 0, report)
    return _summary(folder, facts, seconds=time.monotonic() - begun, already_done=False)


def _plan(config: TrainingConfig, existing: Run | None, folder: RunFolder, precision: str = "") -> Run:
    """Return what the run is to be, from manifests alone."""
    tokens = TokenSet.open(config.tokens)
    vectors = read_manifest(storage.resolve(config.vectors), kind="word_vectors")
    if existing is None or not folder.done():
        _check_vectors(config, tokens)
    if existing is None and config.init_from and not storage.exists(storage.resolve(config.init_from)):
        raise FileNotFoundError(
            f"nothing at {config.init_from}; expected a checkpoint, run or model folder (--init-from)"
        )
    plan = BatchPlan.of(
        tokens,
        min_tokens=config.min_tokens,
        seed=config.seed,
        micro_batch_sentences=config.micro_batch_sentences,
        micro_batches_per_step=config.micro_batches_per_step,
        buffer_sentences=config.buffer_sentences,
    )
    end = plan.first_step(config.epochs)
    end = min(end, config.max_steps) if config.max_steps else end
    if not precision:
        recorded = existing.meaning["precision"] if existing else "fp32"
        precision = recorded if config.precision == "auto" else config.precision
    data = {
        "tokens": tokens.fingerprint,
        "vectors": vectors["fingerprint"],
        "precision": precision,
        "init_from": storage.resolve(config.init_from) if config.init_from else "",
    }
    done = folder.done() or {}
    finished = existing is not None and done.get("step") == existing.end
    return plan_run(config, existing, data, end, path=folder.path, finished=finished)


def _check_vectors(config: TrainingConfig, tokens: TokenSet) -> None:
    words = Vocabulary.load(storage.join(storage.resolve(config.vectors), "vocabulary.parquet"))
    if words.fingerprint != tokens.vocabulary_fingerprint:
        raise errors.FingerprintMismatch(
            f"the word vectors in {config.vectors} are for the vocabulary {words.fingerprint[:8]}, the token set "
            f"{config.tokens} has the vocabulary {tokens.vocabulary_fingerprint[:8]}; make word vectors of this token set"
        )


def _check_resources(config: TrainingConfig) -> None:
    """Refuse at once what this machine can never give; a cluster may still grow."""
    import ray

    have = ray.cluster_resources()
    least = config.workers[0]
    for kind, wanted in (("CPU", least * config.cpus_per_worker), ("GPU", least if config.gpu else 0)):
        if have.get(kind, 0) < wanted and not os.environ.get("RAY_ADDRESS"):
            raise InputError(
                f"{least} workers need {wanted} {kind}s and Ray has {have.get(kind, 0):g} here; lower --num-workers"
                + (" or leave out --gpu" if kind == "GPU" else "")
            )


def _precision(config: TrainingConfig, existing: Run | None) -> str:
    """Settle the precision once for the whole run, on hardware of the kind that will train it."""
    if existing is not None and config.precision == "auto":
        return str(existing.meaning["precision"])
    import ray

    if not config.gpu:
        return worker.probe_precision(config.precision, "cpu", config.model.hidden_size)
    probe = ray.remote(num_gpus=1, num_cpus=0)(worker.probe_precision)
    return ray.get(probe.remote(config.precision, "cuda", config.model.hidden_size))


def _has_model(folder: RunFolder) -> bool:
    with contextlib.suppress(FileNotFoundError, InputError):
        return bool(read_manifest(folder.model_dir, kind="model"))
    return False


def _fit(config: TrainingConfig, run: Run, owner: Owner, resumed: int, report: Reporter) -> dict[str, Any]:
    """Run the trainer in a thread, so that this one hears signals; return what the first worker returned."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Here, and not on a node that may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    environment = {name: value for name, value in os.environ.items() if _is_for_wandb(name)}
    link_class: Any = ray.remote(worker.RunLink)
    link = link_class.options(num_cpus=0, scheduling_strategy=here).remote(environment)
    trainer = _trainer(config, run, owner, link)
    least, _ = config.workers
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            result: Any = trainer.fit()
            outcome["result"] = result.return_value
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    show = _Show(link, run, report, Gauges(config.run_name))
    begun, asked = time.monotonic(), False
    with _stop_signals() as stop, stall_watch(report, "step") as alive:
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            if show.poll():
                alive()
            if stop.is_set() and not asked:
                asked = True
                link.stop.remote()
                if not show.begun:
                    # Nothing was trained since the last checkpoint; what is starting ends with this process.
                    return {"step": resumed, "sentences": 0, "stopped": True}
                report.note("stopping: a checkpoint is being saved")
            if not show.begun and time.monotonic() - begun > _PATIENCE_SECONDS:
                begun = float("inf")
                free = ray.available_resources()
                report.note(
                    f"no worker has begun yet; {least} are wanted, of {config.cpus_per_worker} CPUs each"
                    f"{' and a GPU' if config.gpu else ''}; free are {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"
                )
    show.poll()
    return _result(outcome, ray.get(link.failure.remote()))


def _trainer(config: TrainingConfig, run: Run, owner: Owner, link: Any) -> TorchTrainer:
    """Return what starts the workers, and starts them again when some fail."""
    import ray.train
    from ray.train.torch import TorchTrainer

    least, most = config.workers
    api: Any = ray.train  # whose annotations still describe its first version
    work: Any = worker.work

    class TellFailures(api.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            link.failed.remote({rank: _last_line(error)[:200] for rank, error in worker_exceptions.items()})

    return TorchTrainer(
        work,
        train_loop_config={"config": config, "run": run, "link": link, "owner": owner.path},
        scaling_config=api.ScalingConfig(
            num_workers=least if least == most else (least, most),
            use_gpu=config.gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.gpu else {})},
        ),
        run_config=api.RunConfig(
            name=config.run_name,
            storage_path=storage.resolve(config.storage),
            failure_config=api.FailureConfig(max_failures=config.max_failures),
            callbacks=[TellFailures()],
            checkpoint_config=api.CheckpointConfig(
                num_to_keep=config.keep, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
            logging_config=api.LoggingConfig(log_level="ERROR"),
        ),
    )


def _is_for_wandb(name: str) -> bool:
    return name.startswith("WANDB_") and not name.startswith("WANDB_SERVICE")


def _result(outcome: dict[str, Any], failure: tuple[str, str] | None) -> dict[str, Any]:
    if failure is not None:
        kind, message = failure
        raise getattr(errors, kind, LstmEmbedError)(message) from None
    error = outcome.get("error")
    if error is not None:
        raise LstmEmbedError(
            f"training failed: {_last_line(error)}; run the same command again to go on from the last checkpoint"
        ) from error
    return dict(outcome["result"])


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Show:
    """Passes on what the first worker says.

    Args:
        link: The run's `worker.RunLink`.
        run: Its length.
        report: Told of progress and notes.
        gauges: Set to the metrics.
    """

    def __init__(self, link: Any, run: Run, report: Reporter, gauges: Gauges) -> None:
        self._link = link
        self._run = run
        self._report = report
        self._gauges = gauges
        self._validation: dict[str, float] = {}
        self.begun = False

    def poll(self) -> bool:
        """Report what is new; tell whether there were new metrics.

        Raises:
            LstmEmbedError: if Ray's processes here were ended, as by a signal to the job's whole process group.
        """
        import ray

        try:
            self.begun, row, notes = ray.get(self._link.news.remote())
        except ray.exceptions.RayActorError as error:
            raise LstmEmbedError(
                "Ray's processes of this job were ended from outside; run the same command again to go on from the last "
                "checkpoint (to stop a run with a checkpoint, send SIGTERM to the job's process alone)"
            ) from error
        for note in notes:
            self._report.note(note)
        if row is None:
            return False
        self._gauges.set_row(row)
        if "val/loss" in row:
            self._validation = {"val_loss": row["val/loss"]}
            if "val/words_in_place" in row:
                self._validation["val_words_in_place"] = row["val/words_in_place"]
        counters = {"loss": row["train/loss"], **self._validation, "epoch": row["train/epoch"]}
        counters["sentences_per_second"] = row["train/sentences_per_second"]
        self._report.progress("train", row["train/step"], self._run.end, "steps", **counters)
        return True


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and the first Ctrl-C set; a second Ctrl-C interrupts as usual.

    The handlers are put in place here, since `ray.init` installs its own.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(folder: RunFolder, facts: dict[str, Any], *, seconds: float, already_done: bool) -> Summary:
    shown: dict[str, Any] = {"steps": facts["step"]}
    if facts.get("best_loss") is not None:
        shown["validation_loss"] = round(facts["best_loss"], 4)
    if facts.get("stopped"):
        shown["stopped"] = True
    return Summary(
        stage="train",
        output=folder.path if facts.get("stopped") else folder.model_dir,
        rows=facts["sentences"],
        row_name="sentences",
        seconds=seconds,
        already_done=already_done,
        facts=shown,
    )
