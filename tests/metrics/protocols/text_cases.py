"""Pairs of an answer and its reference as models write them, from a fixed seed."""

import random

WORDS = """
    the surgeon Surgeon's cuts cutting cut tissue, tissue scissors forceps (monopolar) places placed
    a clip clips on cystic duct; Größe Ångström coagulation 3.5 mm 50% T-tube 手术 開始 naïve œdème
    lens is inserted into eye then before after . . , ! visible
"""


def random_pairs(count=200, seed=0):
    """(answers, references): answers near their references, far from them, and some of one word."""
    draw, words = random.Random(seed), WORDS.split()
    answers, references = [], []
    for _ in range(count):
        reference = draw.choices(words, k=draw.randint(1, 40))
        answer = [word if draw.random() < 0.8 else draw.choice(words) for word in reference]
        answer = answer[: draw.randint(1, len(answer))] if draw.random() < 0.5 else answer
        if draw.random() < 0.2:
            answer = draw.choices(words, k=draw.randint(1, 40))
        # Some word that is no point: rouge refuses a text of points alone.
        answers.append(" ".join(["we", *answer]))
        references.append(" ".join(["see", *reference]))
    return answers, references
