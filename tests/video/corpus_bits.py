"""Bits one after the other, as video standards write them."""


class Bits:
    """A bit string that grows: fixed lengths, Exp-Golomb codes (H.264's ue) and code words."""

    def __init__(self):
        self._text: list[str] = []
        self._length = 0

    def put(self, value: int, width: int) -> "Bits":
        """`value` in `width` bits, most significant first."""
        return self.code(format(value, f"0{width}b") if width else "")

    def code(self, word: str) -> "Bits":
        """A code word of a table, as zeros and ones."""
        self._text.append(word)
        self._length += len(word)
        return self

    def ue(self, *values: int) -> "Bits":
        """Exp-Golomb codes: 0 -> 1, 1 -> 010, 2 -> 011, 3 -> 00100."""
        for value in values:
            width = (value + 1).bit_length()
            self.put(value + 1, 2 * width - 1)
        return self

    def align(self, bit: str = "0") -> "Bits":
        """Fills the last byte."""
        return self.code(bit * (-self._length % 8))

    def octets(self, data: bytes) -> "Bits":
        """Whole bytes; only where the last one is full."""
        return self.code("".join(f"{byte:08b}" for byte in data))

    def close(self) -> bytes:
        """The bytes so far, the last one filled with zeros."""
        text = "".join(self.align()._text)
        return int(text, 2).to_bytes(len(text) // 8, "big") if text else b""
