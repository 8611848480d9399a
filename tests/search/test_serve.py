"""The page of bench serve: what it shows, what it refuses, and that nothing leaves the machine."""

from __future__ import annotations

import asyncio
import html
import io
import re
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import urllib.request

import pytest
from patience import PATIENCE_SECONDS
from PIL import Image
from starlette.testclient import TestClient

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.cli.main import main
from cirbench.benchmark.images.reading import find_images_in_folder
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.search import forms
from cirbench.benchmark.search.app import HEADERS, SearchApp, listen, make_application
from cirbench.benchmark.search.search import Searcher, build_method, open_gallery

METHODS = ["image-only", "text-only", "image-text", "pic2word"]


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("emoji-clip")


@pytest.fixture
def demo(backbone, picture_folder):
    (picture_folder / "00.png").rename(picture_folder / "<script>.png")
    gallery = open_gallery(
        backbone,
        find_images_in_folder(picture_folder),
        skip_unreadable=False,
        workers=1,
        reporter=Reporter(quiet=True),
    )
    names = ("image-only", "text-only", "image-text", "pic2word")
    methods = {name: build_method(name, backbone, "emoji-clip", None) for name in names}
    return SearchApp(
        searcher=Searcher(backbone=backbone, gallery=gallery),
        methods=methods,
        about="24 <pictures>",
    )


@pytest.fixture
def client(demo):
    return TestClient(make_application(demo), base_url="http://127.0.0.1:8765")


def ask(client, picture=None, name="dog.png", **fields):
    sent = {"text": "a cartoon of *", "method": METHODS, "top": "5", **fields}
    files = {"picture": (name, b"" if picture is None else picture)}
    return client.post(
        "/", data=sent, files=files if picture is not None else {"picture": ("", b"")}
    )


def sections(page):
    """Method → the names under its pictures, or the error."""
    found = re.findall(r'<h2 id="method-\d+">(.*?)</h2>(.*?)</section>', page, re.DOTALL)
    return {
        name: re.findall(r'alt="(.*?)"', body) or re.findall(r'class="error">(.*?)<', body)
        for name, body in found
    }


def errors(answer):
    return [html.unescape(text) for text in re.findall(r'role="alert">(.*?)</p>', answer.text)]


def test_the_form_has_labels_headings_and_every_method(client):
    page = client.get("/").text
    for control in ("picture", "text", "top"):
        assert f'<label for="{control}"' in page
        assert f'id="{control}"' in page
    assert re.findall(r'name="method" value="(.*?)" checked>', page) == METHODS
    assert "<h1>" in page
    assert '<html lang="en">' in page
    assert "24 &lt;pictures&gt;" in page
    assert "<script" not in page


def test_methods_are_answered_side_by_side_as_search_answers_them(client, demo, picture_folder):
    content = (picture_folder / "07.png").read_bytes()
    answer = ask(client, content)
    assert answer.status_code == 200
    found = sections(answer.text)
    assert list(found) == METHODS
    assert found["image-only"][0] == "07.png"
    assert {len(names) for names in found.values()} == {5}
    assert found["text-only"] != found["image-only"]
    assert sections(ask(client, content, method=["pic2word"], top="3").text) == {
        "pic2word": found["pic2word"][:3]
    }


def test_names_and_texts_are_escaped(client):
    answer = ask(
        client, picture_bytes(), name='"><script>x</script>.png', text="<script>* ", top="24"
    )
    assert "<script>" not in answer.text
    assert "&lt;script&gt;.png" in answer.text


def picture_bytes(size=(30, 20), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind)
    return buffer.getvalue()


def test_a_picture_is_kept_so_that_the_text_alone_can_change(client, picture_folder):
    first = ask(client, (picture_folder / "07.png").read_bytes()).text
    [key] = re.findall(r'name="kept" value="(\w+)"', first)
    again = ask(client, kept=key, text="another *").text
    assert sections(again)["image-only"] == sections(first)["image-only"]
    assert "dog.png is used again" in again
    lost = ask(client, kept="0" * 64)
    assert lost.status_code == 400
    assert errors(lost) == ["the picture has expired; choose it again"]


def test_only_the_last_pictures_are_kept():
    recent = forms.RecentPictures()
    keys = [recent.keep(str(i), picture_bytes((i + 1, 9))) for i in range(12)]
    assert [recent.get(key) is not None for key in keys] == [False] * 4 + [True] * 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": ""}, "choose a picture, type a text, or both"),
        ({"method": []}, "tick at least one method"),
        ({"method": ["nonesuch"]}, "tick at least one method"),
        ({"top": "0"}, "the number of results must be from 1 to 100"),
        ({"top": "x"}, "the number of results must be from 1 to 100"),
        ({"top": "9" * 5000}, "the number of results must be from 1 to 100"),
    ],
)
def test_a_form_that_is_not_filled_in_right_says_what_is_missing(client, fields, message):
    answer = ask(client, **fields)
    assert answer.status_code == 400
    assert errors(answer) == [message]
    assert 'type="file"' in answer.text


def test_a_method_that_can_not_use_the_query_says_why_beside_those_that_can(client):
    found = sections(ask(client, picture_bytes(), text="a cartoon").text)
    assert "has no placeholder" in found["pic2word"][0]
    assert len(found["image-text"]) == 5
    found = sections(ask(client, text="a cartoon of *").text)
    assert "needs a picture" in found["image-only"][0]
    assert len(found["text-only"]) == 5
    found = sections(ask(client, picture_bytes(), text="word " * 79).text)
    assert "exceeds the context" in found["text-only"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "must be a picture of one of the formats"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "must be a picture of one of the formats",
        ),
        (picture_bytes((500, 500))[:200], "cannot be decoded"),
        (picture_bytes((10_000, 9_000)), "refused"),
        (picture_bytes((14_000, 13_000)), "refused"),
    ],
)
def test_what_is_no_picture_or_a_pixel_bomb_is_refused_on_the_page(client, content, message):
    answer = ask(client, content, name="<b>.png")
    assert answer.status_code == 400
    assert message in errors(answer)[0]
    assert "&lt;b&gt;.png" in answer.text
    assert 'value="a cartoon of *"' in answer.text


