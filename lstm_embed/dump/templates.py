"""The templates that carry running text, and what a reader sees in their place; `wikitext` leaves out all others.

They are told by name, in one table; most names are the same on every wiki. Nothing is computed: a conversion gives the
numbers and the unit that were typed in. The marks of language variants, -{zh-hans:A; zh-hant:B}-, are read here too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_NUM_LEVELS = 4
"""Levels of templates inside templates that are followed; what nests deeper goes with its outermost template."""

_UNITS = {
    "C": "°C",
    "F": "°F",
    "C-change": "°C",
    "F-change": "°F",
    "kph": "km/h",
    "foot": "ft",
    "acre": "acres",
    "USgal": "US gal",
    "impgal": "imp gal",
    "ST": "short tons",
    "LT": "long tons",
    "PD": "",
    "oilbbl": "bbl",
}
"""Codes of `convert` that are not what a reader sees."""
_BETWEEN = {
    "-": "–",
    "–": "–",
    "to": " to ",
    "to(-)": " to ",
    "and": " and ",
    "and(-)": " and ",
    "or": " or ",
    "by": " by ",
    "x": " × ",
    "×": " × ",
    "xx": " × ",
    "*": " × ",
    "+/-": " ± ",
    "±": " ± ",
    "&": " & ",
}
"""What may stand between two numbers of `convert`."""
_MONTHS = ["January", "February", "March", "April", "May", "June"]
_MONTHS += ["July", "August", "September", "October", "November", "December"]

_ARGUMENT = re.compile(r"[|:]((?:[^|\[{]++|\[\[[^\[\]]*+\]\]|\{\{[^{}]*+\}\}|\[)*+)")
_PLACE = re.compile(r"\{(\d|-1)\}")
_NUMBER = re.compile(r"[-+−]?(?:[0-9][0-9.,]*+(?:\+?[0-9]*+//?[0-9]++)?|\.[0-9]++)")
_LONG_NUMBER = re.compile(r"([-+−]?)([0-9]{4,15})((?:\.[0-9]++)?)")
_THOUSANDS = {"e3": "thousand ", "e6": "million ", "e9": "billion "}
_AREA_OR_VOLUME = re.compile(r"\b(sq|cu)(?=[a-z])")
_POWER = re.compile(r"(?<=[a-z])[23]\b")
_VARIANTS = re.compile(r"-\{([^{}]*+)\}-")
_VARIANT_CODE = re.compile(
    r"(?:^|;)\s*+(?:[^;:=]*+=>\s*+)?(?:zh|sr|sh|gan|wuu|kk|ku|uz|iu|shi|tg|tly|crh|ban|mni)(?:-[a-z]{2,8}){0,3}\s*+:"
)
_HIDDEN_FLAGS = frozenset("HTND-")
"""Of marks that define a conversion, or name the page, and show nothing."""

_Places = Sequence[str]
_Named = dict[str, str]


def _convert(places: _Places, named: _Named) -> str:
    """Return numbers and unit as often as both follow each other, as in 5 ft 10 in; what comes then is to be computed."""
    text = ""
    at = 0
    while at + 1 < len(places) and _NUMBER.fullmatch(places[at]):
        text += " " + _number(places[at])
        at += 1
        while at + 1 < len(places) and places[at] in _BETWEEN and _NUMBER.fullmatch(places[at + 1]):
            text += _BETWEEN[places[at]] + _number(places[at + 1])
            at += 2
        text += " " + _unit("".join(places[at : at + 1]))
        at += 1
    return text.strip()


def _number(text: str) -> str:
    """Write 1300 as 1,300 and 3+1/2 as 3 1⁄2."""
    if long := _LONG_NUMBER.fullmatch(text):
        return f"{long[1]}{int(long[2]):,}{long[3]}"
    return text[:1] + text[1:].replace("+", " ").replace("//", "/").replace("/", "⁄")


def _unit(code: str) -> str:
    many = _THOUSANDS.get(code[:2], "")
    symbol = "/".join(_UNITS.get(part, part) for part in code.removeprefix(code[:2] if many else "").split("/"))
    symbol = _AREA_OR_VOLUME.sub(r"\1 ", symbol)
    return many + _POWER.sub(lambda power: "²" if power[0] == "2" else "³", symbol)


def _fraction(places: _Places, named: _Named) -> str:
    *whole, above, below = ["1", *places][-2:] if len(places) < 2 else places
    return " ".join([*whole, f"{above}⁄{below}"])


def _ordinal(places: _Places, named: _Named) -> str:
    number = "".join(places[:1])
    return number + ("th" if number[-2:-1] == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1:], "th"))


def _as_of(places: _Places, named: _Named) -> str:
    year, month, day = [*places, "", "", ""][:3]
    if month.isdecimal() and 1 <= int(month) <= 12:
        month = _MONTHS[int(month) - 1]
    word = "since" if named.get("since") else "as of"
    words = [word if named.get("lc") else word.capitalize(), day, month, year]
    return named.get("alt") or " ".join(filter(None, words))


def _nihongo(places: _Places, named: _Named) -> str:
    english, kanji, romaji = [*places, "", "", ""][:3]
    english, romaji = (english, romaji) if english else (romaji, "")
    inside = ", ".join(filter(None, (kanji, romaji)))
    return f"{english} ({inside})" if inside else english


def _span(sign: str) -> Callable[[_Places, _Named], str]:
    return lambda places, named: f"{sign} {'–'.join(filter(None, places[:2]))}".strip()


def _joined(places: _Places, named: _Named) -> str:
    return "".join(places)


_TABLE: dict[str, str | Callable[[_Places, _Named], str]] = {
    # Characters: leaving them out would join words or lose an apostrophe.
    "'": "'",
    "'s": "'s",
    "=": "=",
    "nbsp": "\xa0",
    "ndash|en dash|–": "–",
    "spaced ndash|spnd|snd": " – ",
    "mdash|em dash|—": "—",
    "spaced mdash": " — ",
    "half": "½",
    # Forms of text: {1} stands for the first argument, {-1} for the last.
    "nowrap|nobr|nobreak|small|smaller|big|larger|abbr|tooltip|em|strong|sub|sup|sc|smallcaps|noitalic|unicode|sic": "{1}",
    "quote|blockquote|cquote|gloss|formatnum|num|nombre|nts|chem2|flag|vanchor|ruby|読み仮名": "{1}",
    "lang-*|ill|interlanguage link|仮リンク|le": "{1}",
    "lang|langx|llang|wikt-lang|color": "{2}",
    "transl|transliteration|translit|tsl|script/*": "{-1}",
    "angbr": "⟨{1}⟩",
    "chem|linktext": _joined,
    "nihongo": _nihongo,
    # Numbers and dates.
    "convert|cvt": _convert,
    "unité|unidad": "{1} {2}",
    "frac|fraction|sfrac": _fraction,
    "nth|ordinal": _ordinal,
    "as of": _as_of,
    "circa|c.|ca.": _span("c."),
    "floruit|fl.": _span("fl."),
    "reign|r.": _span("r."),
    "USD|US$": "US${1}",
    "AUD|A$": "A${1}",
    "CAD|C$": "C${1}",
    "NZD|NZ$": "NZ${1}",
    "£|GBP": "£{1}",
    "€|EUR|euro": "€{1}",
    "¥|JPY|yen": "¥{1}",
    "CNY|CN¥|RMB": "CN¥{1}",
    "₩|KRW": "₩{1}",
    "₹|INR|indian Rupee": "₹{1}",
}
"""What is shown by name of the template; the first letter may be large or small, and * is the code of a language."""


def _pattern(names: str) -> str:
    """Return the expression of a row's names. It begins with sets of letters, which the engine passes over at once."""
    rests = [re.escape(name[1:]).replace(r"\*", "[a-z-]{2,12}").replace(r"\ ", "[ _]") for name in names.split("|")]
    return "|".join(
        f"[{name[0].upper()}{name[0].lower()}]{rest}" for name, rest in zip(names.split("|"), rests, strict=True)
    )


