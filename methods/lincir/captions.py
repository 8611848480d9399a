"""The self-masking of LinCIR's training: a caption, and what of it becomes the placeholder."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from cirbench.benchmark.runtime.errors import UsageError

Tagger = Callable[[str], Iterable[tuple[str, bool]]]
"""A caption → its words in order, and whether each may be part of what is masked."""
PLACEHOLDER = "*"
TAGGERS = ("spacy", "function-words")
_SPACY_MODEL = "en_core_web_sm"
_MASKED = frozenset({"NOUN", "PROPN", "ADJ", "DET"})

_WORDS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|\S")
_LIST = """
aboard about above across after again against almost along also although always am among and
are around as at away back be because been before behind being below beneath beside besides
between beyond but by can could despite did do does doing done down during even ever except
for from had has have having he her here hers herself him himself his how i if in inside
into is it its itself just like may me might mine must my myself near never nor not now of
off often on once one only onto or our ours ourselves out outside over past per quite rather
really shall she should since so still than that their theirs them themselves then there
they through throughout till to too toward towards under underneath unless until up upon us
very via was we well were what when where whereas whether which while who whom whose will
with within without would yet you your yours
"""
_FUNCTION_WORDS = frozenset(_LIST.split())


def clean(caption: str) -> str:
    """A caption as it is trained on: lower case, without placeholders of its own."""
    plain = re.sub(r"[$*]", "", caption.lower()).replace("<person>", "person")
    return " ".join(plain.split())


def mask(caption: str, tag: Tagger, rng: np.random.Generator) -> str:
    """Put the placeholder in place of each run of nouns, adjectives and determiners.

    As in the released code, what a run is spelled like is replaced everywhere, also within other
    words. Where no run is found as it is spelled, one random word is replaced; a caption without
    words becomes "a photo of *".
    """
    masked = caption
    for run in _join_runs(tag(caption)):
        masked = masked.replace(run, f" {PLACEHOLDER} ")
    if PLACEHOLDER not in masked and caption:
        words = caption.split()
        words[rng.integers(len(words))] = PLACEHOLDER
        masked = " ".join(words)
    return " ".join(masked.split()) or f"a photo of {PLACEHOLDER}"


def _join_runs(tagged: Iterable[tuple[str, bool]]) -> Iterator[str]:
    """Yield the longest runs of marked words, single spaces between them."""
    run: list[str] = []
    for word, marked in [*tagged, ("", False)]:
        if marked:
            run.append(word)
        elif run:
            yield " ".join(run)
            run = []


def find_tagger(name: str) -> Tagger:
    """How the words of captions are told apart.

    Args:
        name: "spacy", the paper's; or "function-words", which needs no model: all words but
            numbers and the prepositions, conjunctions, pronouns, auxiliaries and adverbs of a list
            are masked, verbs too.

    Raises:
        UsageError: no tagger has that name, or spaCy or its model is not there.
    """
    if name not in TAGGERS:
        raise UsageError(f"keywords must be {' or '.join(TAGGERS)}, got {name!r}")
    if name == "function-words":
        return _tag_by_list
    try:
        model = importlib.import_module("spacy").load(_SPACY_MODEL)
    except (ImportError, OSError) as error:
        raise UsageError(
            f"keywords=spacy needs spaCy and its model {_SPACY_MODEL} ({error}); pip install spacy "
            f"&& python -m spacy download {_SPACY_MODEL}, or take --keywords function-words"
        ) from error
    return lambda caption: ((token.text, token.pos_ in _MASKED) for token in model(caption))


def _tag_by_list(caption: str) -> Iterator[tuple[str, bool]]:
    for word in _WORDS.findall(caption):
        yield word, word[0].isalpha() and word not in _FUNCTION_WORDS
