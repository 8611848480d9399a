"""Released weights by name, from a server of our own that plays the hub and other hosts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from serving import serve_files

from cirbench.benchmark.api.registry import backbone_entry, needs_checkpoint
from cirbench.benchmark.api.weights import ReleasedWeights
from cirbench.benchmark.evaluation import released, weights
from cirbench.benchmark.evaluation.outline import read_outline
from cirbench.benchmark.evaluation.plan import Request, plan_methods
from cirbench.benchmark.evaluation.released import (
    fetch_released,
    find_file,
    find_folder,
    read_released,
    read_weights,
)
from cirbench.benchmark.evaluation.weights import find_weights
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.methods.pic2word.method import MappingNetwork
from cirbench.slurm.planning import plan_sweep

QUIET = Reporter(quiet=True)
HUB_FILE, URL_FILE, HAND_FILE = "of_hub.pt", "of_url.pt", "by_hand.pt"


def pack(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def make_weights(seed=0, widths=(32, 24), **beside) -> bytes:
    """As Pic2Word's authors save it, for the backbone `fake` unless other widths are asked for."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = MappingNetwork(*widths, middle=8).state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    return pack({"epoch": 1, "state_dict_img2text": wrapped, **beside})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_row(**changes) -> ReleasedWeights:
    known = {
        "method": "pic2word",
        "backbones": ("fake",),
        "hub": "",
        "url": "",
        "page": "https://example.org/page",
        "size": None,
        "sha256": "",
        "shapes": {"layers.0.0.weight": (8, 32), "fc_out.weight": (24, 8)},
        "licence": "MIT",
        "trained_on": "CC3M",
        "caveat": "",
    }
    return ReleasedWeights(**{**known, **changes})


@pytest.fixture
def use_table(monkeypatch):
    """Makes these rows the table."""

    def use(*rows):
        for module in (released, weights):
            monkeypatch.setattr(module, "read_released", lambda: rows)
        return rows

    return use


@pytest.fixture
def server(monkeypatch, tmp_path):
    with serve_files() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        running.contents |= {
            f"/made/models/resolve/main/{HUB_FILE}": make_weights(),
            f"/{URL_FILE}": make_weights(),
        }
        yield running


@pytest.fixture
def of_hub(server, use_table):
    [row] = use_table(make_row(file=HUB_FILE, hub="made/models", caveat="a demo"))
    return row


@pytest.fixture
def of_url(server, use_table):
    [row] = use_table(make_row(file=URL_FILE, url=f"{server.url}/{URL_FILE}"))
    return row


@pytest.fixture(params=["of_hub", "of_url"])
def row(request):
    """Once of the hub, once of another host."""
    return request.getfixturevalue(request.param)


def put(name, content, method="pic2word"):
    path = find_folder(method) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def serve(server, row, content):
    for path in server.contents:
        if path.endswith(row.file):
            server.contents[path] = content


@pytest.mark.parametrize("row", read_released(), ids=lambda row: row.file)
def test_a_row_of_the_table_names_things_that_are(row):
    assert needs_checkpoint(row.method)
    assert row.shapes
    assert not (row.hub and row.url)
    assert row.page.startswith("https://")
    assert row.url.startswith("https://") or not row.url
    assert re.fullmatch("([0-9a-f]{64})?", row.sha256)
    assert row.licence
    assert row.trained_on
    for name in row.backbones:
        backbone_entry(name)
        assert row.is_for(name)


def test_each_file_is_in_the_table_once_and_none_is_shipped_too():
    rows = read_released()
    assert len({row.file for row in rows}) == len(rows)
    assert not [r for r in rows if set(r.backbones) & set(weights.shipped_checkpoints(r.method))]


def test_it_is_fetched_once(server, row, monkeypatch):
    path = fetch_released(row, QUIET)
    assert path.read_bytes() == make_weights()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_released(row, QUIET) == path == find_file(row)
    assert len(server.asked) == 1


def test_what_broke_off_is_gone_on_with(server, row, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 10)
    server.cuts = 1
    if row.url:  # the hub's library tries again by itself
        with pytest.raises(MissingData, match="broke off"):
            fetch_released(row, QUIET)
        assert find_file(row) is None
    assert fetch_released(row, QUIET).read_bytes() == make_weights()
    first, second = server.asked
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) < len(make_weights())


def test_a_slow_answer_is_waited_for(server, row):
    server.slow = True
    assert fetch_released(row, QUIET).read_bytes() == make_weights()


def test_what_is_not_there_is_told_with_what_a_person_can_do(server, row):
    server.contents.clear()
    with pytest.raises(MissingData, match="404") as told:
        fetch_released(row, QUIET)
    place = re.escape(str(find_folder("pic2word")))
    wanted = rf"fetch {row.file} from {row.page} and put it, under any name, into {place}$"
    assert re.search(wanted, str(told.value))
    assert "\n" not in str(told.value)


