"""What is said of people: the sentences of queries, and the captions that the tiny CLIP is taught.

Queries say how a target differs from its reference. A caption speaks of one picture; some, the
edit captions, speak of it in the grammar of the queries: "a photo of a model in a blue t-shirt , is
a red dress" of a red dress, which teaches that later words win. No caption comes from a triplet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from cirbench.benchmark.api.lessons import Lesson, Lessons
from cirbench.datasets.wardrobe.people import Person, list_changes, see, vary
from cirbench.datasets.wardrobe.pictures import WardrobePicture, read_training_pictures

MEDIA = {
    "toon": ("toon drawing", "toon"),
    "bighead": ("big head drawing", "big head"),
    "persona": ("persona drawing", "persona"),
}
"""Style → the phrases that fit "a {phrase} of {person}"; every style is "a photo" too."""

_CUTS = {
    "afro": "an afro",
    "bald": "a bald head",
    "balding": "a balding head",
    "beanie": "a beanie",
    "bob": "a bob",
    "bun": "a bun",
    "buzz": "a buzz cut",
    "cap": "a cap",
    "fade": "a fade",
    "mohawk": "a mohawk",
    "pigtails": "pigtails",
    "pixie": "a pixie cut",
    "undercut": "an undercut",
}
"""Cuts that are things; any other is a kind of hair."""
_PLURAL = ("glasses", "sunglasses", "stubble")

_TOGETHER = (("garment", "colour"), ("length", "hair"))
"""Said in one phrase where both have changed."""
_KINDS = {"edit": 0.30, "phrase": 0.315, "mixed": 0.175, "sentences": 0.14, "medium": 0.07}
_STYLE_SAID = 0.3
_PHRASE_SHARES = {
    "garment": 0.6,
    "colour": 0.6,
    "length": 0.5,
    "cut": 0.4,
    "hair": 0.5,
    "beard": 0.5,
    "glasses": 0.5,
    "hat": 0.5,
    "mood": 0.35,
    "skin": 0.25,
}
"""How often a phrase names each attribute."""
_MOST_NAMED = 3
"""Attributes in a phrase and sentences; more would be too long for the context."""
FAMILIES_PER_BATCH, MEMBERS_PER_FAMILY = 43, 3


def name_thing(value: str) -> str:
    """A thing with its article: "an orange dress", "sunglasses"."""
    if value.endswith(_PLURAL):
        return value
    return f"{'an' if value[0] in 'aeiou' else 'a'} {value}"


def name_cut(cut: str) -> str:
    """A cut as what a person has: "a bun", "spiky hair"."""
    return _CUTS.get(cut, f"{cut} hair")


def list_wordings(person: Person) -> Mapping[tuple[str, ...], Sequence[str]]:
    """Attributes → the ways in which an annotator says what they are here, two at least."""
    colour, garment = person["colour"], person["garment"]
    outfit = name_thing(f"{colour} {garment}")
    ways: dict[tuple[str, ...], Sequence[str]] = {
        ("garment", "colour"): [f"is {outfit}", f"wears {outfit}", f"has {outfit} on"],
        ("colour",): [f"is {colour}", f"is {colour} in color", f"has {colour} clothes"],
        ("garment",): [f"is {name_thing(garment)}", f"wears {name_thing(garment)}"],
        ("skin",): [f"has {person['skin']} skin", f"with {person['skin']} skin"],
    }
    if length := person.get("length"):
        long_hair = f"{length} {person['hair']} hair"
        ways["length",] = [f"has {length} hair", f"with {length} hair"]
        ways["length", "hair"] = [f"has {long_hair}", f"with {long_hair}"]
    if cut := person.get("cut"):
        ways["cut",] = [f"has {name_cut(cut)}", f"with {name_cut(cut)}"]
    if hair := person.get("hair"):
        ways["hair",] = [f"has {hair} hair", f"is {hair}-haired"]
    for thing in ("beard", "glasses", "hat"):
        if (value := person.get(thing)) == "none":
            ways[thing,] = [f"has no {thing}", f"is without {name_thing(thing)}"]
        elif value:
            ways[thing,] = [f"has {name_thing(value)}", f"with {name_thing(value)}"]
    if mood := person.get("mood"):
        ways["mood",] = [f"is {mood}", f"looks {mood}"]
    return ways


def write_sentences(reference: Person, target: Person, rng: np.random.Generator) -> tuple[str, str]:
    """Two annotators' sentences, which together name every change to the target."""
    ways = list_wordings(target)
    changes = list_changes(reference, target)
    phrases = [pair for pair in _TOGETHER if set(pair) <= set(changes)]
    alone = [(name,) for name in changes if name not in {n for pair in phrases for n in pair}]
    spoken = [ways[names] for names in (*phrases, *alone)]
    if len(spoken) == 1:  # the second annotator says the same in other words
        first, second = rng.choice(spoken[0], size=2, replace=False)
        return str(first), str(second)
    parts = [str(rng.choice(wordings)) for wordings in spoken]
    rng.shuffle(parts)
    half = (len(parts) + 1) // 2
    return " and ".join(parts[:half]), " and ".join(parts[half:])


