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
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from lstm_embed.base import errors, storage
from lstm_embed.base.errors import InputError, LstmEmbedError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.ledger.manifest import MANIFEST, SealedManifest, read_manifest
from lstm_embed.ledger.owner import Owner, owned
from lstm_embed.stages.observe import Gauges, Observer, stall_watch
from lstm_embed.stages.preflight import Needs
from lstm_embed.stages.session import ray_session
from lstm_embed.training import worker
from lstm_embed.training.batches import BatchPlan
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import Progress, Run, RunFolder, plan_run
from lstm_embed.words.folder import KIND as WORD_VECTORS
from lstm_embed.words.folder import VOCABULARY

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

_POLL_SECONDS = 0.25


def finished_run(config: TrainingConfig) -> Summary | None:
    """Return the summary of a run that has ended, else None. Starts nothing.

    Raises:
        FileNotFoundError: if token set or word vectors are missing.
        InputError: if the name is that of a run with other settings or data.
    """
    folder = RunFolder.of(config)
    existing = folder.read()
    run = _plan(config, existing, _wanted_precision(config, existing))
    if existing is None:
        return None
    done = folder.done()
    if done is None or (done.step, done.run) != (run.end, run.fingerprint) or not _has_model(folder):
        return None
    return _summary(folder, run, done, seconds=0.0, already_done=True)


def _needs(config: TrainingConfig) -> Needs:
    """Return what a run needs of the nodes."""
    worker = {"CPU": float(config.cpus_per_worker), "GPU": float(config.gpu)}
    data = (config.tokens, config.vectors)
    return Needs(
        output=storage.resolve(config.storage),
        inputs=tuple(storage.join(storage.resolve(folder), MANIFEST) for folder in data),
        bundles=(worker,) * config.workers[0],
    )


def train(config: TrainingConfig, report: Reporter = SILENT) -> Summary:
    """Train, or continue, a run to its end.

    SIGTERM or Ctrl-C saves a checkpoint and returns; the summary then says `stopped`. Must be called from the main thread for
    that.

    Raises:
        FileNotFoundError: if token set or word vectors are missing.
        InputError: if data and settings do not go together, or the name is that of another run.
        OutputBusy: if another job trains the run.
        NonFiniteLoss: if a loss or gradient is not a finite number.
        LstmEmbedError: if the disk is full, or workers failed more often than the config allows.
    """
    if summary := finished_run(config):
        return summary
    with Observer(report, config.run_name) as observed, ray_session(_needs(config), observed):
        return _train(config, observed)


def _train(config: TrainingConfig, report: Reporter) -> Summary:
    begun = time.monotonic()
    _check_resources(config)
    folder = RunFolder.of(config)
    existing = folder.read()
    precision = _wanted_precision(config, existing) if existing else _probe_precision(config)
    if precision == "fp16":
        raise InputError(
            f"run {config.run_name} computes in fp16, which training no longer does; let it end with lstm_embed 0.3, or train "
            "further under another --run-name with --init-from"
        )
    with owned(folder.path) as owner:
        existing = folder.read()
        run = _plan(config, existing, precision)
        reached = recover(run, config.keep, report.note)
        if existing is not None:
            start = f"goes on from step {reached}" if reached else "has no checkpoint yet and begins anew"
            report.note(f"run {config.run_name} {start}; {run.end} steps in all")
        folder.write(run, config)
        progress = _fit(config, run, owner, reached, report)
    return _summary(folder, run, progress, seconds=time.monotonic() - begun, already_done=False)


def _plan(config: TrainingConfig, existing: Run | None, precision: str) -> Run:
    """Return what the run is to be, from manifests alone."""
    tokens = TokenSet.open(config.tokens)
    vectors = storage.resolve(config.vectors)
    data = {
        "tokens": tokens.fingerprint,
        "vectors": read_manifest(vectors, kind=WORD_VECTORS, declared=SealedManifest)["fingerprint"],
        "precision": precision,
        "init_from": storage.resolve(config.init_from) if config.init_from else "",
    }
    if existing is None:
        words = Vocabulary.load(storage.join(vectors, VOCABULARY)).fingerprint
        if words != tokens.vocabulary_fingerprint:
            raise errors.FingerprintMismatch(
                f"the word vectors in {config.vectors} are for the vocabulary {words[:8]}, the token set {config.tokens} has "
                f"the vocabulary {tokens.vocabulary_fingerprint[:8]}; make word vectors of this token set"
            )
        if config.init_from and not storage.exists(data["init_from"]):
            raise FileNotFoundError(
                f"nothing at {config.init_from}; expected a checkpoint, run or model folder (--init-from)"
            )
    return plan_run(config, existing, data, BatchPlan.of(tokens, config).num_steps(config))


