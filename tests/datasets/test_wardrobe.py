"""Wardrobe: what is drawn and said, and that nothing that is found was trained on."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import open_clip
import pytest
import torch

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.training import tiny_clip
from cirbench.datasets.embedded.drawing import make_thumbnail
from cirbench.datasets.embedded.pack import Pack
from cirbench.datasets.wardrobe import build, people, pictures
from cirbench.datasets.wardrobe.captions import (
    MEDIA,
    WardrobeLessons,
    draw_lesson,
    write_sentences,
)
from cirbench.datasets.wardrobe.pictures import (
    PACK,
    TRIPLETS,
    read_pictures,
    read_training_pictures,
    read_triplets,
)
from cirbench.datasets.wardrobe.task import CLIP4CIR, PIC2WORD, Wardrobe

SPLITS = {"test": 60, "val": 25}
"""Families a style."""


def load(split, protocol=PIC2WORD):
    return Wardrobe().load(protocol=protocol, split=split, data_root=None)


@pytest.fixture(scope="module")
def contents():
    return [PACK.read_bytes(p.index) for p in read_pictures()]


@pytest.fixture(scope="module")
def lessons():
    batches = WardrobeLessons().draw_batches(np.random.default_rng(5))
    return [lesson for batch in islice(batches, 20) for lesson in batch]


def test_each_row_is_its_picture_and_no_two_pictures_are_one(contents):
    assert [hashlib.sha256(c).hexdigest() for c in contents] == [p.sha256 for p in read_pictures()]
    assert len(set(contents)) == len(contents) == 3 * 255 * 8


@pytest.mark.parametrize(("split", "families"), SPLITS.items())
def test_each_style_has_a_gallery_of_its_own(split, families):
    data = load(split)
    assert data.groups == tuple(data.spans) == ("toon", "bighead", "persona")
    for style, span in data.spans.items():
        chosen = [p.id for p in read_pictures() if (p.style, p.split) == (style, split)]
        assert [data.gallery[row].id for row in span] == chosen
        assert len(span) == 8 * families
        assert data.query_counts[style] == 4 * families


@pytest.mark.parametrize("split", SPLITS)
def test_a_query_asks_for_another_of_its_family_and_its_reference_stays(split):
    data = load(split)
    known = {p.id: p for p in read_pictures()}
    references = Counter(query.reference.id for query in data.queries)
    assert set(references.values()) == {1}
    for query in data.queries:
        [row] = query.positives
        reference, target = known[query.reference.id], known[data.gallery[row].id]
        assert query.removed is None
        assert row in data.spans[query.group]
        assert (reference.style, reference.family) == (target.style, target.family)
        assert reference.member != target.member
        assert reference.ref in data.gallery


def test_the_protocols_differ_in_the_text_of_plain_encoders_alone():
    fields = {"first": "is red", "second": "has a bun"}
    texts = {
        (protocol.name, family): protocol.text(family, "toon", fields)
        for protocol in (PIC2WORD, CLIP4CIR)
        for family in protocol.templates
    }
    assert texts == {
        ("pic2word", "text"): "a photo of * , has a bun and is red",
        ("pic2word", "pseudo-word"): "a photo of * , has a bun and is red",
        ("pic2word", "caption"): "is red and has a bun",
        ("clip4cir", "text"): "is red and has a bun",
        ("clip4cir", "pseudo-word"): "a photo of * , has a bun and is red",
    }
    same = [(d.gallery, d.queries, d.spans) for d in (load("val"), load("val", CLIP4CIR))]
    assert same[0] == same[1]
    assert next(iter(Wardrobe().protocols)) == "pic2word"


def test_no_training_sees_a_held_out_picture_or_family():
    held_out = [p for p in read_pictures() if p.split != "train"]
    trained = read_training_pictures()
    assert len(held_out) == 3 * 85 * 8
    assert len(trained) == 3 * 170 * 8
    assert not {p.sha256 for p in held_out} & {p.sha256 for p in trained}
    families = [{(p.style, p.family) for p in some} for some in (held_out, trained)]
    assert not families[0] & families[1]
    ids = {p.id for p in trained}
    assert {ref.id for ref in Wardrobe().training_images(data_root=None)} == ids
    triplets = Wardrobe().triplets(data_root=None)
    assert len(triplets) == 3 * 170 * 16
    assert {ref.id for t in triplets for ref in (t.reference, t.target)} <= ids


def test_lessons_show_training_pictures_alone(lessons):
    assert {lesson.picture.id for lesson in lessons} <= {p.id for p in read_training_pictures()}


def test_nobody_looks_like_anybody_of_another_family_also_but_for_one_thing():
    owners = defaultdict(set)
    for p in read_pictures():
        look = frozenset(p.person.items())
        for part in [look, *(look - {item} for item in look)]:
            owners[p.style, part].add(p.family)
    assert max(map(len, owners.values())) == 1


def test_all_looks_of_a_family_differ():
    looks = [(p.style, frozenset(p.person.items())) for p in read_pictures()]
    assert len(set(looks)) == len(looks)


def test_no_training_picture_is_nearly_a_held_out_one(contents):
    thumbnails = torch.from_numpy(np.stack([make_thumbnail(content) for content in contents]))
    held = torch.tensor([p.held_out for p in read_pictures()])
    nearest = [
        torch.cdist(part, thumbnails[~held], p=1).amin() for part in thumbnails[held].split(200)
    ]
    assert min(nearest) / thumbnails.shape[1] >= 0.005


def find(value, text):
    """Whether the text has the words for this value; absence is "no" or "without"."""
    return re.search(r"\b(no|without)\b" if value == "none" else rf"\b{re.escape(value)}\b", text)


@pytest.mark.parametrize("split", ["train", *SPLITS])
def test_the_sentences_name_every_change_and_a_query_has_two_to_four(split):
    for triplet in read_triplets(split):
        before, after = triplet.reference.person, triplet.target.person
        changes = {name: value for name, value in after.items() if before.get(name) != value}
        said = " and ".join(triplet.sentences)
        assert 2 <= len(changes) <= 4
        assert all(find(value, said) for value in changes.values()), (changes, said)


def test_what_changes_but_can_not_be_seen_is_not_said():
    bald = {"cut": "bald", "garment": "singlet", "colour": "red", "beard": "none", "skin": "tan"}
    haired = {**bald, "cut": "bob", "hair": "pink"}
    rng = np.random.default_rng(0)
    assert "hair" not in " ".join(write_sentences(haired, bald, rng))
    assert "pink" in " ".join(write_sentences(bald, haired, rng))


@pytest.mark.parametrize(
    ("style", "person", "hidden"),
    [
        ("bighead", {"cut": "short", "hair": "pink", "hat": "red beanie"}, {"cut", "hair"}),
        ("bighead", {"cut": "long", "hair": "pink", "hat": "red beanie"}, set()),
        ("persona", {"cut": "cap", "hair": "pink", "beard": "none"}, {"hair"}),
        ("persona", {"cut": "bob", "beard": "full beard", "mood": "smiling"}, {"mood"}),
        ("toon", {"cut": "bun", "beard": "full beard", "mood": "smiling"}, set()),
    ],
)
def test_what_a_drawing_hides_is_not_in_its_row(style, person, hidden):
    assert people.see(style, person) == {n: v for n, v in person.items() if n not in hidden}
    rows = [p.person for p in read_pictures() if p.style == style]
    assert all(dict(people.see(style, row)) == dict(row) for row in rows)


def test_a_hat_that_is_not_drawn_is_none():
    assert people.see("bighead", {"cut": "afro", "hat": "red beanie"})["hat"] == "none"


def test_the_tables_are_a_function_of_the_seed():
    rng = np.random.default_rng(build.SEED)
    members = list(build.draw_members(rng))
    with (PACK.folder / "pictures.csv").open(newline="", encoding="utf-8") as file:
        rows = [{n: v for n, v in row.items() if n != "sha256"} for row in csv.DictReader(file)]
    assert [build.make_row(member) for member in members] == rows
    families = [members[i : i + 8] for i in range(0, len(members), 8)]
    drawn = [list(row) for family in families for row in build.draw_triplets(family, rng)]
    with (PACK.folder / TRIPLETS).open(newline="", encoding="utf-8") as file:
        assert [["reference", "target", "first", "second"], *drawn] == list(csv.reader(file))


def test_a_caption_is_true_of_its_picture_and_of_all_that_show_the_same(lessons):
    for lesson in lessons:
        assert lesson.said.items() <= lesson.shows.items()
    batch = lessons[:129]
    also_true = tiny_clip.mark_also_true(batch)
    for row, lesson in zip(also_true.tolist(), batch, strict=True):
        for other, ignored in zip(batch, row, strict=True):
            assert ignored == (other is not lesson and lesson.said.items() <= other.shows.items())


def test_a_caption_says_what_it_is_said_to_say(lessons):
    for lesson in lessons:
        for name, value in lesson.said.items():
            words = MEDIA[value] if name == "style" else (value,)
            assert any(find(word, lesson.text) for word in words), lesson


def test_a_batch_holds_three_of_each_of_43_families(lessons):
    batch = lessons[:129]
    families = Counter(lesson.picture.id.rpartition("-")[0] for lesson in batch)
    assert set(families.values()) == {3}
    assert len(families) == 43
    assert len({lesson.picture.id for lesson in batch}) == 129


def test_the_generator_decides_the_lessons():
    one, same, other = (
        [lesson.text for lesson in next(WardrobeLessons().draw_batches(np.random.default_rng(s)))]
        for s in (0, 0, 1)
    )
    assert one == same != other


def test_no_caption_or_prompt_is_longer_than_what_the_positions_are_trained_for():
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    rng = np.random.default_rng(8)
    texts = [draw_lesson(picture, rng).text for picture in read_training_pictures()]
    for split in ("train", *SPLITS):
        for triplet in read_triplets(split):
            fields = dict(zip(("first", "second"), triplet.sentences, strict=True))
            texts.append(PIC2WORD.text("pseudo-word", "toon", fields))
    longest = max(len(tokenizer.encode(text)) for text in dict.fromkeys(texts))
    assert longest + 2 <= WardrobeLessons.recipe["context"]


def test_edits_are_taught_in_the_grammar_of_the_queries_and_name_no_triplet(lessons):
    edits = [
        lesson for lesson in lessons if re.search(r" , (is|has|wears|with|looks) ", lesson.text)
    ]
    assert len(edits) > len(lessons) / 5
    assert all(lesson.said for lesson in edits)


def test_triplets_of_another_pack_are_refused(tmp_path, monkeypatch):
    for name in ("pictures.csv", TRIPLETS):
        shutil.copy(PACK.folder / name, tmp_path)
    with (tmp_path / TRIPLETS).open("a", encoding="utf-8") as file:
        file.write("toon/999-0,toon/000-1,is red,has a bun\n")
    monkeypatch.setattr(pictures, "PACK", Pack(tmp_path))
    with pytest.raises(CorruptData, match=r"triplets\.csv and pictures\.csv must be of one pack"):
        load("val")
