"""The words of a short answer in one spelling each: what carries meaning stays (plain Python).

Kept: signs, comparisons, decimals, exponents, ranges, ratios, units, single letters. Dropped: case,
punctuation of any script, quotes, articles before a word, separators of thousands, zeros that
change no value. Takes linear time on any text.
"""

import re
import unicodedata
from collections.abc import Sequence

_LONGEST = 20_000  # characters of a text that count: some become 18 in a compatibility form

# What typographic signs are typed as; the rest of the dashes are found by their category.
_TYPED = str.maketrans(
    dict.fromkeys("\u2264\u2266\u2a7d", "<=")
    | dict.fromkeys("\u2265\u2267\u2a7e", ">=")
    | dict.fromkeys("\u2248\u223c\u2243\u2245", "~")
    | dict.fromkeys("\u2044\u2215", "/")
    | dict.fromkeys("\u00ba\u02da", "\u00b0")
    | {"\u226a": "<", "\u226b": ">", "\u2260": " not "}
    | {"\u2212": "-", "\u2236": ":", "\u00d7": " x ", "\u02bc": "'", "&": " and "}
)
_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b"
_LOWERED = str.maketrans(_RAISED, "0123456789+-")
_EXPONENT = re.compile(f"[{_RAISED}]+")
_VULGAR = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215e])")  # before a one-character fraction
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")
_LONE_MARK = re.compile("(?<!\\S)[\u0300-\u036f]+")  # what NFKC leaves of an underline
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
# "10 000": a space of another kind, or a plain one before zeros that would be no number alone.
_GROUPED = re.compile("(?<=\\d)(?:[\u00a0\u2009\u202f'\u2019](?=\\d{3}(?!\\d))| (?=000(?!\\d)))")

# An article has a word after it; a capital A within a text, and "A" or "A or B", are letters.
_LEADING_A = re.compile(r"\W*A(?=\s\W*(?:\d|\w\w))(?!\s+(?:and|or)\b)")
_ARTICLE = re.compile(
    r"(?<![\w-])(?:(?i:the|an)(?=\s\W*\w)|a(?=\s\W*(?:\d|\w\w))(?!\s+(?:and|or)\b))"
)

