"""Text of others: nothing in it stays unseen, and what people write stays readable."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.visible import shown, visible

# Default_Ignorable_Code_Point and Bidi_Control of Unicode's DerivedCoreProperties and PropList.
IGNORABLE = [
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5)),
    *((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
]
OTHERS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x2800, 0xD800, 0xDBFF, 0xE000, 0xFFFF]


def test_what_draws_nothing_is_written_out():
    codes = [code for first, last in IGNORABLE for code in range(first, last + 1)] + OTHERS
    for code in codes:
        assert visible(f"a{chr(code)}b") == f"a<U+{code:04X}>b"
    assert visible("caf\udce9.mp4") == "caf<byte E9>.mp4"
    assert visible("a\nb\tc\x1b[2J", keep="\n\t") == "a\nb\tc<U+001B>[2J"


def test_what_is_drawn_stays():
    undrawn = {code for first, last in IGNORABLE for code in range(first, last + 1)}
    undrawn |= {*OTHERS, 0x16FE4, 0x1D159}  # Khitan's and music's fillers
    drawn = [
        chr(code)
        for code in range(0x30000)
        if code not in undrawn and unicodedata.category(chr(code))[0] in "LNPSMZ"
    ]
    assert len(drawn) > 100_000
    text = " ".join(drawn)
    assert visible(text) == text
    assert visible("\u0600\u06dd\U000110bd") == "\u0600\u06dd\U000110bd"  # signs of numbers


@pytest.mark.parametrize(
    "text",
    [
        "می‌خواهم نامه‌ای بنویسم، کتابِ‌ها",  # Persian: U+200C between letters, after a vowel mark
        "مرحبا بالعالم",
        "שָׁלוֹם עולם",
        "क्‍ष क्‌ष श्री",  # Devanagari: joiners after the virama
        "র‍্যাব",  # Bengali: a joiner before it
        "ന്‍ ക്‍",  # Malayalam
        "ශ්‍රී ලංකාව",  # Sinhala
        "ภาษา\u200bไทย ភាសា\u200bខ្មែរ",  # no spaces: U+200B between words
        "内視鏡で何が見えますか。　葛\U000e0100飾区 한국어",
        "👨‍👩‍👧‍👦 👩🏽‍⚕️ 🏳️‍🌈 👁️‍🗨️ ❤️‍🔥 1️⃣ #️⃣ ☺︎ ↔️ ™️ ‼️ ℹ️ 🇩🇪",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # Scotland
        "naïve 3 mm ≤ x ≤ 5 µm — “quoted” 10 %",
    ],
)
def test_what_people_write_stays(text):
    assert visible(text) == text and shown(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pol\u200dyp", "pol<U+200D>yp"),
        ("می‌‌خواهم", "می<U+200C><U+200C>خواهم"),  # one joiner at a time
        ("م\ufe0e\u200cی", "م<U+FE0E><U+200C>ی"),
        ("\u200cمی", "<U+200C>می"),
        ("a\ufe0f", "a<U+FE0F>"),
        ("☺\ufe0f\ufe0f", "☺\ufe0f<U+FE0F>"),
        ("☺\ufe00", "☺<U+FE00>"),
        ("1\ufe0f", "1<U+FE0F>"),
        ("葛\U000e0100\U000e0101", "葛\U000e0100<U+E0101>"),
        ("🏴\U000e0067\U000e0061", "🏴<U+E0067><U+E0061>"),  # tags that are no flag
        ("ไทย\u200b", "ไทย<U+200B>"),
        ("\u200f123", "<U+200F>123"),
        ("👍\u200d", "👍<U+200D>"),
    ],
)
def test_the_same_characters_out_of_place(text, expected):
    assert visible(text) == expected


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(codec=None), max_size=40))
def test_any_text_is_shown_on_one_line(text):
    line = shown(text)
    assert "\n" not in line and len(line.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Zl", "Zp") for c in line)
    assert shown(line) == line  # what is written out is not written out again
    line.encode()


def test_long_names_and_lines_are_shortened():
    path = "/data/" + "/".join(["Doe^Jane" * 30] * 17)
    line = shown(f"{path} can't be read; check its permissions")
    assert len(line) < 320 and f"...({len(path)} characters)..." in line
    assert line.startswith("/data/Doe^Jane") and line.endswith(
        "can't be read; check its permissions"
    )
    spaced = shown("a word " * 1000 + "; name another")
    assert len(spaced) <= 2000 and spaced.endswith("; name another")
    assert shown("x" * 240) == "x" * 240
