"""Find the embedded sentences nearest to a query, exactly. Needs no Ray."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lstm_embed.embedding.config import SearchConfig

from console import Console
from launch import main

if TYPE_CHECKING:
    from lstm_embed.embedding.search import Hit


def run(config: SearchConfig) -> None:
    """Search and print the hits of each query."""
    from lstm_embed.embedding.lists import read_list
    from lstm_embed.embedding.search import search
    from lstm_embed.embedding.vectors import Embeddings, encode_queries

    queries = [*config.query, *(read_list(config.queries, "query", "--queries") if config.queries else ())]
    embeddings = Embeddings(config.embeddings)
    vectors = encode_queries(embeddings.encoder(config.model), queries)
    for query, vector in zip(queries, vectors, strict=True):
        if not vector.any():
            Console().note(f"the query {query!r} has no word; it has no hits")
    for query, hits in zip(queries, search(embeddings, vectors, config.top_k), strict=True):
        print_hits(query, hits, as_json=config.json)


def print_hits(query: str, hits: list[Hit], *, as_json: bool = False) -> None:
    """Print the hits of one query as a table or as JSON lines."""
    if as_json:
        for rank, hit in enumerate(hits, 1):
            row = {"query": query, "rank": rank, "score": round(hit.score, 6), **hit.row}
            print(json.dumps(row, ensure_ascii=False, default=str))
        return
    print(f"{query}")
    for hit in hits:
        title = hit.row.get("title") or hit.row.get("article_id") or ""
        print(f"  {hit.score:.3f}  {title[:30]:<30}  {(hit.row.get('text') or '')[:120]}")


if __name__ == "__main__":
    main(SearchConfig, run, __doc__)
