"""Every word that a model is asked with.

A prompt has the system's words, the user's words before the frames and those after them. Names in
{braces} are filled with a Request's values. Each frame comes after its time, as "<87.0s>". Replies
are JSON objects, but for the teacher's turns, which have the form of dialogue.protocol.
"""

import dataclasses

from medscope_jax.dialogue import protocol


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The words of one kind of request; values are filled in by `str.format`."""

    system: str
    before: str
    after: str


_EXPERT = (
    "You annotate recordings of clinical procedures. Say only what the frames show; where they "
    "show too little, say less. Never name or guess at a person. Times are seconds from the "
    "recording's start. Reply with one JSON object and nothing else."
)
_ANSWERER = (
    "You answer a question about the recording of a clinical procedure, in as few words as do, in "
    'the manner of "two" or "on the left". A question for a time is answered by "[start, end]" '
    'in seconds. Reply with JSON only: {{"answer": "..."}}.'
)
_TEACHER = (
    "\n\nYou write a demonstration for a student, turn by turn, in English. A turn is one of\n"
    "<think>what you see and why you look there</think><tool_call>...</tool_call>\n"
    "<think>what you see</think><answer>...</answer>\n"
    "and nothing else. Look first at all of the stretch that may hold the answer, then closely at "
    "what matters: {max_calls} calls at most. Say in your thoughts only what the frames so far "
    "show, with their times. Answer in as few words as do; a question for a time is answered by "
    '"[start, end]" in seconds.'
)

PROMPTS = {
    "caption": Prompt(
        _EXPERT,
        "Frames of a clip from {start:.1f} s to {end:.1f} s:\n",
        "\nDescribe in time order what happens: instruments, anatomy, actions, findings, how many "
        "there are, their colour and side, and from when to when each can be seen. "
        'Reply {{"caption": "..."}}.',
    ),
    "merge": Prompt(
        _EXPERT,
        "Captions of clips of one recording that follow one another:\n{captions}\n",
        "Put clips together that show one and the same step or finding. Reply "
        '{{"events": [{{"first": 1, "last": 3, "caption": "..."}}, ...]}}: the numbers of an '
        "event's first and last clip, and a caption that keeps every detail and time. Events are "
        "in order and share no clip; leave out clips in which nothing happens.",
    ),
    "questions": Prompt(
        _EXPERT,
        "Frames of an event from {start:.1f} s to {end:.1f} s, described as: {caption}\n",
        "\nWrite at most {count} questions that can be answered only by looking at these very "
        "frames: not from the question's own words, not from general knowledge, not from the rest "
        'of the recording. Tasks: "vqa" (a detail in one or a few words), "perception" (yes or no, '
        'or a choice among options that the question names), "grounding" (when something happens; '
        "its answer is its evidence). Name no times in a question. The evidence is the shortest "
        "stretch of time, or the stretches, whose frames show the answer. Reply "
        '{{"questions": [{{"task": "vqa", "question": "...", "answer": "...", "reason": "one '
        'sentence saying what the evidence shows", "options": [], "evidence": [[12.0, 15.0]]}}, '
        "...]}}.",
    ),
    "blind": Prompt(
        _ANSWERER,
        "The recording lasts {duration:.1f} s. You cannot see it; give the likeliest answer.\n",
        "Question: {question}",
    ),
    "answer": Prompt(
        _ANSWERER,
        "Frames of a recording of {duration:.1f} s:\n",
        '\nIf they do not show the answer, answer "unknown". Question: {question}',
    ),
    "judge": Prompt("", "", ""),  # rl.endpoint has the judge's words
    "teach": Prompt(
        protocol.SYSTEM_WITH_TOOLS.replace("{", "{{").replace("}", "}}") + _TEACHER,
        "",
        "\n{question}\n" + protocol.INSTRUCTION_WITH_TOOLS + "\n\n(The recording lasts "
        "{duration:.1f} s. What answers the question is to be seen at {evidence}; the student is "
        "not told so, therefore never mention that you were.)",
    ),
    "think": Prompt(
        protocol.SYSTEM + "\n\nWrite one turn for a student: <think>what you see, with times"
        "</think><answer>...</answer> and nothing else. Answer in as few words as do.",
        "",
        "\n{question}\n" + protocol.INSTRUCTION,
    ),
}

# A demonstration that speaks of its own instructions is of no use to a student.
TELLTALE = r"\b(?:student|demonstration|hint|i (?:was|am|were) told|as instructed|evidence is at)\b"


def stamp(time: float) -> str:
    """A frame's time as prompts tell it: "<87.0s>"."""
    return f"<{time:.1f}s>"
