"""Settings of extract and prepare. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

import annotated_types
import pydantic

from lstm_embed.base.settings import DECIDES, Range, Words, settings
from lstm_embed.corpus.languages import check_language
from lstm_embed.stages.config import MEGABYTE, InputConfig

Language = Annotated[str, pydantic.AfterValidator(check_language)]
Profile = Literal["default", "original"]
MAX_MIN_TOKENS = 8
"""Largest least sentence length for which a token set's manifest knows the number of sentences."""


@settings()
class TextConfig:
    """How articles become sentences and tokens."""

    text_column: Annotated[Words, DECIDES] = "text"
    """Name of the column or JSON key that holds the text."""
    id_column: Annotated[Words, DECIDES] = "id"
    """Name of the column or JSON key that holds the article's id; articles without one are kept."""
    title_column: Annotated[Words, DECIDES] = "title"
    """Name of the column or JSON key that holds the title; articles without one are kept."""
    language: Annotated[Language, DECIDES] = "en"
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
    split: Annotated[Literal["sentencex", "none"], DECIDES] = "sentencex"
    """Sentence splitter: sentencex, or none for texts that are one sentence each."""
    profile: Annotated[Profile, DECIDES] = "default"
    """Token rule: default (words and numbers of all scripts) or original (the Keras system's rule)."""
    max_tokens: Annotated[int, Range(1, 65535), DECIDES] = 512
    """Tokens (pieces of words) of a sentence that are kept, 1 to 65535; longer sentences are cut off and counted."""
    drop_repeated: Annotated[bool, DECIDES] = True
    """Drop sentences that an article repeats word by word (boilerplate)."""
    max_line_bytes: Annotated[int, Range(1), DECIDES] = 32 * MEGABYTE
    """Longest line that is read; longer ones are quarantined."""


@settings()
class PrepareConfig(InputConfig, TextConfig):
    """Turn articles into a token set: sentences, token ids and a vocabulary."""

    input: Annotated[tuple[str, ...], annotated_types.MinLen(1)]
    """Files, folders or globs of articles: wikiextractor's output, JSON lines or arrays, parquet, plain text (a file is an
    article); local or s3://."""
    output: Words
    """Folder for the token set; local or s3://."""
    text: bool = True
    """Keep each sentence's text beside its token ids."""
    num_pieces: Annotated[int, Range(512, 10_000_000)] = 32_000
    """Most pieces that words are cut into, 512 or more, the bytes counted, which stand for characters that are rarer than one
    in 2,000. A small corpus gives fewer."""
    whole_word_count: Annotated[int, Range(0)] = 0
    """Occurrences from which a word gets an id of its own and is not cut; 0 cuts as it comes, which makes the better vectors.
    Set it for word vectors that are imported, which are of whole words: 5, say."""
    vocabulary: str = ""
    """Use this vocabulary (a token set's folder or a vocabulary.parquet) instead of learning one."""
    rebuild_vocabulary: bool = False
    """Learn a vocabulary anew of all input (or take the one given) and make every part again; else an output folder's
    vocabulary stays what it was when the folder was first finished."""
    holdout_every: Annotated[int, Range(2), DECIDES] = 50
    """Every n-th article is kept out of training, for validation; 2 or more."""
    unit_bytes: Annotated[int, Range(1_000)] = 64 * MEGABYTE
    """Bytes of text that one task reads (less for a small corpus), 1,000 or more."""
    part_rows: Annotated[int, Range(1, 10_000_000), DECIDES] = 65_536
    """Sentences after which a new part begins (an article is never cut)."""
