from __future__ import annotations

import subprocess
import sys

import pytest

from cirbench.benchmark.api import registry
from cirbench.benchmark.api.registry import PluginWarning, find_backbone, find_method, find_task
from cirbench.benchmark.runtime.errors import UsageError


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Puts a distribution with one entry point on the path, as pip would."""

    def install(distribution, kind, name, target):
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        (folder / "METADATA").write_text(metadata, encoding="utf-8")
        (folder / "entry_points.txt").write_text(
            f"[cirbench.{kind}]\n{name} = {target}\n", encoding="utf-8"
        )
        monkeypatch.syspath_prepend(tmp_path)
        registry._entries.cache_clear()

    yield install
    registry._entries.cache_clear()


@pytest.mark.parametrize(
    ("find", "name", "suggestion"),
    [
        (find_method, "pic2wrod", "pic2word"),
        (find_method, "image_only", "image-only"),
        (find_task, "emojis", "emoji"),
        (find_backbone, "emoji-clp", "emoji-clip"),
        (find_backbone, "Fake", "fake"),
    ],
)
def test_an_unknown_name_suggests(find, name, suggestion):
    with pytest.raises(UsageError, match="did you mean") as error:
        find(name)
    assert suggestion in str(error.value).split("did you mean")[1]
    assert repr(name) in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("find", "kind", "known"),
    [
        (find_method, "method", "image-only, text-only, image-text, pic2word"),
        (find_task, "task", "emoji"),
        (find_backbone, "backbone", "emoji-clip, "),
    ],
)
def test_a_name_like_no_other_lists_all(find, kind, known):
    with pytest.raises(UsageError, match=f"unknown {kind} 'zzzzzzzz'; known: {known}"):
        find("zzzzzzzz")


@pytest.mark.parametrize("name", registry._METHODS)
def test_methods_are_what_they_are_called(name):
    assert find_method(name).name == name
    assert registry.is_zero_shot(name) == find_method(name).zero_shot
    assert registry.needs_checkpoint(name) == find_method(name).needs_checkpoint


@pytest.mark.parametrize("name", registry._TASKS)
def test_tasks_are_what_they_are_called(name):
    assert find_task(name).name == name


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("fake", "fake:load"),
        ("emoji-clip", "open_clip:load_tiny_clip"),
        ("ViT-L-14/openai", "open_clip:load"),
        ("hf-hub:org/name", "open_clip:load"),
        ("local-dir:/a/b", "open_clip:load"),
        ("hf:openai/clip-vit-large-patch14", "transformers_clip:load"),
        ("hf:/a/b", "transformers_clip:load"),
    ],
)
def test_backbones_are_found_by_name_prefix_or_slash(monkeypatch, name, target):
    monkeypatch.setattr(registry.Entry, "load", lambda entry: entry.target)
    assert find_backbone(name) == f"cirbench.benchmark.backbones.{target}"


@pytest.mark.parametrize("name", ["hf:", "local-dir:", "ftp:org/name", "ViT-L-14", ""])
def test_what_is_no_backbone_is_refused(name):
    with pytest.raises(UsageError, match="unknown backbone"):
        find_backbone(name)


def test_a_plug_in_adds_a_method(plug_in):
    plug_in("extra", "methods", "ordered", "cirbench.methods.baselines:TextOnly")
    assert find_method("ordered").__name__ == "TextOnly"
    assert registry.methods()["ordered"].origin == "extra"
    assert find_method("image-only").name == "image-only"
    with pytest.raises(UsageError, match="unknown task"):
        find_task("ordered")


@pytest.mark.parametrize(
    ("kind", "listed", "name"),
    [
        ("methods", registry.methods, "pic2word"),
        ("tasks", registry.tasks, "emoji"),
        ("backbones", registry.backbones, "fake"),
    ],
)
def test_a_built_in_name_can_not_be_taken(plug_in, kind, listed, name):
    built_in = listed()[name].target
    plug_in("rival", kind, name, "rival.module:Thing")
    with pytest.warns(PluginWarning, match=f"two packages offer {kind[:-1]} '{name}'") as warned:
        assert listed()[name].origin == "cirbench", "the built-in one stays"
    assert f"cirbench ({built_in})" in str(warned[0].message)
    assert "rival (rival.module:Thing)" in str(warned[0].message)


def test_two_plug_ins_can_not_share_a_name(plug_in):
    plug_in("one", "methods", "new", "one:New")
    plug_in("other", "methods", "new", "other:New")
    with pytest.warns(PluginWarning), pytest.raises(UsageError) as error:
        find_method("new")
    assert "one (one:New)" in str(error.value)
    assert "other (other:New)" in str(error.value)


@pytest.mark.parametrize("target", ["no_such_module:Thing", "collections:NoSuchThing"])
def test_a_broken_plug_in_is_named(plug_in, target):
    plug_in("broken", "methods", "new", target)
    with pytest.raises(UsageError, match="uninstall broken") as error:
        find_method("new")
    assert target in str(error.value)


def test_listing_names_loads_no_torch(tmp_path):
    program = (
        "import sys\n"
        "from cirbench.benchmark.api import registry\n"
        "names = [*registry.methods(), *registry.tasks(), *registry.backbones()]\n"
        "assert 'pic2word' in names\n"
        "print([name for name in ('torch', 'open_clip', 'transformers')"
        " if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert done.stdout == "[]\n"
