"""What each verb of the command line does; its docstring is its help. What is heavy is imported when it is needed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lstm_embed.base.progress import Summary
from lstm_embed.base.settings import Words, settings
from lstm_embed.base.text import printable
from lstm_embed.console import Console, duration
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.dump.config import ExtractConfig
from lstm_embed.embedding.config import DecodeConfig, EmbedConfig, GroupConfig, SearchConfig
from lstm_embed.evaluation.config import EvaluationConfig
from lstm_embed.export.config import ExportConfig
from lstm_embed.training.config import TrainingConfig
from lstm_embed.words.config import WordVectorsConfig

if TYPE_CHECKING:
    from lstm_embed.embedding.decode import DecodedRow
    from lstm_embed.embedding.search import Hit

_SHOWN_GROUPS = 20


def extract(config: ExtractConfig) -> Summary:
    """Turn a MediaWiki dump into articles: JSON lines as wikiextractor writes them.

    A multistream dump is read by many tasks at once. Items of lists that say something of their own are kept, a line each;
    tables, references and boxes are left out. The same command again continues where it stopped.
    """
    from lstm_embed.dump.extract import extract

    with Console() as console:
        return extract(config, console)


def prepare(config: PrepareConfig) -> Summary:
    """Turn articles into a token set: sentences, token ids and a vocabulary.

    The same command again continues where it stopped; new, changed or removed input files redo only what they hold.
    """
    from lstm_embed.corpus.prepare import prepare

    with Console() as console:
        return prepare(config, console)


def word_vectors(config: WordVectorsConfig) -> Summary:
    """Train word vectors on a token set with gensim, or take them from a file. Runs on one machine, without Ray."""
    from lstm_embed.words.train import train_word_vectors

    with Console() as console:
        return train_word_vectors(config, console)


def train(config: TrainingConfig) -> Summary:
    """Train an autoencoder on a token set with Ray Train.

    The same command continues the run `--run-name` at the step it had reached. The model of the best validation loss is left
    in STORAGE/RUN_NAME/model.
    """
    from lstm_embed.training.trainer import train

    with Console() as console:
        return train(config, console)


def _preset(arguments: list[str]) -> TrainingConfig:
    """Return the preset that the flags name, with the required fields open.

    Raises:
        InputError: if there is no such preset.
    """
    name = "default"
    for position, argument in enumerate(arguments):
        if argument == "--preset" and position + 1 < len(arguments):
            name = arguments[position + 1]
        elif argument.startswith("--preset="):
            name = argument.partition("=")[2]
    preset = TrainingConfig.for_preset(name, tokens="-", vectors="-", storage="-", run_name="x")
    for required in ("tokens", "vectors", "storage", "run_name"):
        object.__setattr__(preset, required, tyro.MISSING)  # the flags must give it; the class itself would refuse this
    return preset


def embed(config: EmbedConfig) -> Summary:
    """Embed a corpus: one vector a sentence, row or article, written to parquet.

    The same command again continues where it stopped; new, changed or removed input redoes only what it holds.
    Vectors give their sentences back (see decode): guard them like the text.
    """
    from lstm_embed.embedding.embed import embed

    with Console() as console:
        return embed(config, console)


def search(config: SearchConfig) -> None:
    """Find the embedded sentences nearest to a query, exactly. Needs no Ray."""
    from lstm_embed.embedding.lists import read_list
    from lstm_embed.embedding.search import search
    from lstm_embed.embedding.vectors import Embeddings, encode_queries

    queries = [*config.query, *(read_list(config.queries, "query", "--queries") if config.queries else ())]
    embeddings = Embeddings(config.embeddings)
    vectors = encode_queries(embeddings.encoder(config.model), queries)
    for query, vector in zip(queries, vectors, strict=True):
        if not vector.any():
            Console().note(f"the query {printable(query)!r} has no word; it has no hits")
    for query, hits in zip(queries, search(embeddings, vectors, config.top_k), strict=True):
        print_hits(query, hits, as_json=config.json)


def print_hits(query: str, hits: list[Hit], *, as_json: bool = False) -> None:
    """Print the hits of one query as a table or as JSON lines."""
    if as_json:
        for rank, hit in enumerate(hits, 1):
            row = {"query": query, "rank": rank, "score": round(hit.score, 6), **hit.row}
            print(json.dumps(row, ensure_ascii=False, default=str))
        return
    print(printable(query))
    for hit in hits:
        title = printable(hit.row.get("title") or hit.row.get("article_id") or "", 30)
        print(f"  {hit.score:.3f}  {title:<30}  {printable(hit.row.get('text') or '', 120)}")


def group(config: GroupConfig) -> Summary:
    """Group the sentences of embedding parts by meaning; say of each group its size, words and nearest sentences.

    The same command again continues where it stopped. Parts with a group for each row lie under parts/, what is typical of
    each group in clusters.jsonl, where its words are those its centre decodes to.
    """
    from lstm_embed.embedding.group import group

    with Console() as console:
        summary = group(config, console)
    if not summary.dry_run:
        _print_groups(summary.output)
    return summary


def _print_groups(output: str) -> None:
    """Print the largest groups: size, words and the sentence nearest to the centre."""
    from lstm_embed.base import storage

    groups = [json.loads(line) for line in storage.read_bytes(storage.join(output, "clusters.jsonl")).splitlines()]
    groups.sort(key=lambda group: -group["size"])
    for group in groups[:_SHOWN_GROUPS]:
        nearest = group["nearest"][0] if group["nearest"] else {}
        text = nearest.get("text") or nearest.get("title") or nearest.get("article_id") or ""
        words = printable(" ".join(group["words"][:8]), 60)
        print(f"{group['cluster']:>6} {group['size']:>9,}  {words:<60}  {printable(text, 80)}")


def decode(config: DecodeConfig) -> Summary | None:
    """Give vectors their text back: parquet with what each row of a folder of embeddings says, and whether that is proven.

    Vectors give their sentences back, so guard them, and what this writes, like the text. Proven means: what came out,
    encoded again, is the vector it came from; it speaks of the words the model read, not of those that it cut off. The same
    command again continues where it stopped; only parts of vectors that are new or changed are decoded again. --limit 20
    prints the first rows, beside their texts where these were stored, and writes nothing.
    """
    from lstm_embed.embedding.decode import decode, decode_first

    if config.limit:
        _print_decoded(decode_first(config))
        return None
    with Console() as console:
        return decode(config, console)


def _print_decoded(rows: Iterable[DecodedRow]) -> None:
    """Print rows: the stored text, or else where it stands, beside what the vector gives."""
    counts: Counter[bool] = Counter()
    for found in rows:
        row = found.row
        sentence = f", sentence {row['sentence']}" if "sentence" in row else ""
        place = f"({row.get('title') or row['article_id']}{sentence})"
        print(f"text     {printable(row.get('text') or place)}")
        print(f"{'proven' if found.proven else 'perhaps':<8} {printable(found.text)}")
        counts[found.proven] += 1
    print(f"{counts[True]} of {counts.total()} rows are proven")


@settings()
class EraseConfig:
    """Erase articles from a token set, vectors or decoded text."""

    output: Annotated[Words, tyro.conf.Positional]
    """Folder that prepare, embed or decode wrote; local or s3://."""
    article_id: tuple[str, ...] = ()
    """Ids of the articles, as in the column article_id."""
    ids: str = ""
    """File with one article id a line; local or s3://, plain or compressed."""