def test_offline_nobody_is_asked(server, row, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingData, match="HF_HUB_OFFLINE is set; fetch"):
        find_weights("pic2word", "fake", {})
    with pytest.raises(MissingData, match="HF_HUB_OFFLINE is set; fetch"):
        fetch_released(row, QUIET)
    assert server.asked == []


def test_another_sha256_than_the_tables_is_refused_and_not_kept(server, row, use_table):
    [row] = use_table(replace(row, sha256=sha256(make_weights(1))))
    with pytest.raises(CorruptData, match=f"the sha256 {row.sha256}, as published, got"):
        fetch_released(row, QUIET)
    assert find_file(row) is None
    serve(server, row, make_weights(1))
    assert fetch_released(row, QUIET).read_bytes() == make_weights(1)


@pytest.mark.parametrize(
    "content", [b"<html>please log in</html>", make_weights()[:-900], make_weights(widths=(64, 24))]
)
def test_a_page_half_a_file_and_other_weights_are_no_file_and_not_kept(server, row, content):
    serve(server, row, content)
    with pytest.raises(CorruptData, match=rf"must be {row.file} for fake, with layers.0.0.weight"):
        fetch_released(row, QUIET)
    assert find_file(row) is None
    assert released.find_sha256(row) == ""


def test_a_sha256_that_is_not_known_is_that_of_the_first_file(server, row):
    path = fetch_released(row, QUIET)
    assert released.find_sha256(row) == sha256(make_weights())
    put(row.file, make_weights(1))
    with pytest.raises(CorruptData, match="when it was first used"):
        fetch_released(row, QUIET)
    put(row.file, make_weights())
    assert fetch_released(row, QUIET).read_bytes() == path.read_bytes()


def test_a_file_is_known_by_its_weights_whatever_its_name(server, of_url):
    path = put("download (1).bin", make_weights())
    put("notes.txt", b"bought on Monday")
    assert find_file(of_url) == path == fetch_released(of_url, QUIET)
    assert server.asked == []


def test_a_file_is_known_by_its_sha256_whatever_its_name(server, of_url, use_table):
    [row] = use_table(replace(of_url, sha256=sha256(make_weights(1))))
    put("a.pt", make_weights())
    path = put("b.pt", make_weights(1))
    assert find_file(row) == path


def test_of_two_that_a_file_fits_the_more_demanding_is_meant_and_of_equals_none(use_table):
    mapper = make_row(file="mapper.pt")
    whole = make_row(file="whole.pt", shapes={**mapper.shapes, "visual.proj": (4, 4)})
    use_table(mapper, whole)
    path = put("any.pt", make_weights(state_dict={"visual.proj": torch.zeros(4, 4)}))
    assert (find_file(mapper), find_file(whole)) == (None, path)
    path.write_bytes(make_weights())
    assert (find_file(mapper), find_file(whole)) == (path, None)
    use_table(mapper, replace(mapper, file="twin.pt"))
    assert find_file(mapper) is None


def test_weights_for_another_backbone_are_named(use_table):
    small, large = use_table(
        make_row(file="small.pt"),
        make_row(file="large.pt", shapes={"fc_out.weight": (48, 8)}, backbones=("ViT/large",)),
    )
    put("small.pt", make_weights(widths=(32, 48)))
    with pytest.raises(CorruptData, match=r"fc_out.weight of shape \(24, 8\), got \(48, 8\)"):
        fetch_released(small, QUIET)
    assert find_file(large) is None  # the name of another is kept for that


def test_a_full_disk_is_told_as_one(of_url):
    if not Path("/dev/full").exists():
        pytest.skip("no disk that is full")
    put(f"{URL_FILE}.part", b"").unlink()
    (find_folder("pic2word") / f"{URL_FILE}.part").symlink_to("/dev/full")
    with pytest.raises(MissingData, match="No space left on device"):
        fetch_released(of_url, QUIET)


def test_the_one_that_is_here_goes_before_one_that_can_be_fetched(use_table):
    hand = make_row(file=HAND_FILE, shapes={"layers.0.0.weight": (8, 32)})
    of_url = make_row(file=URL_FILE, url="http://127.0.0.1:9/x")
    use_table(hand, of_url)
    assert find_weights("pic2word", "fake", {}) == of_url
    assert find_weights("pic2word", "mine=fake", {}) == of_url
    put(HAND_FILE, make_weights())
    assert find_weights("pic2word", "fake", {}) == hand


