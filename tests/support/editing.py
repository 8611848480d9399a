"""Changes to a JSON file, for tests that spoil one."""

from __future__ import annotations

import json

from cirbench.benchmark.api.protocol import EvaluationProtocol


def edit(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def put(name, value):
    *parents, last = name.split(".")

    def change(data):
        for parent in parents:
            data = data[parent]
        data[last] = value

    return lambda path: edit(path, change)


def drop(name):
    *parents, last = name.split(".")

    def change(data):
        for parent in parents:
            data = data[parent]
        del data[last]

    return lambda path: edit(path, change)


def sign(path):
    """Gives the protocol of a record the hash of its fields."""

    def change(data):
        said = {name: value for name, value in data["protocol"].items() if name != "hash"}
        data["protocol"]["hash"] = EvaluationProtocol(**said).hash

    edit(path, change)
