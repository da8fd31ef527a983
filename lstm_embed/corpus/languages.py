"""Languages that the sentence splitter is told, by their codes.

sentencex has rules for the larger ones and takes another language's for a smaller one, as Wikipedia's software does. It takes
any code and says nothing, so a wrong one is found here.
"""

from __future__ import annotations

import difflib

_TABLE = """
aa Afar, ab Abkhaz, af Afrikaans, ak Akan, als Alemannic, am Amharic, an Aragonese, ang Old English, ar Arabic, arc
Aramaic, arz Egyptian Arabic, as Assamese, ast Asturian, av Avar, ay Aymara, az Azerbaijani, azb South Azerbaijani, ba
Bashkir, bar Bavarian, bcl Central Bikol, be Belarusian, bg Bulgarian, bh Bihari, bi Bislama, bm Bambara, bn Bengali, bo
Tibetan, bpy Bishnupriya, br Breton, bs Bosnian, bxr Buryat, ca Catalan, cdo Min Dong, ce Chechen, ceb Cebuano, ckb
Sorani Kurdish, co Corsican, crh Crimean Tatar, cs Czech, csb Kashubian, cv Chuvash, cy Welsh, da Danish, de German, diq
Zazaki, dsb Lower Sorbian, dv Divehi, dz Dzongkha, ee Ewe, el Greek, en English, eo Esperanto, es Spanish, et Estonian,
eu Basque, ext Extremaduran, fa Persian, ff Fula, fi Finnish, fj Fijian, fo Faroese, fr French, frp Arpitan, frr North
Frisian, fur Friulian, fy West Frisian, ga Irish, gan Gan, gd Scottish Gaelic, gl Galician, gn Guarani, gom Konkani, gu
Gujarati, gv Manx, ha Hausa, hak Hakka, haw Hawaiian, he Hebrew, hi Hindi, hr Croatian, hsb Upper Sorbian, ht Haitian,
hu Hungarian, hy Armenian, hyw Western Armenian, ia Interlingua, id Indonesian, ie Interlingue, ig Igbo, ilo Ilocano, io
Ido, is Icelandic, it Italian, iu Inuktitut, ja Japanese, jv Javanese, ka Georgian, kaa Karakalpak, kab Kabyle, ki
Kikuyu, kk Kazakh, kl Greenlandic, km Khmer, kn Kannada, ko Korean, krc Karachay-Balkar, ks Kashmiri, ku Kurdish, kv
Komi, kw Cornish, ky Kyrgyz, la Latin, lb Luxembourgish, lez Lezgian, lg Ganda, li Limburgish, lij Ligurian, lmo
Lombard, ln Lingala, lo Lao, lt Lithuanian, lv Latvian, mai Maithili, mdf Moksha, mg Malagasy, mhr Meadow Mari, mi
Maori, min Minangkabau, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, mrj Hill Mari, ms Malay, mt Maltese, mwl
Mirandese, my Burmese, myv Erzya, mzn Mazanderani, nah Nahuatl, nap Neapolitan, nds Low Saxon, ne Nepali, new Newar, nl
Dutch, nn Norwegian Nynorsk, no Norwegian, nso Northern Sotho, nv Navajo, ny Chichewa, oc Occitan, om Oromo, or Odia, os
Ossetian, pa Punjabi, pam Kapampangan, pap Papiamento, pcd Picard, pl Polish, pms Piedmontese, pnb Western Punjabi, ps
Pashto, pt Portuguese, qu Quechua, rm Romansh, rn Rundi, ro Romanian, ru Russian, rue Rusyn, rw Kinyarwanda, sa
Sanskrit, sah Sakha, sat Santali, sc Sardinian, scn Sicilian, sco Scots, sd Sindhi, se Northern Sami, sg Sango, sh
Serbo-Croatian, shn Shan, si Sinhala, simple Simple English, sk Slovak, sl Slovenian, sm Samoan, sn Shona, so Somali, sq
Albanian, sr Serbian, ss Swati, st Southern Sotho, su Sundanese, sv Swedish, sw Swahili, szl Silesian, ta Tamil, te
Telugu, tg Tajik, th Thai, ti Tigrinya, tk Turkmen, tl Tagalog, tn Tswana, to Tongan, tr Turkish, ts Tsonga, tt Tatar,
tw Twi, ty Tahitian, tyv Tuvan, udm Udmurt, ug Uyghur, uk Ukrainian, ur Urdu, uz Uzbek, ve Venda, vec Venetian, vi
Vietnamese, vls West Flemish, vo Volapuk, wa Walloon, war Waray, wo Wolof, wuu Wu, xal Kalmyk, xh Xhosa, xmf Mingrelian,
yi Yiddish, yo Yoruba, yue Cantonese, za Zhuang, zea Zeelandic, zh Chinese, zh-yue Cantonese, zu Zulu
"""
LANGUAGES: dict[str, str] = {
    code: name for code, _, name in (entry.strip().partition(" ") for entry in _TABLE.replace("\n", " ").split(","))
}
"""Names by ISO 639 codes, and by those of Wikipedia where it has others."""

_COUNTRIES = {
    "cn": "zh",
    "cz": "cs",
    "dk": "da",
    "gr": "el",
    "jp": "ja",
    "kr": "ko",
    "ua": "uk",
    "us": "en",
    "vn": "vi",
}
"""Codes of countries that are taken for those of their languages."""


def check_language(code: str) -> str:
    """Return a language's code; refuse one that is none.

    Raises:
        ValueError: with the codes and names that are nearest.
    """
    if code in LANGUAGES:
        return code
    wanted = code.casefold().replace("_", "-")
    base = wanted.split("-")[0]
    by_name = {name.casefold(): own for own, name in LANGUAGES.items()}
    nearest = [_COUNTRIES.get(base, base)]
    nearest += [by_name[name] for name in difflib.get_close_matches(wanted, by_name, n=3, cutoff=0.7)]
    nearest = [own for own in nearest if own in LANGUAGES] or difflib.get_close_matches(
        base, LANGUAGES, n=4, cutoff=0.5
    )
    names = ", ".join(f"{own} ({LANGUAGES[own]})" for own in dict.fromkeys(nearest or ["en", "ko", "zh"]))
    raise ValueError(
        f"language is {code!r}; expected the code of a language, such as {names}; --help lists all (--language)"
    )