def recover(run: Run, keep: int, note: Callable[[str], None]) -> int:
    """Remove from a run's folder what is torn, and checkpoints that are not needed; return the step it has reached.

    Ray Train keeps a list of the checkpoints that were reported to it, writes it in place, and refuses to start when it is
    torn, of another version, or names a folder that is gone. Nothing is read from it here, so it is made anew each time.
    """
    from lstm_embed.training import checkpoint

    storage.remove_temporaries(run.path)
    storage.remove(storage.join(run.path, "checkpoint_manager_snapshot.json"))
    found = checkpoint.newest(run.path, note, run)
    if found is None and checkpoint.list_checkpoints(run.path):
        note("no checkpoint is whole, so the run begins anew")
    progress = found.state.progress if found else Progress()
    checkpoint.prune(run.path, progress, keep)
    return progress.step


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


def _wanted_precision(config: TrainingConfig, existing: Run | None) -> str:
    """Return the precision as far as it is known without a look at the hardware; `auto` is what the run began with."""
    if config.precision != "auto":
        return config.precision
    return str(existing.meaning["precision"]) if existing else "fp32"


def _probe_precision(config: TrainingConfig) -> str:
    """Settle the precision once for the whole run, on hardware of the kind that will train it."""
    if not config.gpu:
        return worker.probe_precision(config.precision, "cpu", config.model.hidden_size)
    import ray

    probe = ray.remote(num_gpus=1, num_cpus=0)(worker.probe_precision)
    return ray.get(probe.remote(config.precision, "cuda", config.model.hidden_size))


def _has_model(folder: RunFolder) -> bool:
    with contextlib.suppress(FileNotFoundError, InputError):
        return bool(read_manifest(folder.model_dir, kind="model", declared=SealedManifest))
    return False


def _fit(config: TrainingConfig, run: Run, owner: Owner, reached: int, report: Reporter) -> Progress:
    """Run the trainer in a thread, so that this one hears signals; return how far the run has come."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # read by Ray Train when a run starts
    # Here, and not on a node that may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    environment = {name: value for name, value in os.environ.items() if _is_for_wandb(name)}
    link_class: Any = ray.remote(worker.RunLink)
    link = link_class.options(num_cpus=0, scheduling_strategy=here).remote(environment)
    trainer = _trainer(config, run, owner, link)
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            result: Any = trainer.fit()
            outcome["progress"] = result.return_value
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    show = _Show(link, run, report, Gauges(config.run_name))
    with _stop_signals() as stop, stall_watch(report, "step") as alive:
        thread.start()
        asked = False
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            if show.poll():
                alive()
            if stop.is_set() and not asked:
                asked = True
                link.stop.remote()
                if not show.begun:
                    # Nothing was trained since the last checkpoint; what is starting ends with this process.
                    return Progress(step=reached)
                report.note("stopping: a checkpoint is being saved")
    show.poll()
    if failure := ray.get(link.failure.remote()):
        kind, message = failure
        raise getattr(errors, kind, LstmEmbedError)(message) from None
    if error := outcome.get("error"):
        raise LstmEmbedError(
            f"training failed: {_last_line(error)}; run the same command again to go on from the last checkpoint"
        ) from error
    progress: Progress = outcome["progress"]
    return progress


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
            logging_config=api.LoggingConfig(log_level="ERROR"),
        ),
    )


def _is_for_wandb(name: str) -> bool:
    return name.startswith("WANDB_") and not name.startswith("WANDB_SERVICE")


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


def _summary(folder: RunFolder, run: Run, reached: Progress, *, seconds: float, already_done: bool) -> Summary:
    facts: dict[str, Any] = {"steps": reached.step}
    if reached.best_loss is not None:
        facts["validation_loss"] = round(reached.best_loss, 4)
    stopped = reached.step < run.end
    return Summary(
        stage="train",
        output=folder.path if stopped else folder.model_dir,
        rows=reached.sentences,
        row_name="sentences",
        seconds=seconds,
        already_done=already_done,
        stopped=stopped,
        facts=facts,
    )