def test_ten_megabytes_are_taken_and_no_more(client):
    just = picture_bytes() + bytes(forms.UPLOAD_BYTES - 1000)
    assert ask(client, just).status_code == 200
    answer = ask(client, just + bytes(100_000))
    assert answer.status_code == 413
    assert errors(answer) == ["the upload is larger than 10 MB; scale the picture down"]


def test_the_limit_is_held_while_reading(demo):
    """A body that never ends and names no length: little is held of it, and it is given up on."""
    sent, statuses = 0, []

    async def endless():
        nonlocal sent
        sent += 2**20
        return {"type": "http.request", "body": start + bytes(2**20), "more_body": True}

    async def answered(message):
        statuses.append(message.get("status"))

    start = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n'
    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
    tracemalloc.start()
    asyncio.run(make_application(demo)(scope, endless, answered))
    assert tracemalloc.get_traced_memory()[1] < 4 * forms.UPLOAD_BYTES
    tracemalloc.stop()
    assert statuses[0] == 413
    assert 10 * forms.UPLOAD_BYTES < sent < 30 * forms.UPLOAD_BYTES


def test_an_upload_is_never_written(client, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert ask(client, picture_bytes() + bytes(5 * 2**20)).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"junk", {}),
        (b"junk", {"content-type": "multipart/form-data"}),
        (b"junk", {"content-type": "multipart/form-data; boundary=x"}),
        (b"text=a", {"content-type": "application/x-www-form-urlencoded"}),
    ],
)
def test_what_is_no_form_is_refused(client, content, headers):
    answer = client.post("/", content=content, headers=headers)
    assert answer.status_code == 400
    assert errors(answer)


def test_too_many_or_too_long_fields_are_refused(client):
    assert ask(client, picture_bytes(), text="x" * 20_000).status_code == 400
    assert ask(client, picture_bytes(), method=["pic2word"] * 60).status_code == 400


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8765", ""]
)
def test_another_hosts_name_is_refused(client, host):
    for answer in (
        client.get("/", headers={"host": host}),
        client.post("/", headers={"host": host}, files={"picture": ("a", picture_bytes())}),
    ):
        assert answer.status_code == 400
        assert "<form" not in answer.text


def test_the_loopback_names_are_served(client):
    for host in ("127.0.0.1", "127.0.0.1:9", "localhost:8765"):
        assert client.get("/", headers={"host": host}).status_code == 200


def test_every_answer_has_the_safe_headers(client):
    for answer in (
        client.get("/"),
        client.get("/style.css"),
        client.get("/nonesuch"),
        client.get("/", headers={"host": "evil.example"}),
        ask(client, b"junk"),
    ):
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "default-src 'self'" in HEADERS["Content-Security-Policy"]
    assert "img-src data: 'self'" in HEADERS["Content-Security-Policy"]


def test_pages_ask_no_other_host_for_anything(client):
    page = ask(client, picture_bytes()).text
    links = re.findall(r'(?:src|href|action)="(.*?)"', page)
    assert len(links) > 20
    assert all(link.startswith("data:") or re.match(r"/(?!/)", link) for link in links)
    assert "http" not in client.get("/style.css").text
    assert not re.search(r'style="| on\w+="|<script|<style', page)


def test_requests_at_once_do_not_mix_their_words(client, picture_folder):
    """The pseudo-word is put in by a hook on shared towers."""
    contents = [(picture_folder / f"{i:02}.png").read_bytes() for i in range(1, 5)]
    alone = [sections(ask(client, content).text) for content in contents]
    together = [None] * 12

    def work(i):
        together[i] = sections(ask(client, contents[i % 4]).text)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone * 3


def test_a_refusal_keeps_what_was_filled_in(client):
    form = {"text": "a * as a stamp", "method": ["image-only"], "top": "7"}
    page = client.post("/", data=form, files={"picture": ("notes.txt", b"no picture")}).text
    assert 'value="a * as a stamp"' in page
    assert 'value="7"' in page
    assert re.findall(r'value="([\w-]+)" checked', page) == ["image-only"]


def test_a_port_in_use_is_a_clear_error(monkeypatch, capsys, picture_folder):
    with listen(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UsageError, match="in use"):
            listen(port)
        call = ["bench", "serve", "--gallery", picture_folder, "--port", port]
        monkeypatch.setattr(sys, "argv", list(map(str, call)))
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert f"127.0.0.1:{port} (Address already in use)" in capsys.readouterr().err


def test_bench_serve_serves_until_it_is_interrupted(picture_folder, tmp_path):
    code = "import sys; from cirbench.benchmark.cli.main import main; main()"
    call = [
        sys.executable,
        "-P",
        "-c",
        code,
        "serve",
        "--gallery",
        str(picture_folder),
        "-b",
        "fake",
        "--port",
        "0",
    ]
    with subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        encoding="utf-8",
    ) as server:
        [url] = re.findall(r"http://127.0.0.1:\d+/", server.stdout.readline())
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            page = answer.read().decode()
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_SECONDS) == 130
        said = server.stderr.read()
    assert 'value="image-text"' in page
    assert 'value="pic2word"' not in page
    assert (
        "pic2word is left out: pic2word needs --checkpoint pic2word=FILE for the backbone fake"
        in said
    )
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"cache", picture_folder.name}
