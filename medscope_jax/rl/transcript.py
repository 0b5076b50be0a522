"""Reading a transcript: its elements, and the one that is the answer. Linear time on any text."""

from collections.abc import Iterator

TOOL_RESPONSE = "<tool_response>"


def elements(text: str, name: str) -> Iterator[str]:
    """What stands in each complete <name>...</name> of a text, in order.

        elements("<think>a</think> b <think>c", "think") -> "a"

    An element begins at the first opening tag and ends at the next closing one.
    """
    opening, closing = f"<{name}>", f"</{name}>"
    end = 0
    while (start := text.find(opening, end)) >= 0:
        start += len(opening)
        end = text.find(closing, start)
        if end < 0:  # no later one is closed either
            return
        yield text[start:end]
        end += len(closing)


def extract_answer(text: str) -> str | None:
    """What a transcript ends with: its last complete <answer>...</answer>, stripped, or None.

    Only what follows the last </think> counts: an answer that the thinking quotes is none.

        "<think>Not <answer>a</answer>.</think><answer>b</answer>" -> "b"
    """
    said = text[text.rfind("</think>") + 1 :]
    closed = said.rfind("</answer>")
    start = said.rfind("<answer>", 0, max(closed, 0))
    if start < 0:
        return None
    start += len("<answer>")
    return said[start : said.find("</answer>", start)].strip()