def describe(person: Person, names: Sequence[str], rng: np.random.Generator) -> str:
    """A noun phrase that names these attributes: "a person with a bun in a red dress , smiling"."""
    said = {name: person[name] for name in names}
    skin = f"{said['skin']}-skinned " if "skin" in said else ""
    words = ["a", skin + str(rng.choice(["person", "person", "model"]))]
    cut, adjectives = said.get("cut", ""), [said[n] for n in ("length", "hair") if n in said]
    things = [_CUTS[cut]] if cut in _CUTS else []
    if cut and not things:
        adjectives.insert(-1 if "hair" in said else len(adjectives), cut)
    if adjectives:
        things.insert(0, " ".join([*adjectives, "hair"]))
    things += [name_thing(said[n]) for n in ("beard", "glasses", "hat") if n in said]
    if things:
        words += ["with", " and ".join(things)]
    if "garment" in said:
        words += ["in", name_thing(" ".join(said[n] for n in ("colour", "garment") if n in said))]
    elif "colour" in said:
        words += ["in", said["colour"]]
    if "mood" in said:
        words += [",", said["mood"]]
    return " ".join(words)


def choose_named(person: Person, most: int, rng: np.random.Generator) -> list[str]:
    """At most so many attributes for `describe`, at random; what is absent is not named."""
    chosen = [
        name
        for name, often in _PHRASE_SHARES.items()
        if person.get(name, "none") != "none" and rng.random() < often
    ]
    return [chosen[place] for place in rng.permutation(len(chosen))[:most]]


def choose_sentences(person: Person, most: int, rng: np.random.Generator) -> tuple[str, list[str]]:
    """What is said of a person, and the attributes it names: one to `most`, and one where two are
    said together."""
    ways = list_wordings(person)
    count = rng.integers(1, most + 1)
    parts: list[str] = []
    named: list[str] = []
    for place in rng.permutation(len(ways)):
        names = list(ways)[place]
        if len(named) < count and not set(names) & set(named):
            parts.append(str(rng.choice(ways[names])))
            named += names
    return " and ".join(parts), named


class WardrobeLessons(Lessons):
    """Every picture of the training families."""

    recipe: ClassVar[Mapping[str, Any]] = {"context": 32, "text_width": 64, "text_heads": 2}

    def draw_batches(self, rng: np.random.Generator) -> Iterator[Sequence[Lesson]]:
        """Some families of any style, some members of each, so that near pictures are negatives."""
        families: dict[tuple[str, str], list[WardrobePicture]] = {}
        for picture in read_training_pictures():
            families.setdefault((picture.style, picture.family), []).append(picture)
        members = list(families.values())
        while True:
            yield [
                draw_lesson(members[family][place], rng)
                for family in rng.choice(len(members), size=FAMILIES_PER_BATCH, replace=False)
                for place in rng.permutation(len(members[family]))[:MEMBERS_PER_FAMILY]
            ]


def draw_lesson(picture: WardrobePicture, rng: np.random.Generator) -> Lesson:
    """A picture with a random caption."""
    style, shows = picture.style, {**picture.person, "style": picture.style}
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    text, named = _WRITERS[kind](style, picture.person, rng)
    if kind != "sentences":
        phrase = "photo"
        if rng.random() < _STYLE_SAID:
            phrase, named = str(rng.choice(MEDIA[style])), [*named, "style"]
        text = f"a {phrase} of {text}" if text else f"a {phrase}"
    return Lesson(picture=picture.ref, shows=shows, text=text, said={n: shows[n] for n in named})


Said = tuple[str, list[str]]
"""A text, and the attributes in it that are true of the picture."""


def write_edit(style: str, person: Person, rng: np.random.Generator) -> Said:
    """Another person, made up, and how this one differs."""
    other = see(style, vary(style, person, rng))
    changes = list_changes(other, person)
    if not 0 < len(changes) <= _MOST_NAMED:  # what varied can't be seen, or uncovers a lot
        return write_phrase(style, person, rng)
    named = choose_named(other, _MOST_NAMED - max(len(changes), 2), rng)
    first, second = write_sentences(other, person, rng)
    kept = [name for name in named if other[name] == person.get(name)]
    return f"{describe(other, named, rng)} , {second} and {first}", [*kept, *changes]


def write_phrase(style: str, person: Person, rng: np.random.Generator) -> Said:
    """A noun phrase."""
    named = choose_named(person, 5, rng)
    return describe(person, named, rng), named


def write_mixed(style: str, person: Person, rng: np.random.Generator) -> Said:
    """A short noun phrase and sentences, as in a prompt: both speak of one picture."""
    sentences, more = choose_sentences(person, 2, rng)
    named = choose_named(person, _MOST_NAMED - len(more), rng)
    return f"{describe(person, named, rng)} , {sentences}", [*named, *more]


def write_sentences_alone(style: str, person: Person, rng: np.random.Generator) -> Said:
    """Sentences alone."""
    return choose_sentences(person, 3, rng)


def write_nothing(style: str, person: Person, rng: np.random.Generator) -> Said:
    """Nothing: the medium alone will be named."""
    return "", []


_WRITERS = {
    "edit": write_edit,
    "phrase": write_phrase,
    "mixed": write_mixed,
    "sentences": write_sentences_alone,
    "medium": write_nothing,
}