_FORMS = list(_TABLE.values())
_ROWS = "|".join(f"({_pattern(names)})" for names in _TABLE)
_TEMPLATE = re.compile(rf"\{{\{{(?<!\{{\{{\{{)\s*+(?:{_ROWS})\s*+(?:[|:](?:[^{{}}]++|\{{\{{[^{{}}]*+\}}\}})*+)?\}}\}}")


def show(text: str) -> str:
    """Put the text of the templates that carry some, and of language variants, in their place; all else stays."""
    for _ in range(_NUM_LEVELS):
        text, num_shown = _TEMPLATE.subn(_shown, show_variants(text))
        if not num_shown:
            break
    return text


def _shown(template: re.Match[str]) -> str:
    row = template.lastindex or 0
    form = _FORMS[row - 1]
    places: list[str] = []
    named: dict[str, str] = {}
    for argument in _ARGUMENT.findall(template[0][template.end(row) - template.start() : -2]):
        name, equals, value = argument.partition("=")
        if not equals or "[" in name or "{" in name:
            places.append(argument.strip())
        elif name.strip().isdecimal():
            places.append(value.strip())
        else:
            named[name.strip()] = value.strip()
    places = places or [named.get("text", "")]
    if callable(form):
        return form(places, named)
    return _PLACE.sub(lambda place: _at(places, int(place[1])), form)


def _at(places: _Places, number: int) -> str:
    return places[-1] if number < 0 else "".join(places[number - 1 : number])


def show_variants(text: str) -> str:
    """Replace each mark of language variants, as in -{zh-hans:A; zh-hant:B}- and -{A}-, by its first variant with text."""
    return _VARIANTS.sub(_first_variant, text) if "-{" in text else text


def _first_variant(mark: re.Match[str]) -> str:
    flags, bar, rule = mark[1].partition("|")
    if not bar or "[" in flags:
        flags, rule = "", mark[1]
    if _HIDDEN_FLAGS.intersection(map(str.strip, flags.split(";"))):
        return ""
    before, *variants = (text.strip(" ;\n") for text in _VARIANT_CODE.split(rule))
    return next(filter(None, variants), before)
