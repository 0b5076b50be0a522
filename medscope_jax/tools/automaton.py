"""The JSON automaton as tables: what each byte does in each state.

`TRANSITIONS[state, byte]` is one int32: the next state in its low bits, then a payload, then flags
that tell the interpreter's step what to do. Everything that depends on the byte alone is here;
the step adds what depends on the stack. Built once, on the host, from the grammar that `json.loads`
accepts (RFC 8259, plus NaN, Infinity and -Infinity), over UTF-8.

    byte    {        "         name       "          :        "  ...
    state   VALUE -> KEY_OR_END -> STRING -> STRING -> COLON -> VALUE -> ...
    flags   PUSH     BEGIN     FEED       KEY_END             BEGIN
"""

import numpy as np

# States. Strings have 13 states, once for keys and once for values; numbers 8; literals a state for
# each character still expected. State 0 is the sink that no byte leaves.
ERROR, VALUE, VALUE_OR_END, KEY_OR_END, KEY, COLON, AFTER = range(7)
_KEY_STRING, _VALUE_STRING = 7, 20
_TEXT, _ESCAPE, _HEX, _TAIL, _E0, _ED, _F0, _F4 = 0, 1, 2, 6, 9, 10, 11, 12
_MINUS, _ZERO, _INTEGER, _POINT, _FRACTION, _EXPONENT, _SIGN, _POWER = range(33, 41)
_LITERALS = 41
NUM_STATES = 64

STATE_BITS = 6
PAYLOAD_SHIFT, PAYLOAD_MASK = 6, 0xFF
FEED = 1 << 14  # payload is the next character of the string (128: anything beyond ASCII)
HEX = 1 << 15  # payload is a digit of a \u escape
HEX_END = 1 << 16  # it was the fourth: the code unit is the next character
BEGIN_STRING = 1 << 17
BEGIN_VALUE = 1 << 18  # first byte of a value
PUSH = 1 << 19  # a container opens
POP = 1 << 20  # a container closes
OBJECT = 1 << 21  # ... and it is an object
COMMA = 1 << 22  # next is a key or a value, as the container says
KEY_END = 1 << 23  # the quote that closes a key
TEXT_END = 1 << 24  # the quote that closes a string value

BEYOND_ASCII = 128
WHITESPACE = b" \t\n\r"
_DIGITS = b"0123456789"
_ESCAPES = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))

# Words that the call's keys and name are compared with; a word's node in WORDS is its number here.
WORD_NAME, WORD_ARGUMENTS, WORD_START, WORD_END, WORD_TIMESTAMP, WORD_CROP, WORD_FRAME = range(1, 8)
_WORDS = (
    b"name",
    b"arguments",
    b"start_time",
    b"end_time",
    b"timestamp",
    b"crop_video",
    b"get_frame",
)
NO_WORD = 8  # the trie's sink


