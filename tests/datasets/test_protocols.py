"""Protocols of all tasks: a record is held to a hash, so none may move."""

from __future__ import annotations

from cirbench.benchmark.api.registry import find_task, tasks

HASHES = {
    ("emoji", "emoji"): "6d247013dd41",
    ("wardrobe", "pic2word"): "4d827b009de6",
    ("wardrobe", "clip4cir"): "71ef70c55bca",
    ("kin", "pic2word"): "fb09e7362a0c",
    ("scenes", "others"): "0e00a1a0d1e4",
    ("scenes", "pic2word"): "6d879b6832fe",
    ("cirr", "pic2word"): "c42e26541513",
    ("cirr", "clip4cir"): "2f40391a083f",
    ("cirr", "searle"): "53bddb056b75",
    ("cirr", "lincir"): "e0785087fd79",
    ("cirr", "context-i2w"): "88432f40bc12",
    ("cirr", "soft"): "f3abc75b2842",
    ("circo", "searle"): "5392d16f43dd",
    ("circo", "lincir"): "c919649ab3db",
    ("circo", "concept"): "8edd22a83b0e",
    ("coco", "pic2word"): "e56f54cd3467",
    ("coco", "context-i2w"): "68cfa5696a9e",
    ("fashion-iq", "pic2word"): "c28c629a3745",
    ("fashion-iq", "clip4cir"): "e4efe239e436",
    ("fashion-iq", "val"): "d07ff62e3aab",
    ("fashion-iq", "searle"): "4a15fea80d52",
    ("fashion-iq", "lincir"): "8956d3b4aa4a",
    ("fashion-iq", "context-i2w"): "f94f2095311c",
    ("fashion-iq", "maaf"): "d3caee7d0fbd",
    ("fashion-iq", "artemis"): "61531f598105",
    ("fashion-iq", "cosmo"): "33982ec95ea7",
    ("genecis", "genecis"): "32b483f8c0d8",
    ("genecis", "lincir"): "4755cc93f6ff",
    ("genecis", "lincir-as-released"): "48a740fde421",
    ("garments", "pic2word"): "c66c1bd29a7d",
    ("garments", "clip4cir"): "5a62cd63663b",
    ("imagenet-r", "pic2word"): "f18f5b2d36a5",
    ("imagenet-r", "context-i2w"): "bd5adb0fa853",
}


def test_no_protocol_moves():
    found = {
        (task, name): protocol.hash
        for task, entry in tasks().items()
        if entry.origin == "cirbench"
        for name, protocol in find_task(task).protocols.items()
    }
    assert found == HASHES
