"""The cleaner: markup in, prose out, in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_embed.dump.wikitext import clean


def test_templates_go_with_all_they_hold() -> None:
    text = "{{Infobox\n| a = [[b]]\n| c = {{d|{{{e|{{small|f}}}}}}}\n}}\n'''Foo''' is {{foo|fr|un}} a {{{1|x}}} bar."
    assert clean(text) == "Foo is a bar."


def test_templates_that_stand_for_a_character_give_the_character() -> None:
    assert clean("''Eagle''{{'}}s flight 1990{{ndash}}95{{snd}}long") == "Eagle's flight 1990–95 – long"


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("At {{convert|1300|mi|km}}, Alabama", "At 1,300 mi, Alabama"),
        ("{{Convert|5|to|10|km2|sqmi|0}} {{cvt|3|-|4|C|F|abbr=on}}", "5 to 10 km² 3–4 °C"),
        ("{{convert|5|ft|10|in|m|2}} {{convert|20|x|30.5|x|4|ft}}", "5 ft 10 in 20 × 30.5 × 4 ft"),
        (
            "{{convert|3+1/2|sqmi|2}} {{convert|1.5|e6acre}} {{convert|60|km/h}}",
            "3 1⁄2 sq mi 1.5 million acres 60 km/h",
        ),
        ("{{convert|x}} {{convert}} {{convert|input=1}}{{cvt|5}}", ""),
        ("{{nowrap|[[a|b]] {{small|c {{convert|7|km}}}}}} {{abbr|UN|United Nations}}", "b c 7 km UN"),
        ("{{lang|fr|mot}} {{lang-de|Wort|lit=x}} {{lang|1=el|2=a=b}} {{transl|ru|ISO|slovo}}", "mot Wort a=b slovo"),
        ("{{nihongo|Tokyo|東京|Tōkyō}} {{nihongo||犬|inu}} {{仮リンク|犬|en|Dog}}", "Tokyo (東京, Tōkyō) inu (犬) 犬"),
        (
            "{{As of|2010|7|5}} {{as of|2011|lc=y}} {{as of|2011|since=y|lc=y}}",
            "As of 5 July 2010 as of 2011 since 2011",
        ),
        ("{{US$|5 million}} {{£|3}} {{€|7.5}} {{INR}}500 {{INR|4}}", "US$5 million £3 €7.5 ₹500 ₹4"),
        ("{{frac|2}} {{frac|3|4}} {{fraction|1|3|4}} {{nth|1}} {{nth|12}} {{nth|23}}", "1⁄2 3⁄4 1 3⁄4 1st 12th 23rd"),
        ("{{circa|1900}} {{c.}} {{reign|1910|1920}} {{angbr|a}} {{chem|H|2|O}}", "c. 1900 c. r. 1910–1920 ⟨a⟩ H2O"),
        ("{{quote|text=No more.|author=B}} {{nowrap|a {{foo|x}} b}} {{ nowrap\n| c }}", "No more. a b c"),
        ("a {{nowrapped|x}} {{convertible|5|km}} {{{nowrap|x}}} b", "a b"),
    ],
)
def test_templates_that_carry_running_text_give_what_a_reader_sees(markup: str, shown: str) -> None:
    assert clean(markup) == shown


def test_marks_of_language_variants_give_the_first_that_has_text() -> None:
    assert clean("用-{zh-hans:计算机; zh-hant:電腦}-和-{字}-。-{zh:;zh-tw:甲;}-") == "用计算机和字。甲"
    assert clean(
        "a-{H|zh-cn:x;zh-tw:y}- b -{zh-hans;zh-hant|c}- -{[[d|e]]}- -{ {{lang|fr|f}} }- -{sr-ec: г; sr-el: g}-"
    ) == ("a b c e f г")
    assert clean("see -{http://a.b/c;d}- and -{open") == "see http://a.b/c;d and -{open"


def test_tables_go_and_nested_tables_with_them() -> None:
    text = "Before.\n{| class=wikitable\n! head\n|-\n| cell\n{|\n| inner\n|}\n| more\n|}\nAfter."
    assert clean(text) == "Before.\nAfter."


def test_an_unclosed_table_loses_its_rows_but_not_the_paragraphs_behind_it() -> None:
    assert clean("Before.\n{| class=x\n|-\n| cell\n\nAfter.") == "Before.\nAfter."


def test_references_and_comments_leave_no_gap_before_the_full_stop() -> None:
    text = 'One<ref name="a">{{cite|x}} y</ref> two<ref name=b /><!-- no\nno -->.<references/>'
    assert clean(text) == "One two."


def test_a_reference_without_end_hides_nothing_but_its_tag() -> None:
    assert clean("One.<ref>two three\nfour <ref>gone</ref> five") == "One.two three\nfour five"


def test_links_give_their_text() -> None:
    text = "[[Dog]]s, [[Dog|hounds]], [[a|b|c]], [[#Part]], [[:Category:Dogs]], [[Page (x)|]]."
    assert clean(text) == "Dogs, hounds, b|c, Part, Category:Dogs,."


def test_links_whose_title_holds_a_colon_are_kept() -> None:
    assert clean("[[Star Trek: Voyager]] and [[Mission: Impossible|MI]]") == "Star Trek: Voyager and MI"


def test_files_categories_and_interlanguage_links_go_with_their_captions() -> None:
    text = "[[File:a.jpg|thumb|a [[link|lab]] and [http://x y]]]Text."
    text += "[[Image:b.png]] [[Category:C]] [[fr:Chien]] [[Media:o.ogg|hear]]"
    assert clean(text) == "Text."


def test_file_links_of_other_languages_go_too() -> None:
    assert clean("[[Файл:а.jpg|мини|подпис]]Текст [[Категория:Х]]") == "Текст"
    assert clean("[[Fil:a.jpg|x]][[Skrá:b.jpg|y]]Texti", frozenset({"fil", "skrá"})) == "Texti"


def test_a_file_link_without_end_does_not_swallow_the_next_section() -> None:
    text = "[[File:a.jpg|thumb|caption\n== Next ==\nProse ]] here."
    assert "Next.\nProse" in clean(text)


def test_links_to_the_web_give_their_text() -> None:
    text = "[http://a.b/c the text], [//a.b rel], [http://a.b], [mailto:a@b.c mail] http://bare.org [sic]"
    assert clean(text) == "the text, rel,, mail http://bare.org [sic]"


def test_headings_become_sentences_and_go_when_nothing_stands_under_them() -> None:
    text = "Intro.\n== A ==\n=== B ===\nText.\n== Empty ==\n{{x}}\n== See also ==\n* [[item]]\n== What? ==\ny"
    assert clean(text) == "Intro.\nA.\nB.\nText.\nWhat?\ny"


def test_items_of_lists_that_say_something_become_lines() -> None:
    assert clean("P.\n* a b\n# [[c]] was ''d''\n## e\n:* f\n: indented\n:: more\n----\nQ.") == (
        "P.\na b\nc was d\ne\nf\nindented\nmore\nQ."
    )
    assert clean("P.<ul><li>One thing<li class=x>[[Two]]</li><li>three</li></ul>Q.") == "P.\nOne thing\nthree\nQ."


def test_items_that_are_links_numbers_or_sources_alone_go() -> None:
    items = [
        "[[a]]",
        "[[a|b]], ''[[c]]'' (1990)",
        "[http://a.b c] d",
        "E, F. ''G''. ISBN 0-123",
        "{{cite|x}}",
        "&ndash; 12",
    ]
    assert clean("P.\n" + "".join(f"* {item}\n" for item in items) + "Q.") == "P.\nQ."


def test_a_term_is_a_heading_over_its_definitions() -> None:
    assert clean("; Term\n: What it is.\n; Bare\n* [[x]]\n; [[Short]] : meaning") == (
        "Term.\nWhat it is.\nShort.\nmeaning"
    )


def test_marks_of_bold_and_italics_go() -> None:
    assert clean("'''bold''' ''ital'' '''''both''''' ''open") == "bold ital both open"


def test_an_apostrophe_before_italics_is_kept() -> None:
    assert clean("dans l'''amour'' et") == "dans l'amour et"
    assert clean("l'''Avare'' de '''Molière'''") == "l'Avare de Molière"


def test_formulas_code_and_galleries_go_with_their_content() -> None:
    text = "a <math>x^{2} {{</math>b <code>[[x]]</code>c <syntaxhighlight lang=c>{{</syntaxhighlight>d "
    text += "<gallery>\nFile:x|y\n</gallery>e"
    assert clean(text) == "a b c d e"


def test_tags_that_only_format_leave_their_text() -> None:
    text = "H<sub>2</sub>O <span class='a'>s</span> one<br/>two <div>block</div> <!-- -->3<4 and <unknown>"
    assert clean(text) == "H2O s one two block 3<4 and <unknown>"


def test_entities_are_decoded_once() -> None:
    assert clean("R&amp;D &mdash; 5&nbsp;km &#8212; &lt;b&gt; &amp;amp; AT&T &bogus; ?a=1&copy=2") == (
        "R&D — 5\xa0km — <b> &amp; AT&T &bogus; ?a=1&copy=2"
    )


def test_nowiki_shows_markup_as_it_is() -> None:
    assert (
        clean("See <nowiki>[[x]] {{y}} '''z''' &amp;</nowiki> and ''it''<nowiki/>.")
        == "See [[x]] {{y}} '''z''' & and it."
    )


def test_brackets_that_templates_left_empty_go() -> None:
    assert clean("Foo ({{lang|x}}) is ({{ipa|y}}; born 1947), f(x) and g().") == "Foo is (born 1947), f(x) and g()."


def test_switches_go_and_other_underscores_stay() -> None:
    assert clean("__NOTOC__a __init__ __БЕЗСОДЪРЖАНИЕ__b") == "a __init__ b"


def test_brackets_without_partner_lose_only_themselves() -> None:
    assert (
        clean("one {{two | three\nfour }} }} five [[six\nseven ]] ]] eight {{nine") == "one five six\nseven eight nine"
    )
    assert clean("one ]] two }} three |} four\n|}\nfive") == "one two three |} four\nfive"


def test_text_without_markup_stays_as_it_is() -> None:
    text = "Ein Satz, mit Komma.\nДруго изречение: „цитат“ (да).\n日本語の文。"
    assert clean(text) == text


HOSTILE = [
    *("{{", "[[", "}}", "]]", "<div>", "<ref>", "\n{|", "\n|}", "'", "'''a''b", "<!--", "<nowiki>", "[http://a ", "["),
    *("<", "&", "__a", "_", "( ", "(,", " ", "=", "\n==a==", "\n*:", "[[a|", "[[File:a|", "{{a|", "<ref name=a", "[[:"),
    *("[[File:a|[[b]]]]", "{{{{a}}", "<small><ref>", " ,", "l'''a''", "\n=", "&#", "a\n", "<br", "{{'"),
    *(
        "-{",
        "}-",
        "-{zh:",
        ";zh:",
        "-{zh:;",
        "-{a=>",
        "{{convert|1",
        "|1",
        "{{lang|",
        "{{small|{{small|",
        "{{nowrap|[[",
    ),
    *("\n* ", "\n;", "\n* [[a]]", "\n* [http://", "<li>", "<li", "{{frac|{{", "{{small|a}}", "{{INR}}", "\n*#"),
]


@pytest.mark.parametrize("seed", HOSTILE)
def test_markup_that_never_ends_takes_linear_time(seed: str) -> None:
    begin = time.process_time()
    clean(seed * (1_000_000 // len(seed)))
    assert time.process_time() - begin < 10  # it is tenths of a second; quadratic work would take an hour


@pytest.mark.parametrize(
    ("left", "right"), [("{{", "}}"), ("[[", "]]"), ("<ref>", "</ref>"), ("\n{|", "\n|}"), ("[[File:a|", "]]")]
)
def test_deep_nesting_needs_no_recursion(left: str, right: str) -> None:
    assert clean("a " + left * 50_000 + "x" + right * 50_000 + "\nb").split() in (["a", "b"], ["a", "x", "b"])


@pytest.mark.parametrize(
    "start", ["[http://", "(", "<ref ", "[[", "__", "'''", "=====", ":", "&", "{{'", "{{lang|", "-{zh:", "\n* "]
)
@pytest.mark.parametrize("filler", ["a", " ", "(", "|", ";", "="])
def test_one_long_token_takes_linear_time(start: str, filler: str) -> None:
    begin = time.process_time()
    for end in ("", "}}", "}-", "]"):
        clean(start + filler * 250_000 + end)
    assert time.process_time() - begin < 10


PIECES = st.sampled_from(
    [
        *HOSTILE,
        "word",
        " ",
        "\n",
        ".",
        "|",
        "}",
        "]",
        ">",
        "/>",
        "</ref>",
        "</nowiki>",
        "-->",
        ":",
        "*",
        "x=1",
        "é",
        "'s",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40))
def test_any_markup_gives_lines_without_blank_ones(pieces: list[str]) -> None:
    text = clean("".join(pieces))
    assert text == "" or all(line.strip() == line and line for line in text.split("\n"))


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=30))
def test_markup_never_reaches_the_paragraph_before_it(pieces: list[str]) -> None:
    assert clean("A plain sentence.\n\n" + "".join(pieces)).startswith("A plain sentence.")