def erase(config: EraseConfig) -> Summary:
    """Erase articles from a token set, vectors or decoded text: from its parts, quarantine excerpts and caches.

    Only the parts that hold them are rewritten; later runs into the folder leave these articles out. Run again after an
    interruption, with or without the ids. Vectors give their sentences back, so erase them too where a text has to go, and
    what was decoded from them. What it does not undo: a model trained on the text, and copies made elsewhere.
    """
    from lstm_embed.embedding.erase import erase
    from lstm_embed.embedding.lists import read_list

    article_ids = [*config.article_id, *(read_list(config.ids, "article id", "--ids") if config.ids else ())]
    console = Console()
    summary = erase(config.output, article_ids, console)
    found, asked = summary.facts["articles erased"], len(set(article_ids))
    if found < asked:
        console.note(
            f"{asked - found} of {asked} ids are in no part (any more); later runs leave them out all the same"
        )
    return summary


def evaluate(config: EvaluationConfig) -> Summary:
    """Score a model and simple baselines; write all figures as JSON and one page to look at. Runs without Ray."""
    from lstm_embed.evaluation.evaluate import evaluate

    with Console() as console:
        return evaluate(config, console)


def export(config: ExportConfig) -> Summary:
    """Write a trained model for sentence-transformers or ONNX, with its tokenizer and a model card. Runs without Ray."""
    from lstm_embed.export.export import export

    with Console() as console:
        return export(config, console)


