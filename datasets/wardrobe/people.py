"""People: what can be seen of them in each drawing style, and how they vary within a family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Person = Mapping[str, str]
"""Attribute → value. "none" is seen to be absent; what can't be seen is left out."""

_HATS = [
    f"{colour} {hat}"
    for hat in ("beanie", "turban")
    for colour in ("white", "blue", "black", "green", "red")
]

STYLES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "toon": {
        "garment": ["turtleneck", "jacket", "dress", "shirt", "t-shirt"],
        "colour": [
            *("gray", "red", "blue", "green", "yellow"),
            *("purple", "pink", "orange", "black", "white"),
        ],
        "length": ["short", "long straight", "long wavy", "shoulder-length"],
        "cut": ["side-combed", "undercut", "spiky", "bun"],
        "hair": ["black", "red", "blonde", "brown"],
        "beard": ["none"] * 3 + ["moustache", "full beard", "long beard"],
        "mood": ["laughing", "angry", "surprised", "smiling"],
        "skin": ["light", "tan", "dark"],
    },
    "bighead": {
        "garment": ["t-shirt", "dress shirt", "v-neck", "tank top", "dress"],
        "colour": ["white", "blue", "black", "green", "red"],
        "cut": ["long", "bun", "short", "pixie", "balding", "buzz", "afro", "bob"],
        "hair": ["blonde", "orange", "black", "white", "brown", "blue", "pink"],
        "beard": ["none"] * 3 + ["stubble", "full beard"],
        "glasses": ["none"] * 2 + ["round glasses", "small glasses", "sunglasses"],
        "hat": ["none"] * 15 + _HATS,
        "mood": ["grinning", "sad", "surprised", "serious", "cheeky"],
        "skin": ["light", "tan", "dark"],
    },
    "persona": {
        "garment": ["scarf top", "sweater", "singlet", "checkered shirt"],
        "colour": ["red", "purple", "blue", "green", "turquoise", "pink", "yellow"],
        "cut": [
            *("long", "side-shaved", "curly", "pigtails", "bob", "bald"),
            *("cap", "beanie", "mohawk", "fade", "bun"),
        ],
        "hair": ["black", "brown", "blonde", "orange", "gray", "pink"],
        "beard": ["none"] * 3 + ["walrus moustache", "goatee", "full beard"],
        "glasses": ["none"] * 2 + ["square glasses", "sunglasses"],
        "mood": ["smiling", "frowning", "surprised", "smirking"],
        "skin": ["light", "tan", "dark"],
    },
}
"""Style → attribute → its values; what stands there more often is drawn more often."""

ATTRIBUTES = tuple(dict.fromkeys(name for values in STYLES.values() for name in values))

FACES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "toon": {
        "eyes": ["happy", "wide", "bow", "humble", "wink"],
        "brows": ["raised", "happy", "neutral"],
    },
    "bighead": {
        "eyes": ["normal", "happy", "content", "squint", "simple", "wink"],
        "brows": ["raised", "leftLowered", "serious", "angry", "concerned"],
        "lashes": ["yes", "no"],
        "body": ["chest", "breasts"],
    },
    "persona": {
        "eyes": ["open", "happy", "wink", "sleep"],
        "nose": ["mediumRound", "smallRound", "wrinkles"],
    },
}
"""Style → what is drawn at random and never named, in the words of its package."""

MEMBERS = 8
"""People of a family."""
_MOST_VARIED = 3
_LIKELIER = {"garment": 3.0, "colour": 3.0}
"""How much more often than others an attribute varies."""


def draw(values: Mapping[str, Sequence[str]], rng: np.random.Generator) -> dict[str, str]:
    """One value of each."""
    return {name: str(rng.choice(known)) for name, known in values.items()}


def vary(style: str, person: Person, rng: np.random.Generator) -> Person:
    """The person with one to three attributes changed; never the skin."""
    names = [name for name in person if name != "skin"]
    weights = np.array([_LIKELIER.get(name, 1.0) for name in names])
    count = rng.integers(1, _MOST_VARIED + 1)
    chosen = rng.choice(names, size=count, replace=False, p=weights / weights.sum())
    others = {
        str(name): [value for value in STYLES[style][name] if value != person[name]]
        for name in chosen
    }
    return {**person, **draw(others, rng)}


def see(style: str, person: Person) -> Person:
    """What of a person can be seen in a drawing, found by drawing pairs that differ in one thing.

    A person of whom something is left out already stays so.
    """
    seen, hidden = dict(person), set()
    cut, hat = person.get("cut"), person.get("hat", "none")
    if style == "bighead" and cut in ("balding", "afro"):
        seen["hat"] = "none"  # not drawn over them
    elif hat != "none" and cut not in ("long", "bob"):
        hidden |= {"cut", "hair"}
    if style == "persona" and cut in ("bald", "cap", "beanie"):
        hidden.add("hair")
    if style == "persona" and person["beard"] == "full beard":
        hidden.add("mood")  # it has a mouth of its own
    return {name: value for name, value in seen.items() if name not in hidden}


def draw_family(style: str, rng: np.random.Generator) -> Sequence[Person]:
    """A person and variations of that person, of whom no two look alike.

    Whole people, with what can't be seen of them; `see` tells what can.
    """
    base = draw(STYLES[style], rng)
    family: list[Person] = [base]
    while len(family) < MEMBERS:
        person = vary(style, base, rng)
        if see(style, person) not in [see(style, member) for member in family]:
            family.append(person)
    return family


def draw_families(style: str, rng: np.random.Generator) -> Iterator[Sequence[Person]]:
    """Endless families; nobody looks like anybody of an earlier one, also but for one attribute."""
    known: set[frozenset[tuple[str, str]]] = set()
    while True:
        family = draw_family(style, rng)
        looks = [frozenset(see(style, person).items()) for person in family]
        parts = {look - {item} for look in looks for item in look}.union(looks)
        if not parts & known:
            known |= parts
            yield family


def list_changes(reference: Person, target: Person) -> list[str]:
    """What of a target is to be seen and is other than in the reference."""
    return [name for name, value in target.items() if reference.get(name) != value]