def _transitions() -> np.ndarray:
    table = np.zeros((NUM_STATES, 256), np.int32)

    def put(state: int, chars: bytes, target: int, flags: int = 0, payload: int = 0):
        for char in chars:
            table[state, char] = target | flags | (payload << PAYLOAD_SHIFT)

    for state in (VALUE, VALUE_OR_END, KEY_OR_END, KEY, COLON, AFTER):
        put(state, WHITESPACE, state)
    put(AFTER, b",", VALUE, COMMA)
    put(AFTER, b"}", AFTER, POP | OBJECT)
    put(AFTER, b"]", AFTER, POP)
    put(KEY, b'"', _KEY_STRING, BEGIN_STRING)
    put(KEY_OR_END, b'"', _KEY_STRING, BEGIN_STRING)
    put(KEY_OR_END, b"}", AFTER, POP | OBJECT)
    put(COLON, b":", VALUE)

    put(VALUE, b"{", KEY_OR_END, BEGIN_VALUE | PUSH | OBJECT)
    put(VALUE, b"[", VALUE_OR_END, BEGIN_VALUE | PUSH)
    put(VALUE, b'"', _VALUE_STRING, BEGIN_VALUE | BEGIN_STRING)
    put(VALUE, b"-", _MINUS, BEGIN_VALUE)
    put(VALUE, b"0", _ZERO, BEGIN_VALUE)
    put(VALUE, b"123456789", _INTEGER, BEGIN_VALUE)
    free = _LITERALS
    for literal in (b"true", b"false", b"null", b"NaN", b"Infinity"):
        put(VALUE, literal[:1], free, BEGIN_VALUE)
        if literal == b"Infinity":
            put(_MINUS, b"I", free)
        for char in literal[1:]:
            put(free, bytes([char]), free + 1)
            free += 1
        table[free - 1, literal[-1]] = AFTER
    table[VALUE_OR_END] = table[VALUE]
    put(VALUE_OR_END, b"]", AFTER, POP)

    # A number has no closing byte: whatever may follow a value acts as it would after one.
    for state in (_ZERO, _INTEGER, _FRACTION, _POWER):
        put(state, WHITESPACE, AFTER)
        for char in b",]}":
            table[state, char] = table[AFTER, char]
    put(_MINUS, b"0", _ZERO)
    put(_MINUS, b"123456789", _INTEGER)
    put(_INTEGER, _DIGITS, _INTEGER)
    put(_POINT, _DIGITS, _FRACTION)
    put(_FRACTION, _DIGITS, _FRACTION)
    for state in (_ZERO, _INTEGER):
        put(state, b".", _POINT)
    for state in (_ZERO, _INTEGER, _FRACTION):
        put(state, b"eE", _EXPONENT)
    put(_EXPONENT, b"+-", _SIGN)
    for state in (_EXPONENT, _SIGN, _POWER):
        put(state, _DIGITS, _POWER)

    for base, after, end in ((_KEY_STRING, COLON, KEY_END), (_VALUE_STRING, AFTER, TEXT_END)):
        text = base + _TEXT
        for char in range(0x20, 0x80):
            put(text, bytes([char]), text, FEED, char)
        put(text, b'"', after, end)
        put(text, b"\\", base + _ESCAPE)
        for char, meant in _ESCAPES.items():
            put(base + _ESCAPE, bytes([char]), text, FEED, meant)
        put(base + _ESCAPE, b"u", base + _HEX)
        for digit in range(4):
            target, flags = (text, HEX | HEX_END) if digit == 3 else (base + _HEX + digit + 1, HEX)
            for char in b"0123456789abcdefABCDEF":
                put(base + _HEX + digit, bytes([char]), target, flags, int(chr(char), 16))
        # UTF-8: shortest forms only, no surrogates, nothing beyond U+10FFFF.
        tail1, tail2, tail3 = (base + _TAIL + i for i in range(3))
        leads = (
            (range(0xC2, 0xE0), tail1),
            (range(0xE1, 0xF0), tail2),
            (range(0xF1, 0xF4), tail3),
            ([0xE0], base + _E0),
            ([0xED], base + _ED),
            ([0xF0], base + _F0),
            ([0xF4], base + _F4),
        )
        for chars, target in leads:
            put(text, bytes(chars), target, FEED, BEYOND_ASCII)
        put(tail1, bytes(range(0x80, 0xC0)), text)
        put(tail2, bytes(range(0x80, 0xC0)), tail1)
        put(tail3, bytes(range(0x80, 0xC0)), tail2)
        put(base + _E0, bytes(range(0xA0, 0xC0)), tail1)
        put(base + _ED, bytes(range(0x80, 0xA0)), tail1)
        put(base + _F0, bytes(range(0x90, 0xC0)), tail2)
        put(base + _F4, bytes(range(0x80, 0x90)), tail2)
    return table


def _words() -> np.ndarray:
    """Trie over `_WORDS`: [nodes, 129] next node. Root 0, a finished word's node is its number."""
    nodes = {b"": 0} | {word: number for number, word in enumerate(_WORDS, 1)}
    for word in _WORDS:
        for length in range(1, len(word)):
            nodes.setdefault(word[:length], len(nodes) + 1)  # + 1: NO_WORD is taken
    table = np.full((len(nodes) + 1, BEYOND_ASCII + 1), NO_WORD, np.int32)
    for prefix, node in nodes.items():
        if prefix:
            table[nodes[prefix[:-1]], prefix[-1]] = node
    return table


TRANSITIONS = _transitions()
WORDS = _words()