def test_what_only_a_person_can_fetch_is_told_before_any_work(use_table, bench):
    use_table(make_row(file=HAND_FILE))
    code, out, err = bench("run", "-m", "pic2word", "-t", "emoji", "-b", "fake")
    assert (code, out) == (3, "")
    assert err == (
        f"bench: error: pic2word: {HAND_FILE} is not here, and only a person can fetch it; fetch "
        f"{HAND_FILE} from https://example.org/page and put it, under any name, into "
        f"{find_folder('pic2word')}\n"
    )


def test_weights_of_different_data_must_be_chosen_by_name(use_table):
    one = make_row(file="a.pt", url="http://127.0.0.1:9/x", trained_on="CIRR")
    two = replace(one, file="b.pt", trained_on="Fashion-IQ")
    use_table(one, two)
    with pytest.raises(MissingData, match=r"pic2word=a.pt \(trained on CIRR\) or pic2word=b.pt"):
        find_weights("pic2word", "fake", {})
    assert find_weights("pic2word", "fake", {"pic2word": Path("b.pt")}) == two


def test_a_persons_own_file_of_a_known_name_is_their_own(of_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_weights("pic2word", "fake", {"pic2word": Path("released")}) == of_url
    assert find_weights("pic2word", "fake", {"pic2word": Path(URL_FILE)}) == of_url
    Path(URL_FILE).touch()
    assert find_weights("pic2word", "fake", {"pic2word": Path(URL_FILE)}) == Path(URL_FILE)


def test_a_backbone_without_any_is_told_which_have_some(of_url):
    with pytest.raises(
        MissingData, match=r"shipped for emoji-clip, .*; some are released for fake"
    ):
        find_weights("pic2word", "ViT-S/none", {"pic2word": Path("released")})


def test_all_methods_are_those_with_weights_here_and_nothing_is_fetched(server, of_url):
    def chosen():
        request = Request(methods=("all",), task="emoji")
        return [method.name for method in plan_methods(request, "fake")]

    assert "pic2word" not in chosen()
    assert server.asked == []
    fetch_released(of_url, QUIET)
    assert "pic2word" in chosen()


def test_a_record_says_which_file_it_was(of_hub, bench, tmp_path):
    run = ("run", "-m", "pic2word", "-t", "emoji", "-b", "fake", "--limit", "2", "--json")
    code, out, err = bench(*run, "-o", tmp_path / "one")
    assert code == 0
    assert f"pic2word: fetching {HUB_FILE} from made/models" in err
    record = json.loads(out)
    assert record["cell"]["checkpoint"] == sha256(make_weights())
    assert record["cell"]["trained_on"] == "CC3M"
    assert record["checkpoint"]["released"] == HUB_FILE
    assert f"{HUB_FILE}: a demo" in record["method"]["remarks"]
    own = tmp_path / "own.pt"
    own.write_bytes(make_weights())
    _, out, _ = bench(*run, "-o", tmp_path / "two", "--checkpoint", own)
    again = json.loads(out)
    assert again["cell"] == record["cell"]
    assert again["checkpoint"] == {**record["checkpoint"], "name": "own.pt"}


def test_a_file_that_nobody_released_is_not_taken_for_one(of_url, tmp_path):
    own = tmp_path / "own.pt"
    own.write_bytes(make_weights())
    assert read_weights(own, QUIET).released is None
    fetch_released(of_url, QUIET)
    assert read_weights(own, QUIET).released == of_url


def test_a_plan_names_it_and_fetches_nothing(server, of_hub, bench):
    code, out, _ = bench("run", "-m", "pic2word", "-t", "emoji", "-b", "fake", "--dry-run")
    assert code == 0
    assert f"pic2word: released {HUB_FILE}" in out
    assert server.asked == []


def test_data_that_is_missing_is_told_with_the_weights_that_are(of_hub, bench):
    code, _, err = bench("run", "-m", "pic2word", "-t", "imagenet-r", "-b", "fake")
    assert code == 3
    first, second = err.splitlines()
    assert "--data-root" in first
    assert f"pic2word will fetch {HUB_FILE}" in second
    assert f"fetch {HUB_FILE} from https://example.org/page and put it" in second


def test_search_fetches_what_was_asked_for_by_name_alone(server, of_url, bench, picture_folder):
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.search.search import build_method

    with pytest.raises(MissingData, match="nothing is fetched here"):
        build_method("pic2word", load_backbone("fake"), "fake", None)
    assert server.asked == []
    search = (
        "search",
        "--gallery",
        picture_folder,
        "-m",
        "pic2word",
        "-b",
        "fake",
        "--text",
        "a *",
    )
    code, _, err = bench(*search, "--image", picture_folder / "00.png", "--checkpoint", "released")
    assert code == 0, err
    assert len(server.asked) == 1


@pytest.mark.parametrize("asked", ["", f'[checkpoints]\npic2word = "{URL_FILE}"'])
def test_a_sweep_fetches_once_for_its_jobs(server, of_url, tmp_path, asked):
    file = tmp_path / "one.toml"
    axes = 'methods = ["pic2word"]\ntasks = ["emoji"]\nbackbones = ["fake"]\nseeds = [0, 1]\n'
    file.write_text(f"{axes}{asked}", encoding="utf-8")
    planned = plan_sweep(
        str(file), profile=None, sweeps=tmp_path / "sweeps", data_root=None, fail_fast=False
    )
    assert len(server.asked) == 1
    runs = [cell for cell in planned.cells if cell.kind == "run"]
    assert len(runs) == 2
    for cell in runs:
        assert cell.request["checkpoints"] == {"pic2word": str(find_file(of_url))}
        assert cell.expected["checkpoint"] == sha256(make_weights())


def test_a_hub_that_cannot_be_reached_is_one_clear_error(of_hub, bench, monkeypatch):
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    code, out, err = bench("run", "-m", "pic2word", "-t", "emoji", "-b", "fake")
    assert (code, out) == (3, "")
    said, *_, error = err.splitlines()  # between them may stand what CI makes Python warn of
    assert "fetching" in said
    assert "bench: error" not in err.removesuffix(f"{error}\n")
    assert f"{HUB_FILE} is not here, and made/models cannot be fetched from (" in error


def test_the_hubs_address_and_home_are_those_of_its_own_variables(server, tmp_path):
    """With the real table, in processes of their own, since the library reads them at import."""
    content = pack({"state_dict_img2text": MappingNetwork(768, 768).state_dict()})
    folder = "/navervision/zeroshot-cir-models/resolve/main"
    server.contents[f"{folder}/pic2word_large.pt"] = content
    server.contents[f"{folder}/lincir_large.pt"] = make_weights()
    home = tmp_path / "home"

    def bench(*arguments, **variables):
        code = "from cirbench.benchmark.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(home), **variables},
        )

    run = ("run", "-t", "emoji", "-b", "fake", "--checkpoint")
    refused = bench(*run, "lincir_large.pt", "-m", "lincir")
    assert refused.returncode == 4
    assert "lincir_large.pt with the sha256 5ba98d52" in refused.stderr
    refused = bench(*run, "pic2word_large.pt", "-m", "pic2word")
    assert refused.returncode == 4
    assert "768 to words of width 768; fake has 32 and 24" in refused.stderr
    told = json.loads(bench("weights", "where", "pic2word", "--json", HF_HUB_OFFLINE="1").stdout)
    [found] = [one for one in told if one["file"] == "pic2word_large.pt"]
    assert Path(found["here"]).is_relative_to(home)
    assert found["sha256"] == sha256(content)


