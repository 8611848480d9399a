"""The web page of `bench serve`: one form, and the answers of several methods side by side.

It is for one person on one machine: bound to the loopback address, answering no other host's name
(a page elsewhere could else reach it by rebinding its own) and no form of another site's page,
loading nothing from elsewhere, and writing nothing to a disk.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cirbench.benchmark.api.method import Method
from cirbench.benchmark.runtime.errors import CirbenchError, UsageError
from cirbench.benchmark.search.forms import (
    RecentPictures,
    SearchForm,
    TooLarge,
    TooSlow,
    check_form,
    read_form,
)
from cirbench.benchmark.search.pages import MethodAnswer, make_environment, read_stylesheet
from cirbench.benchmark.search.search import Searcher

HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data: 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_DEFAULT_TOP = 12
_NO_FORM = FormData()


@dataclass(frozen=True, kw_only=True)
class SearchApp:
    """The state of the page: a searcher and the methods to choose from.

    Attributes:
        about: a line that says so.
    """

    searcher: Searcher
    methods: Mapping[str, Method]
    about: str
    recent: RecentPictures = field(default_factory=RecentPictures)
    _one_at_a_time: Lock = field(default_factory=Lock)

    def answer(self, wanted: SearchForm) -> list[MethodAnswer]:
        """One answer a method; a method that can't use the query says why.

        Raises:
            CorruptData: the picture can't be decoded.
        """
        with self._one_at_a_time:  # pseudo-words are put into the towers by a hook
            images = self.searcher.embed(wanted.query)
            found = []
            for name in wanted.methods:
                try:
                    hits = self.searcher.find(self.methods[name], wanted.query, images, wanted.top)
                    found.append(MethodAnswer(method=name, query=wanted.query, hits=hits))
                except UsageError as error:
                    found.append(MethodAnswer(method=name, query=wanted.query, error=str(error)))
            return found

    def render(
        self,
        wanted: SearchForm | None = None,
        answers: list[MethodAnswer] | None = None,
        error: str = "",
        form: FormData = _NO_FORM,
    ) -> str:
        """The form, with the answers below it, or above it what is wrong with `form`."""
        ticked = [str(name) for name in form.getlist("method")] or list(self.methods)
        return (
            make_environment()
            .get_template("page.html")
            .render(
                about=self.about,
                known=list(self.methods),
                ticked=wanted.methods if wanted else ticked,
                top=wanted.top if wanted else form.get("top", _DEFAULT_TOP),
                wanted=wanted,
                answers=answers or [],
                error=error,
                typed=wanted.query.prompt if wanted else form.get("text", ""),
            )
        )


def make_application(demo: SearchApp) -> Starlette:
    """The page as an ASGI application."""

    async def show(_request: Request) -> Response:
        return HTMLResponse(demo.render())

    async def search(request: Request) -> Response:
        form = _NO_FORM
        try:
            form = await read_form(request)
            wanted = await check_form(form, list(demo.methods), demo.recent)
            answers = await run_in_threadpool(demo.answer, wanted)
            return HTMLResponse(await run_in_threadpool(demo.render, wanted, answers))
        except TooLarge as error:
            return HTMLResponse(demo.render(error=str(error)), status_code=413)
        except TooSlow as error:
            page = demo.render(error=str(error))
            return HTMLResponse(page, status_code=408, headers={"Connection": "close"})
        except CirbenchError as error:
            return HTMLResponse(demo.render(error=str(error), form=form), status_code=400)

    async def style(_request: Request) -> Response:
        return Response(read_stylesheet(), media_type="text/css")

    return Starlette(
        routes=[
            Route("/", show),
            Route("/", search, methods=["POST"]),
            Route("/style.css", style),
        ],
        middleware=[
            Middleware(_SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(_SameSite),
        ],
    )


@dataclass(frozen=True)
class _SafeHeaders:
    """Puts `HEADERS` on every answer."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, sending)


@dataclass(frozen=True)
class _SameSite:
    """Refuses what another site's page sends. A browser says so of itself; what says nothing, such
    as curl, is the person's own."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            headers = Headers(scope=scope)
            site, origin = headers.get("sec-fetch-site"), headers.get("origin")
            own = f"http://{headers.get('host')}"
            if site not in (None, "same-origin", "none") or origin not in (None, own):
                refusal = "the form must be sent from this page; open its address itself"
                await PlainTextResponse(refusal, status_code=403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def listen(port: int) -> socket.socket:
    """A socket on the loopback address; port 0 takes any that is free.

    Raises:
        UsageError: the port is taken, or not ours to take.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {HOST}:{port} ({error.strerror}); choose another --port"
        ) from error
    return listener


def run(demo: SearchApp, listener: socket.socket) -> None:
    """Serve until interrupted."""
    import uvicorn

    config = uvicorn.Config(make_application(demo), log_level="warning", server_header=False)
    uvicorn.Server(config).run(sockets=[listener])
