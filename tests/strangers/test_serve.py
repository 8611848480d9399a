"""What other pages and other programs send to bench serve."""

from __future__ import annotations

import asyncio
import html
import io
import re
import struct
import zlib
from functools import partial

import pytest
from PIL import Image
from starlette.testclient import TestClient

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.search import forms
from cirbench.benchmark.search.app import SearchApp, make_application
from cirbench.benchmark.search.search import Searcher, open_gallery
from cirbench.methods.baselines import ImageOnly

HOME = "http://127.0.0.1:8765"


@pytest.fixture
def demo(picture):
    backbone = load_backbone("fake")
    refs = [ImageRef(id=f"{i}.png", read=partial(picture, i)) for i in range(3)]
    quiet = Reporter(quiet=True)
    gallery = open_gallery(backbone, refs, skip_unreadable=False, workers=1, reporter=quiet)
    searcher = Searcher(backbone=backbone, gallery=gallery)
    return SearchApp(searcher=searcher, methods={"image-only": ImageOnly()}, about="three")


@pytest.fixture
def client(demo):
    return TestClient(make_application(demo), base_url=HOME)


def ask(client, content, **headers):
    sent = {"text": "", "method": "image-only", "top": "3"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/", data=sent, files={"picture": ("p.png", content)}, headers=named)


def alert(answer):
    return html.unescape(re.findall(r'role="alert">(.*?)</p>', answer.text)[0])


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "https://127.0.0.1:8765"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Origin": HOME},
        {"Origin": "http://evil.example", "Sec_Fetch_Site": "same-origin"},
    ],
)
def test_a_form_of_another_site_is_refused_before_it_is_read(client, picture, headers, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.search.app.read_form", lambda _: pytest.fail("read"))
    answer = ask(client, picture(1), **headers)
    assert answer.status_code == 403
    assert "must be sent from this page" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": HOME},
        {"Sec_Fetch_Site": "none"},
        {"Origin": HOME, "Sec_Fetch_Site": "same-origin"},
    ],
)
def test_a_form_of_the_page_itself_or_of_curl_is_answered(client, picture, headers):
    answer = ask(client, picture(1), **headers)
    assert answer.status_code == 200
    assert "1.png" in answer.text


def test_a_link_from_elsewhere_opens_the_empty_page(client):
    answer = client.get("/", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200


def flat_png(side):
    """A small file of side² transparent pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    rows = zlib.compress(b"\0" * (4 * side + 1) * side)
    parts = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [5_001, 9_400])
def test_more_pixels_than_a_cameras_are_refused_undecoded(client, monkeypatch, side):
    content = flat_png(side)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    assert len(content) < 400_000
    answer = ask(client, content)
    assert answer.status_code == 400
    assert "must have at most 25,000,000 pixels" in alert(answer)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_thread_is_refused(client, size):
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, "PNG")
    answer = ask(client, buffer.getvalue())
    assert answer.status_code == 400
    assert "at most 100 times the shorter" in alert(answer)


def test_an_upload_that_stops_half_way_is_answered_in_time(demo, monkeypatch):
    monkeypatch.setattr(forms, "UPLOAD_SECONDS", 0.2)
    head = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n\x89PNG'
    parts = [{"type": "http.request", "body": head, "more_body": True}]
    answered = []

    async def receive():
        if parts:
            return parts.pop()
        return await asyncio.Future()  # the rest never comes

    async def send(message):
        answered.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=x")],
    }
    asyncio.run(asyncio.wait_for(make_application(demo)(scope, receive, send), 20))
    assert answered[0]["status"] == 408
    assert (b"connection", b"close") in answered[0]["headers"]
    assert b"must come within" in answered[1]["body"]
