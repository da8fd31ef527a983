"""Wikitext in, plain text out: what a reader of the rendered article sees as prose.

Every step looks at the text once from left to right and remembers open brackets on a list instead of recursing, so the
time is linear in the length whatever the markup does: an article that is a megabyte of `{{` costs what a megabyte of
prose does. Brackets that do not pair lose only themselves, the words around them stay.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from lstm_embed.dump import templates

_HIDDEN = (
    "ref|references|gallery|math|chem|ce|timeline|hiero|score|graph|mapframe|maplink|imagemap|inputbox|categorytree"
    "|syntaxhighlight|source|pre|code|templatedata|indicator|includeonly|table|rt|rp|noinclude"
)
"""Tags whose content is no prose. Not all are hidden by MediaWiki; the choice follows what wikiextractor leaves out."""
_SPACED = "br|p|hr|div|center|blockquote|poem|tr|td|th"
_INLINE = (
    "abbr|b|bdi|bdo|big|caption|cite|dd|del|dfn|dt|em|font|h[1-6]|i|ins|kbd|langconvert|mark|nowiki|onlyinclude|q|rb|rbc"
    "|rtc|ruby|s|samp|section|small|span|strike|strong|sub|sup|templatestyles|time|translate|tt|tvar|u|var|wbr"
)

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NOWIKI_OPEN = re.compile(r"<nowiki\s*>", re.IGNORECASE)
_NOWIKI_CLOSE = re.compile(r"</nowiki\s*>", re.IGNORECASE)
_HIDDEN_TAG = re.compile(rf"<(?=[/a-z])(/?)({_HIDDEN})\b([^<>]*+)>", re.IGNORECASE)
_SPACED_TAG = re.compile(rf"<(?=[/a-z])/?(?:{_SPACED})\b[^<>]*+>", re.IGNORECASE)
_OTHER_TAG = re.compile(rf"<(?=[/a-z])/?(?:{_INLINE}|{_HIDDEN})\b[^<>]*+>", re.IGNORECASE)
_NOWIKI_CHARACTER = re.compile(r"[^\w\s&;#]")
_BRACES = re.compile(r"\{\{+|\}\}+")
_LIST_TAG = re.compile(r"<(?:(li|dt|dd)|/?(?:ul|ol|dl|li|dt|dd))(?![a-z])[^<>]*+>", re.IGNORECASE)
_TABLE_EDGE = re.compile(r"\n[ :]*+(?:(\{\|)|\|\}(?!\}))")
_URL_LINK = re.compile(r"\[(?:(?:[a-z]{3,6}:)?//|mailto:)[^\s\[\]]*+ *+([^\[\]\n]*+)\]", re.IGNORECASE)
_ITEM = re.compile(r"\n([ :]*+[*#;](?:[ :]*+[*#;])*+)(.*+)")
_LINK_OR_MARKUP = re.compile(r"\[\[[^\[\]\n]*+\]\]|<[^<>\n]*+>|&[a-zA-Z]{2,8};")
_SOURCE = re.compile(r"\[(?:https?:)?//|\bISBN\b")
_LETTER = re.compile(r"[^\W\d_]")
_LINK_EDGE = re.compile(r"\[\[([^\[\]|\n]*+)(\|?)|\]\]|\n=")
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?|simple")
_SWITCH = re.compile(r"__[^\W\d_]++__")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_EMPTY_BRACKETS = re.compile(r"\((?<=[ \xa0]\()[ \xa0,;:]*+\)")
_BRACKET_START = re.compile(r"\((?:[ \xa0]*+[,;])++[ \xa0]*+")
_SPACES = re.compile(r"  ++")
_SPACE_BEFORE_STOP = re.compile(r" ([,.])(?=\s|\Z)")
_QUOTES = re.compile(r"'{2,}")
_WORD = re.compile(r"[^\W_]")

_SISTER_PROJECTS = frozenset({"mw", "voy"})
"""Interwiki prefixes that look like languages but whose links are shown."""

_HIDDEN_NAMESPACES = (
    "file|image|media|category|bild|datei|kategorie|fichier|catégorie|archivo|imagen|categoría|categoria|immagine"
    "|ficheiro|imagem|bestand|afbeelding|categorie|plik|grafika|kategoria|файл|изображение|категория|картинка"
    "|категорія|зображення|ファイル|画像|文件|图像|分类|파일|분류|ملف|صورة|تصنيف|پرونده|تصویر|رده|קובץ|תמונה|קטגוריה"
    "|चित्र|श्रेणी|berkas|tập tin|dosya|resim|fil|kategori|soubor|tiedosto|luokka|fájl|kép|kategória|αρχείο|εικόνα"
)
HIDDEN_NAMESPACES = frozenset(_HIDDEN_NAMESPACES.split("|"))
"""Lower-case names of the namespaces whose links stand for a picture, a sound or a category, in frequent languages."""


_TERM_LEVEL = 7
"""A term of a list of definitions stands over them like a heading below all others."""


def clean(wikitext: str, hidden_namespaces: frozenset[str] = HIDDEN_NAMESPACES) -> str:
    """Return the prose of an article: paragraphs, items of lists and headings, one a line, without markup.

    Tables, references, files, categories, comments, formulas, code and templates are left out, except the templates that
    carry running text (see `templates`). Links give their text. An item of a list is kept if it says something of its own:
    it has a letter outside its links, no link to the web and no ISBN. A heading becomes a line that ends in a full stop,
    and goes if nothing follows it. Entities are decoded.

    Args:
        wikitext: The source as stored in a dump, after XML entities are decoded.
        hidden_namespaces: Lower-case names of namespaces whose links show no text of their own.
    """
    # Every line begins behind a line end; a search for that is much faster than one for the beginning of a line.
    text = "\n" + wikitext.replace("\r", "").replace("\t", " ").replace("&nbsp;", "\xa0")
    if "<" in text:
        text = _COMMENT.sub("", _protect_nowiki(text))
        text = _without(text, _hidden_tags(text))
        text = _LIST_TAG.sub(lambda tag: "\n* " if tag[1] else "\n", text)
    text = templates.show(text)
    text = templates.show_variants(_without(text, _templates(text)))
    text = _without(text, _tables(text))
    text = _ITEM.sub(_item_with_words, text)
    text = _URL_LINK.sub(r"\1", text)
    text = _without(text, _link_markup(text, hidden_namespaces))
    if "[" in text:  # links to the web whose text held links
        text = _URL_LINK.sub(r"\1", text)
    if "<" in text:
        text = _OTHER_TAG.sub("", _SPACED_TAG.sub(" ", text))
    if "__" in text:
        text = _SWITCH.sub(_unless_switch, text)
    text = _BRACKET_START.sub("(", _EMPTY_BRACKETS.sub("", text))
    text = _SPACE_BEFORE_STOP.sub(r"\1", _SPACES.sub(" ", text))
    return _ENTITY.sub(_decode, "\n".join(_prose(text.split("\n"))))


def _without(text: str, cuts: list[tuple[int, int]]) -> str:
    """Return `text` without the given spans, which may nest and overlap."""
    if not cuts:
        return text
    cuts.sort()
    kept = []
    position = 0
    for start, end in cuts:
        if start > position:
            kept.append(text[position:start])
        position = max(position, end)
    kept.append(text[position:])
    return "".join(kept)


def _protect_nowiki(text: str) -> str:
    """Write the content of <nowiki> as character references, so that nothing takes it for markup."""
    kept = []
    position = 0
    while opening := _NOWIKI_OPEN.search(text, position):
        closing = _NOWIKI_CLOSE.search(text, opening.end())
        if not closing:
            break
        kept.append(text[position : opening.start()])
        kept.append(_NOWIKI_CHARACTER.sub(_reference, text[opening.end() : closing.start()]))
        position = closing.end()
    kept.append(text[position:])
    return "".join(kept)


def _reference(character: re.Match[str]) -> str:
    return f"&#{ord(character[0])};"


def _hidden_tags(text: str) -> list[tuple[int, int]]:
    """Find the elements that are left out with their content; a tag without partner hides nothing."""
    cuts: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []
    waiting: dict[str, int] = {}
    for tag in _HIDDEN_TAG.finditer(text):
        name = tag[2].lower()
        if not tag[1]:
            if tag[3].endswith("/"):
                cuts.append(tag.span())
            else:
                opened.append((name, tag.start()))
                waiting[name] = waiting.get(name, 0) + 1
        elif waiting.get(name):
            while True:
                inner, start = opened.pop()
                waiting[inner] -= 1
                if inner == name:
                    break
            cuts.append((start, tag.end()))
    return cuts


def _templates(text: str) -> list[tuple[int, int]]:
    """Find templates and template arguments: braces pair from the inside out, as MediaWiki does it."""
    cuts: list[tuple[int, int]] = []
    opened: list[tuple[int, int]] = []
    for braces in _BRACES.finditer(text):
        start, end = braces.span()
        if text[start] == "{":
            opened.append((start, end - start))
            continue
        while end - start >= 2 and opened:
            first, width = opened.pop()
            paired = min(width, end - start)
            cuts.append((first + width - paired, start + paired))
            start += paired
            if width - paired >= 2:
                opened.append((first, width - paired))
        if end > start:
            cuts.append((start, end))
    cuts.extend((start, start + width) for start, width in opened)
    return cuts


def _tables(text: str) -> list[tuple[int, int]]:
    """Find tables, outermost and inner ones; of an unclosed one `_prose` drops the rows."""
    cuts: list[tuple[int, int]] = []
    opened: list[int] = []
    for edge in _TABLE_EDGE.finditer(text):
        if edge[1]:
            opened.append(edge.start() + 1)
        else:
            cuts.append((opened.pop() if opened else edge.start() + 1, edge.end()))
    return cuts


def _item_with_words(item: re.Match[str]) -> str:
    """Drop what a reader would not read: lists of links alone, as in See also, and of sources."""
    marks, text = item.groups()
    if _SOURCE.search(text):
        return ""
    if marks.endswith(";"):  # a term; its definition may stand on the same line
        return item[0].replace(" : ", "\n: ", 1)
    return item[0] if _LETTER.search(_LINK_OR_MARKUP.sub("", text)) else ""


def _link_markup(text: str, hidden_namespaces: frozenset[str]) -> list[tuple[int, int]]:
    """Find what of [[links]] is not shown: brackets and targets, or all of it. No link reaches beyond a heading."""
    cuts: list[tuple[int, int]] = []
    opened: list[tuple[int, bool]] = []
    for edge in _LINK_EDGE.finditer(text):
        start, end = edge.span()
        if text[start] == "[":
            target = edge[1]
            opened.append((start, ":" in target and _is_hidden(target, hidden_namespaces)))
            cuts.append((start, end if edge[2] else start + 2 + _num_unshown(target)))
        elif text[start] == "\n":
            opened.clear()
        else:
            first, hidden = opened.pop() if opened else (start, False)
            cuts.append((first if hidden else start, end))
    return cuts


def _is_hidden(target: str, hidden_namespaces: frozenset[str]) -> bool:
    prefix = target.partition(":")[0].strip()
    if prefix.lower() in hidden_namespaces:
        return True
    return _INTERLANGUAGE.fullmatch(prefix) is not None and prefix not in _SISTER_PROJECTS


def _num_unshown(target: str) -> int:
    """Count the characters before the text of a link without label: the colon of [[:x]], the sharp of [[#x]]."""
    return len(target) - len(target.lstrip(" :#"))


def _unless_switch(word: re.Match[str]) -> str:
    """Drop __NOTOC__ and its kin in any language, keep __init__."""
    return "" if word[0] == word[0].upper() else word[0]


def _decode(entity: re.Match[str]) -> str:
    return html.unescape(entity[0])


def _prose(lines: Iterable[str]) -> list[str]:
    """Keep the lines that say something, and the headings that stand over some."""
    kept: list[str] = []
    headings: list[tuple[int, str]] = []
    for source in lines:
        line = source.strip()
        first = line[:1]
        if not line or first == "|" or line.startswith("{|"):  # rows of a table without end
            continue
        level = 0
        if first in "*#:;":
            item = line.lstrip("*#:; ")
            level = _TERM_LEVEL if line.removesuffix(item).rstrip().endswith(";") else 0
            line = item
        elif first == "=" and line[-1] == "=":
            level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
            line = line[level:-level].strip()
        elif line.startswith("----"):
            line = line.lstrip("-")
        if "''" in line:
            line = _without_quotes(line)
        if not _WORD.search(line):
            continue
        if level:
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, line if line[-1:] in ".!?" else line + "."))
            continue
        kept.extend(title for _, title in headings)
        headings.clear()
        kept.append(line)
    return kept


def _without_quotes(line: str) -> str:
    """Drop the marks of bold and italics; a bold mark that is an apostrophe before italics, l'''x'', stays one."""
    if "'''" not in line:
        return line.replace("''", "").strip()
    runs = list(_QUOTES.finditer(line))
    num_bold = sum(len(run[0]) != 2 for run in runs)
    num_italic = sum(len(run[0]) in (2, 5) or len(run[0]) > 5 for run in runs)
    elided = None
    if num_bold % 2 and num_italic % 2:
        candidates = [
            run.start() for run in runs if len(run[0]) == 3 and run.start() and line[run.start() - 1].isalpha()
        ]
        elided = next(
            (i for i in candidates if i == 1 or not line[i - 2].isalpha()), candidates[0] if candidates else None
        )

    def kept(run: re.Match[str]) -> str:
        if run.start() == elided or len(run[0]) == 4:
            return "'"
        return "'" * (len(run[0]) - 5)

    return _QUOTES.sub(kept, line).strip()