@settings()
class StatusConfig:
    """Tell how an output folder of any job stands."""

    path: Annotated[Words, tyro.conf.Positional]
    """Output folder of a job, or the folder of a training run; local or s3://."""
    json: bool = False
    """Print one JSON object instead of lines."""


def status(config: StatusConfig) -> None:
    """Tell how an output folder of any job stands: what is done, missing, rejected, and which inputs changed since.

    Reads files only and works while the job runs. Needs neither Ray nor torch.
    """
    from lstm_embed.base import storage
    from lstm_embed.base.errors import InputError

    path = storage.resolve(config.path)
    if not storage.exists(path):
        raise FileNotFoundError(f"no folder at {path}")
    if storage.exists(storage.join(path, "job.json")):
        state = _unit_folder(path)
    elif storage.exists(storage.join(path, "metrics.jsonl")):
        state = _training_run(path)
    elif storage.exists(storage.join(path, "manifest.json")):
        state = _sealed_folder(path)
    else:
        raise InputError(
            f"{path} is not an output folder of a job: it holds none of job.json, metrics.jsonl, manifest.json"
        )
    if config.json:
        print(json.dumps(state, ensure_ascii=False))
        return
    for name, value in state.items():
        print(f"{printable(name.replace('_', ' ')) + ':':<22} {printable(_shown(value))}")


def _unit_folder(path: str) -> dict[str, Any]:
    from lstm_embed.ledger.state import folder_state

    found = folder_state(path)
    state: dict[str, Any] = {
        "folder": path,
        "holds": found.kind.replace("_", " "),
        "finished": found.finished,
        "units_done": f"{len(found.done)} of {found.num_units}",
        "rows_done": found.rows,
        "units_missing": list(found.missing),
        "records_rejected": found.rejected,
        "inputs_changed": list(found.changed),
        "inputs_gone": list(found.gone),
    }
    if (now := found.progress) and not found.finished:
        left, ago = now["seconds_left"], duration(max(0.0, time.time() - now["time"]))
        far = f"{now['stage']}: {now['done']:,.4g} of {now['total']:,.4g} {now['unit']}, {now['rate']:,.4g} {now['unit']}/s"
        if found.running:
            state["running"] = far + (f", {duration(left)} left" if left is not None else "") + f" (written {ago} ago)"
        else:
            state["running"] = f"no job is running; last written {ago} ago: {far}"
    elif found.running:
        state["running"] = True
    return state


def _training_run(path: str) -> dict[str, Any]:
    from lstm_embed.base import storage
    from lstm_embed.base.settings import parse_json

    metrics = storage.join(path, "metrics.jsonl")
    # What follows the last line end was cut off while it was written.
    lines = storage.read_bytes(metrics).split(b"\n")[:-1]
    last: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        last.update(parse_json(line, dict[str, Any], f"line {number} of {metrics}"))
    finished = storage.exists(storage.join(path, "model", "manifest.json"))
    return {"folder": path, "holds": "training run", "model_written": finished, **last}


def _sealed_folder(path: str) -> dict[str, Any]:
    from lstm_embed.base import storage
    from lstm_embed.base.settings import read_json
    from lstm_embed.ledger.manifest import SealedManifest, words

    manifest = read_json(storage.join(path, "manifest.json"), SealedManifest, advice="make the folder again")
    return {"folder": path, "holds": words(manifest["kind"]), "finished": True, **manifest["content"]}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_shown(count)} {name}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value[:10])) + (f" and {len(value) - 10} more" if len(value) > 10 else "") or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


VERBS: dict[str, Callable[[Any], Summary | None]] = {
    function.__name__: function
    for function in (
        *(extract, prepare, word_vectors, train),
        *(embed, search, group, decode, erase),
        *(evaluate, export, status),
    )
}
"""Each verb by its name."""
DEFAULTS: dict[str, Callable[[list[str]], Any]] = {"train": _preset}
"""Values of flags that are not given, from those that are."""
