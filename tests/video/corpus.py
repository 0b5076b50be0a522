"""All recordings of the corpus, made when they are asked for; see corpus_case.Case."""

from tests.video import (
    corpus_clocks,
    corpus_codecs,
    corpus_interlaced,
    corpus_lenient,
    corpus_looks,
    corpus_streams,
)

CASES = [
    *corpus_codecs.CASES,
    *corpus_interlaced.CASES,
    *corpus_clocks.CASES,
    *corpus_streams.CASES,
    *corpus_lenient.CASES,
    *corpus_looks.CASES,
]