# Signs that say something beside a number or alone; other punctuation parts words.
_MEANT = frozenset("-+<>=~\u00b1%\u2030\u00b0./:,^")
_MERE_MARKS = frozenset("`|\u00b4\u00a8\u00af\u00b8")
# Each is of one meaning however it is spaced; the text is in lower case and singly spaced by then.
_SPELLINGS = (
    (re.compile(r"\+ ?/ ?-"), "\u00b1"),
    (re.compile(r"(?<![\w.])\.(?=\d)"), "0."),
    (re.compile(r"(?<=\d) ?x ?(?=\d)"), " x "),
    (re.compile(r"(?<=\d) ?- (?=\d)"), "-"),
    (re.compile(r"(?<=\d) ([:/]) (?=\d)"), r"\1"),
    (re.compile(r"([<>]=?|[~\u00b1]) (?=[-+]?\d)"), r"\1"),
    # Chinese and Japanese put no space beside a number.
    (re.compile("(?<=\\d)(?=[\u3040-\u9fff])|(?<=[\u3040-\u9fff])(?=\\d)"), " "),
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")

_LETTER = "[^\\s<>=~\u00b1%\u2030\u00b0./:,^+-]"  # or a digit
_SIGN = f"(?<!{_LETTER})(?<![%\u2030\u00b0])[-+]"
_ATOM = rf"{_LETTER}+(?:(?<=\d)\.\d+(?:e[-+]?\d+)?)*(?:(?<=\de)[-+]\d+)?"
# "t2", "-3.5", "<=5", "10^-3", "mm^2", "3-5", "c3-c4", "1:2", "20/40", "3+4", "2+"
_WORD = re.compile(
    rf"(?:(?:[<>]=?|[~\u00b1])?(?:{_SIGN})?(?=\d))?"
    rf"{_ATOM}(?:(?<=\d)[-:/+](?=[^\W\d_]{{0,2}}\d){_ATOM})*"
    rf"(?:\^[-+]?{_LETTER}+)?(?:\++(?!{_LETTER}))?"
    r"|\^[-+]?\d+"
    "|[<>]=?|[\u00b1%\u2030\u00b0+]"
)
_NUMBER = re.compile(r"(?<![\d.])(\d+)(?:\.(\d+))?(?!\d|\.\d)")
_PLUS = re.compile(r"(?:(?<=^)|(?<=[<>=~\u00b1^]))\+(?=\d)")
_WITH_UNIT = re.compile(r"(.*\d)([^\W\d_]+)")
_UNITS = frozenset(
    (
        *("km", "m", "cm", "mm", "\u03bcm", "nm", "l", "dl", "cl", "ml", "\u03bcl", "cc"),
        *("kg", "g", "mg", "\u03bcg", "mcg", "ng", "mol", "mmol", "iu", "u", "gy"),
        *("d", "h", "hr", "min", "s", "sec", "ms", "hz", "khz", "mhz", "fps", "bpm"),
        *("mmhg", "kpa", "bar", "w", "kw", "v", "j", "db", "px", "%", "\u2030", "\u00b0"),
    )
)
_NEGATIONS = frozenset(
    ("no", "not", "never", "none", "nothing", "neither", "nor", "without", "cannot")
)


def normalize_answer(text: str) -> str:
    """The words that carry an answer's meaning, singly spaced; "" where there are none.

    "The  Nucleus, is separated." -> "nucleus is separated"
    "(A)" -> "a"    "\u22123.50 mm" -> "-3.5 mm"    "10\u00b2 cells" -> "10^2 cells"
    """
    return " ".join(answer_words(text))


def answer_words(text: str) -> list[str]:
    """The words of `normalize_answer`, of the text's first 20,000 characters."""
    text = text[:_LONGEST]
    text = _EXPONENT.sub(lambda raised: "^" + raised[0].translate(_LOWERED), text)
    text = _GROUPED.sub("", _VULGAR.sub(" ", _INVISIBLE.sub("", text)))
    # Before NFKC, which makes letters of some of them, and after: it makes them of other signs.
    text = unicodedata.normalize("NFKC", text.translate(_TYPED)).translate(_TYPED)
    text = _LONE_MARK.sub("", text)
    text = _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
    if article := _LEADING_A.match(text):
        text = text[article.end() :]
    text = unicodedata.normalize("NFKC", _ARTICLE.sub("", text).casefold())
    text = " ".join(text.translate({ord(c): _part(c) for c in set(text)}).split())
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    words = [word for found in _WORD.findall(text) for word in _spelled(found)]
    return words or ["-"] * ("-" in text)  # a dash parts words, but alone it is a minus


def _part(character: str) -> str:
    """A character as words have it: itself, or a space for what parts them."""
    kind = unicodedata.category(character)
    if character in _MEANT:
        return character
    if kind == "Pd":
        return "-"
    if kind[0] in "PZC" or character in _MERE_MARKS:
        return " "
    return f" {character} " if kind[0] == "S" else character


def _spelled(word: str) -> list[str]:
    """A word with its numbers in one spelling, and parted from a unit: "03.50mm" -> 3.5, mm."""
    if word.isalpha():
        return [word]
    word = _PLUS.sub("", _NUMBER.sub(_value, word))
    parted = _WITH_UNIT.fullmatch(word)
    return [parted[1], parted[2]] if parted and parted[2] in _UNITS else [word]


def _value(number: re.Match) -> str:
    whole, decimals = number[1].lstrip("0") or "0", (number[2] or "").rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


def contradict(words: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether two texts, as `answer_words` gives them, can't both be true in part.

    They name other numbers, or one denies and the other does not.
    """
    return denies(words) != denies(expected) or other_numbers(words, expected)


def other_numbers(words: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether both texts name numbers, but not one of the same value and unit."""
    ours, theirs = _quantities(words), _quantities(expected)
    return bool(ours and theirs) and not any(
        units & theirs[number] or "" in units | theirs[number]
        for number, units in ours.items()
        if number in theirs
    )


def denies(words: Sequence[str]) -> bool:
    """Whether a text, as `answer_words` gives it, says no, not, never, isn't or the like."""
    if not _NEGATIONS.isdisjoint(words):
        return True
    pairs = zip(words, words[1:], strict=False)
    return any(after == "t" and before.endswith("n") for before, after in pairs)  # isn't


def _quantities(words: Sequence[str]) -> dict[str, set[str]]:
    """Each word that holds a digit, with the units that follow it; "" for none."""
    found: dict[str, set[str]] = {}
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if any(character.isdecimal() for character in word):
            unit = after if after.partition("^")[0] in _UNITS else ""  # mm, mm^2
            found.setdefault(word, set()).add(unit)
    return found
