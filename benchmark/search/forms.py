"""Forms that a browser sends: read in memory, limited while they are read, and checked."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.search.query import FreeQuery, make_picture

UPLOAD_BYTES = 10 * 1024 * 1024
UPLOAD_PIXELS = 25_000_000
"""A camera's 24 megapixels. A PNG of a few kB can say that it has far more, and a tower looks at
some 224² of them."""
UPLOAD_SECONDS = 30
"""For the whole of a form, which comes from this machine."""
_FIELD_BYTES = 16 * 1024
_DRAINED_BYTES = 20 * UPLOAD_BYTES
_MOST_SHOWN = 100
_KEPT = 8


class TooLarge(UsageError):
    """More was sent than is taken."""


class TooSlow(UsageError):
    """The rest of a form did not come."""


@dataclass(frozen=True, kw_only=True)
class SearchForm:
    """A search form as it was filled in.

    Attributes:
        key: of the picture among the recent ones, for asking again with the same one.
    """

    query: FreeQuery
    methods: tuple[str, ...]
    top: int
    key: str = ""


@dataclass(frozen=True)
class RecentPictures:
    """The last few uploads, in memory only, so that a person can change the text alone."""

    _kept: OrderedDict[str, ImageRef] = field(default_factory=OrderedDict)

    def keep(self, name: str, content: bytes) -> str:
        """Check and keep a picture, and give its key.

        Raises:
            CorruptData: it is no picture, or too large a one.
        """
        key = sha256(content).hexdigest()
        self._kept[key] = make_picture(name, content, most_pixels=UPLOAD_PIXELS)
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return key

    def get(self, key: str) -> ImageRef | None:
        return self._kept.get(key)


class _InMemory(MultiPartParser):
    """Starlette's parser, whose files never reach a disk."""

    spool_max_size = UPLOAD_BYTES + _FIELD_BYTES * 4


async def _limit_body(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the body as long as it is not too large, and read and drop what follows, up to a limit:
    a browser shows an answer only when it has sent everything."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > _DRAINED_BYTES:
            break
        if received <= _InMemory.spool_max_size:
            yield chunk
    if received > _InMemory.spool_max_size:
        raise TooLarge(
            f"the upload is larger than {UPLOAD_BYTES // 2**20} MB; scale the picture down"
        )


async def read_form(request: Request) -> FormData:
    """The fields of a form.

    Raises:
        TooLarge: more than `UPLOAD_BYTES` were sent.
        TooSlow: it was not whole after `UPLOAD_SECONDS`.
        UsageError: it is no such form.
    """
    try:
        parser = _InMemory(
            request.headers,
            _limit_body(request),
            max_files=1,
            max_fields=50,
            max_part_size=_FIELD_BYTES,
        )
        if "content-type" not in request.headers:
            raise MultiPartException("no content type")
        async with asyncio.timeout(UPLOAD_SECONDS):
            return await parser.parse()
    except TimeoutError as error:
        raise TooSlow(f"the upload must come within {UPLOAD_SECONDS} s; send it again") from error
    except MultiPartException as error:
        raise UsageError(f"the form cannot be read ({error.message})") from error
    except ClientDisconnect as error:
        raise UsageError("the upload was interrupted; send it again") from error


async def check_form(form: FormData, known: Sequence[str], recent: RecentPictures) -> SearchForm:
    """Hold a form to what is allowed.

    Raises:
        UsageError, CorruptData: a field is wrong; says which.
    """
    upload, text = form.get("picture"), str(form.get("text") or "").strip()
    key = str(form.get("kept") or "")
    if isinstance(upload, UploadFile) and upload.filename:
        key = recent.keep(upload.filename, await upload.read())
    image = recent.get(key)
    if key and image is None:
        raise UsageError("the picture has expired; choose it again")
    if image is None and not text:
        raise UsageError("choose a picture, type a text, or both")
    methods = tuple(name for name in known if name in form.getlist("method"))
    if not methods:
        raise UsageError("tick at least one method")
    images = (image,) if image else ()
    query = FreeQuery(images=images, prompt=text)
    return SearchForm(query=query, methods=methods, top=_read_number(form), key=key)


def _read_number(form: FormData) -> int:
    written = str(form.get("top"))
    if not (written.isascii() and written.isdigit() and 1 <= int(written[:9]) <= _MOST_SHOWN):
        raise UsageError(f"the number of results must be from 1 to {_MOST_SHOWN}")
    return int(written)