def test_bench_weights_lists_what_is_shipped_and_what_was_released(bench):
    code, out, _ = bench("weights")
    assert code == 0
    for row in read_released():
        assert re.search(rf"{row.method} .* {re.escape(row.file)} .* no\n", out)
        assert not row.caveat or f"{row.file}: {row.caveat}" in out
    assert re.search(r"pic2word .* pic2word--emoji-clip.safetensors .* yes\n", out)
    assert len(json.loads(bench("weights", "--json")[1])) > len(read_released())


def test_where_a_methods_weights_are_is_told(of_url, bench):
    code, out, _ = bench("weights", "where", "pic2word")
    assert code == 0
    assert f"looked for in: {find_folder('pic2word')}" in out
    assert out.count("here: no") == 1
    path = put("any.pt", make_weights())
    assert f"here: {path}" in bench("weights", "where", "pic2word")[1]
    assert bench("weights", "where", "image-only")[0] == 2
    assert bench("weights", "where", "pic2wrd")[0] == 2


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_an_outline_is_what_torch_reads_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors = {
        "a.weight": torch.zeros(2, 3),
        "scale": torch.zeros(()),
        "half": torch.ones(4).half(),
    }
    content = {
        "epoch": 3,
        "Phi": tensors | {"parameter": torch.nn.Parameter(torch.zeros(5))},
        "optimizer": {"lr": 0.1, "trap": Trap()},
    }
    expected = {"Phi.a.weight": (2, 3), "Phi.scale": (), "Phi.half": (4,), "Phi.parameter": (5,)}
    torch.save(content, "new.pt")
    torch.save(content, "old.pt", _use_new_zipfile_serialization=False)
    save_file(tensors, "our.safetensors")
    assert read_outline(Path("new.pt")) == expected
    assert read_outline(Path("old.pt")) == expected
    assert read_outline(Path("our.safetensors")) == {n: tuple(t.shape) for n, t in tensors.items()}
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x04.", b"\x08" * 9, bytes(range(156, 255))]
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_is_no_file_of_weights_has_no_outline(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    assert read_outline(tmp_path / name) == {}
