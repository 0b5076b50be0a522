"""Text of others, shown: nothing in it stays unseen, moves other text or commands a terminal.

A name, a question, an answer or another program's message may hold characters that draw nothing
(zero width, tags, fillers), that turn the order of what stands around them, or that a terminal
obeys. Each is written out as <U+202E>, and a byte of a name that is no UTF-8 as <byte E9>. Files of
values (JSON) keep the text as it is.

What writing needs stays: letters of every script, spaces, combining marks, and of the unseen
characters those that do their usual work at their usual place:

- joiners (U+200C, U+200D) between letters of Arabic script, as Persian needs them, and beside the
  virama of an Indic script; U+200D between emoji
- one variation selector after a symbol or an ideograph; the tags of the three flags that have them
- U+200B between letters of Thai, Lao, Burmese or Khmer, which write no spaces

Marks of direction (U+200E, U+202E, U+2066 ...) are always written out: what is read here is read by
itself, in an element or on a line of its own, and needs none.
"""

import re
import unicodedata

_LONGEST_WORD = 240  # characters of a name or path that are shown whole
_LONGEST_LINE = 2000
# Control, format, half of a pair, private use (nobody knows what it draws), line and paragraph.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
# Drawn, though Unicode calls them format characters: signs above or around numbers and names.
_DRAWN = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]")
# Letters, marks and symbols that draw nothing; what Unicode sets aside for more of them.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\ufff0-\ufff8\ufffe\uffff\U00016fe4\U0001d159\U000e0000-\U000e0fff]"
)
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_VIRAMA = 9  # its combining class
_BLACK_FLAG = "\U0001f3f4"
_FLAGS = {
    _BLACK_FLAG + "".join(chr(0xE0000 + ord(letter)) for letter in place) + "\U000e007f"
    for place in ("gbeng", "gbsct", "gbwls")
}


def visible(text: str, keep: str = "") -> str:
    """The text with all that would not be seen written out, but for the characters in `keep`.

    "a\\u202eb" -> "a<U+202E>b"; the whole of an ordinary text is returned as it is.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in keep or not _is_unseen(character) or _has_work(text, index)
        else _written_out(character)
        for index, character in enumerate(text)
    )


def shown(text: object) -> str:
    """One line of bounded length for a terminal: a path, a name, a message that holds some."""
    line = re.sub(
        rf"\S{{{_LONGEST_WORD + 1},}}",
        lambda word: _middle_out(word[0], _LONGEST_WORD),
        visible(_middle_out(str(text), 5 * _LONGEST_LINE)),
    )
    return _middle_out(line, _LONGEST_LINE)


def _middle_out(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    gap = f"...({len(text)} characters)..."
    half = (longest - len(gap)) // 2
    return text[:half] + gap + text[-half:]


def _written_out(character: str) -> str:
    code = ord(character)
    # How Python holds the bytes of a name that is no UTF-8.
    return f"<byte {code - 0xDC00:02X}>" if 0xDC80 <= code <= 0xDCFF else f"<U+{code:04X}>"


def _is_unseen(character: str) -> bool:
    if _BLANK.match(character):
        return True
    return unicodedata.category(character) in _UNSEEN and not _DRAWN.match(character)


def _has_work(text: str, index: int) -> bool:
    """Whether the unseen character at the index is one that writing needs there."""
    character, before, after = text[index], text[index - 1 : index], text[index + 1 : index + 2]
    if character in "\u200c\u200d":
        return _joins(text, index, before, after)
    if character == "\u200b":
        return bool(_UNSPACED.match(before) and _UNSPACED.match(after))
    if character in "\ufe0e\ufe0f":
        return _is_symbol(before) or (after == "\u20e3" and before in "0123456789#*")
    if "\ufe00" <= character <= "\ufe02" or "\U000e0100" <= character <= "\U000e01ef":
        return bool(_IDEOGRAPH.match(before))
    if "\U000e0020" <= character <= "\U000e007f":
        flag = text.rfind(_BLACK_FLAG, max(0, index - 6), index)
        return flag >= 0 and text[flag : flag + 7] in _FLAGS
    return False


def _joins(text: str, index: int, before: str, after: str) -> bool:
    if any(part and unicodedata.combining(part) == _VIRAMA for part in (before, after)):
        return True
    if not before or not after:
        return False
    letter = index - 1  # vowel marks stand between a letter and its joiner
    while (
        letter > 0 and unicodedata.category(text[letter]) == "Mn" and not _BLANK.match(text[letter])
    ):
        letter -= 1
    if unicodedata.bidirectional(text[letter]) == unicodedata.bidirectional(after) == "AL":
        return True
    shade = before == "\ufe0f" or "\U0001f3fb" <= before <= "\U0001f3ff"
    emoji = text[max(0, index - 2) : index - 1] if shade else before
    return text[index] == "\u200d" and _is_symbol(emoji) and _is_symbol(after)


def _is_symbol(character: str) -> bool:
    """Whether it may be an emoji: a symbol, or one of the few signs that have that form too."""
    return bool(character) and (
        unicodedata.category(character) in ("So", "Sm") or character in "\u203c\u2049\u2139\u3030"
    )
