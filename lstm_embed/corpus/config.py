"""Settings of extract and prepare. Imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from lstm_embed.corpus.languages import check_language

MEGABYTE = 1_000_000


def at_least(config: object, field: str, least: float) -> None:
    """Raise ValueError if a field of a config is below `least`, naming field, value, range and flag."""
    value = getattr(config, field)
    if not value >= least:
        raise ValueError(f"{field} is {value}; expected at least {least:g} (--{field.replace('_', '-')})")


def within(config: object, field: str, least: float, most: float) -> None:
    """Raise ValueError if a field of a config is not in [least, most], naming field, value, range and flag."""
    value = getattr(config, field)
    if not least <= value <= most:
        raise ValueError(f"{field} is {value}; expected {least:g} to {most:g} (--{field.replace('_', '-')})")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Turn a MediaWiki dump into articles: JSON lines as wikiextractor writes them."""

    input: str
    """The dump: pages-articles(-multistream).xml, plain or .bz2, .gz, .zst, .xz; local or s3://."""
    output: str
    """Folder for the articles (gzip files of JSON lines under parts/); local or s3://."""
    unit_bytes: int = 32 * MEGABYTE
    """Bytes of a multistream dump, as stored, that one task reads."""
    part_bytes: int = 64 * MEGABYTE
    """Bytes of JSON at which a new output file begins."""
    max_bad_fraction: float = 0.01
    """Share of pages that may be rejected before the job fails, 0 to 1."""
    quarantine_text: bool = False
    """Write the first bytes of what was rejected to the quarantine; it is the dump's text."""
    prune: bool = False
    """Remove the articles of dumps that are no longer there."""

    def __post_init__(self) -> None:
        at_least(self, "unit_bytes", 1)
        at_least(self, "part_bytes", 1)
        within(self, "max_bad_fraction", 0, 1)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How articles become sentences and tokens."""

    text_column: str = "text"
    """Name of the column or JSON key that holds the text."""
    id_column: str = "id"
    """Name of the column or JSON key that holds the article's id; articles without one are kept."""
    title_column: str = "title"
    """Name of the column or JSON key that holds the title; articles without one are kept."""
    language: str = "en"
    """ISO 639 code of the text's language. It decides how sentences are split and nothing else; a smaller language is split by
    the rules of a larger one. Supported: aa, ab, af, ak, als, am, an, ang, ar, arc, arz, as, ast, av, ay, az, azb, ba, bar,
    bcl, be, bg, bh, bi, bm, bn, bo, bpy, br, bs, bxr, ca, cdo, ce, ceb, ckb, co, crh, cs, csb, cv, cy, da, de, diq, dsb,
    dv, dz, ee, el, en, eo, es, et, eu, ext, fa, ff, fi, fj, fo, fr, frp, frr, fur, fy, ga, gan, gd, gl, gn, gom, gu, gv,
    ha, hak, haw, he, hi, hr, hsb, ht, hu, hy, hyw, ia, id, ie, ig, ilo, io, is, it, iu, ja, jv, ka, kaa, kab, ki, kk, kl,
    km, kn, ko, krc, ks, ku, kv, kw, ky, la, lb, lez, lg, li, lij, lmo, ln, lo, lt, lv, mai, mdf, mg, mhr, mi, min, mk, ml,
    mn, mr, mrj, ms, mt, mwl, my, myv, mzn, nah, nap, nds, ne, new, nl, nn, no, nso, nv, ny, oc, om, or, os, pa, pam, pap,
    pcd, pl, pms, pnb, ps, pt, qu, rm, rn, ro, ru, rue, rw, sa, sah, sat, sc, scn, sco, sd, se, sg, sh, shn, si, simple, sk,
    sl, sm, sn, so, sq, sr, ss, st, su, sv, sw, szl, ta, te, tg, th, ti, tk, tl, tn, to, tr, ts, tt, tw, ty, tyv, udm, ug,
    uk, ur, uz, ve, vec, vi, vls, vo, wa, war, wo, wuu, xal, xh, xmf, yi, yo, yue, za, zea, zh, zh-yue, zu."""
    split: str = "sentencex"
    """Sentence splitter: sentencex, none (one vector a row), or the dotted name of a function text -> [(start, end)] that
    all workers can import."""
    profile: str = "default"
    """Token rule: default (words and numbers of all scripts) or original (the Keras system's rule)."""
    max_tokens: int = 512
    """Tokens (pieces of words) of a sentence that are kept, 1 to 65535; longer sentences are cut off and counted."""
    drop_repeated: bool = True
    """Drop sentences that an article repeats word by word (boilerplate)."""
    max_line_bytes: int = 32 * MEGABYTE
    """Longest line that is read; longer ones are quarantined."""

    def __post_init__(self) -> None:
        if self.profile not in ("default", "original"):
            raise ValueError(f"profile is {self.profile!r}; expected default or original (--profile)")
        check_language(self.language)
        within(self, "max_tokens", 1, 65535)
        at_least(self, "max_line_bytes", 1)
        for field in ("text_column", "id_column", "title_column", "split"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty; expected a name (--{field.replace('_', '-')})")


def text_settings(config: TextConfig) -> dict[str, Any]:
    """Return the part of a config that decides how text becomes tokens."""
    return {field.name: getattr(config, field.name) for field in fields(TextConfig)}


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(TextConfig):
    """Turn articles into a token set: sentences, token ids and a vocabulary."""

    input: tuple[str, ...]
    """Files, folders or globs of articles: wikiextractor JSON or <doc> files, JSON lines, parquet; local or s3://."""
    output: str
    """Folder for the token set; local or s3://."""
    drop_repeated_corpus: bool = False
    """Drop sentences that occurred before anywhere in the corpus, word by word; the first occurrence stays."""
    text: bool = True
    """Keep each sentence's text beside its token ids."""
    num_pieces: int = 32_000
    """Most pieces that words are cut into, 512 or more, the bytes counted, which stand for characters that are rarer than one
    in 2,000. A small corpus gives fewer."""
    whole_word_count: int = 0
    """Occurrences from which a word gets an id of its own and is not cut; 0 cuts as it comes, which makes the better vectors.
    Set it for word vectors that are imported, which are of whole words: 5, say."""
    vocabulary: str = ""
    """Use this vocabulary (a token set's folder or a vocabulary.parquet) instead of learning one."""
    rebuild_vocabulary: bool = False
    """Learn a vocabulary anew of all input (or take the one given) and make every part again; else an output folder's
    vocabulary stays what it was when the folder was first finished."""
    holdout_every: int = 50
    """Every n-th article is kept out of training, for validation; 2 or more."""
    unit_bytes: int = 64 * MEGABYTE
    """Bytes of text that one task reads (less for a small corpus)."""
    part_rows: int = 65_536
    """Sentences after which a new part begins (an article is never cut)."""
    max_bad_fraction: float = 0.01
    """Share of input records that may be rejected before the job fails, 0 to 1."""
    quarantine_text: bool = False
    """Write the first bytes of what was rejected to the quarantine; it is your text."""
    prune: bool = False
    """Remove the sentences of input files that are no longer there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.input:
            raise ValueError("input is empty; expected at least one file, folder or glob (--input)")
        within(self, "num_pieces", 512, 10_000_000)
        at_least(self, "whole_word_count", 0)
        at_least(self, "holdout_every", 2)
        at_least(self, "unit_bytes", 1)
        within(self, "part_rows", 1, 10_000_000)
        within(self, "max_bad_fraction", 0, 1)


REMOVED = {
    "min-count": "every word counts, cut into pieces; --whole-word-count is how frequent one must be to stay whole",
    "max-vocabulary": "--num-pieces stands in its place",
}
"""What stands in the place of flags that earlier versions had."""
