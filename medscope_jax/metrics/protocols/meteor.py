"""METEOR 1.5 by the Java program that pycocoevalcap brings, with its settings for English.

    SCORE ||| the reference ||| the answer   ->  23 counts
    EVAL ||| counts of a question ||| ...    ->  a score for each, and one of all

Its counts add up over questions, and its score is of the sums. pycocoevalcap's own Python talks to
the program line by line and waits for ever where an answer has a line break; here it is started,
given everything, and read to its end.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medscope_jax.errors import UserError

_COMMAND = ("-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm")
_BREAK = re.compile(r"[\r\n]+")
# Of the counts: words of the answer and of the reference, runs of matches, matched words of each.
_COUNTS, _WORDS, _RUNS, _MATCHED = 23, slice(0, 2), 20, slice(21, 23)
# It reads its tables in some seconds, and then scores hundreds of answers a second.
_START_S, _LINE_S = 300.0, 1.0


def meteor_rows(answers: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """METEOR's counts of each question, [questions, 23].

    Where an answer is its reference, the one run that it is counts as none: so the program adds.

    Raises:
      UserError: Java or the program can't be used, says why in one line.
    """
    lines = [
        f"SCORE ||| {_cleaned(reference)} ||| {_cleaned(answer)}"
        for answer, reference in zip(answers, references, strict=True)
    ]
    rows = np.array([line.split() for line in _ask(lines)], float).reshape(-1, _COUNTS)
    same = (rows[:, _WORDS] == rows[:, _MATCHED]).all(axis=1) & (rows[:, _RUNS] == 1)
    rows[same, _RUNS] = 0
    return rows


def meteor_scores(sums: np.ndarray) -> np.ndarray:
    """METEOR of sums of counts, [draws, 23] -> [draws]."""
    lines = ["EVAL ||| " + " ".join(str(count) for count in row) for row in sums.tolist()]
    # Each line has one question, and so the same score twice: its own, and that of all.
    return np.array(_ask(lines, replies=2)[::2], float)


def _cleaned(text: str) -> str:
    """A text as one field of a line."""
    return _BREAK.sub(" ", text.replace("|||", "")).strip()


def _ask(lines: Sequence[str], replies: int = 1) -> list[str]:
    """What the program replies to lines, `replies` lines to each."""
    java, folder = _java(), _folder()
    if not lines:
        return []
    limit_s = _START_S + _LINE_S * len(lines)
    try:
        done = subprocess.run(
            [java, "-Dfile.encoding=UTF-8", *_COMMAND],
            cwd=folder,
            input="".join(f"{line}\n" for line in lines).encode(errors="replace"),
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"METEOR's Java program took more than {limit_s:g} s") from None
    found = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or len(found) != replies * len(lines):
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(
            f"METEOR's Java program ended with status {done.returncode} after {len(found)} of "
            f"{replies * len(lines)} replies: {words[-1] if words else 'it says nothing'}"
        )
    return found


def _java() -> str:
    """The java to run: JAVA_HOME's, or the first on the PATH that runs."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=os.path.join(home, "bin")) if home else None
    java = found or shutil.which("java")
    # macOS has a java that only says that there is none.
    if java and not subprocess.run([java, "-version"], capture_output=True, check=False).returncode:
        return java
    raise UserError(
        "METEOR needs Java, and there is none: install a Java runtime, or set JAVA_HOME"
    )


def _folder() -> Path:
    """Where pycocoevalcap keeps the program."""
    found = importlib.util.find_spec("pycocoevalcap")
    for place in (found and found.submodule_search_locations) or ():
        folder = Path(place) / "meteor"
        if (folder / "meteor-1.5.jar").is_file():
            return folder
    raise UserError(
        "METEOR needs pycocoevalcap, which is not installed: python -m pip install pycocoevalcap"
    )
