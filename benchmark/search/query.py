"""What a person searches with: pictures, checked before anything decodes them, and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.decoding import MOST_PIXELS, open_picture
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import read_regular_file
from cirbench.benchmark.runtime.paths import to_text

PLACEHOLDER = "*"


@dataclass(frozen=True, kw_only=True)
class FreeQuery:
    """Pictures and a text. A placeholder in the text stands for a picture, the first for the first.

    Attributes:
        images: none, one, or as many as the prompt has placeholders.
        prompt: may be empty, and may be without a placeholder; then methods of prompts refuse it.
    """

    images: tuple[ImageRef, ...]
    prompt: str = ""

    @property
    def text(self) -> str:
        """The prompt for methods of plain text: without placeholders."""
        return " ".join(word for word in self.prompt.split() if word != PLACEHOLDER)


def pair_queries(images: Sequence[ImageRef], prompts: Sequence[str]) -> list[FreeQuery]:
    """Pair pictures and prompts by position, a prompt of P placeholders taking P pictures; or one
    picture with every prompt. Where there are no prompts each picture is a query, and the reverse.

    Raises:
        UsageError: there is neither, their numbers don't fit, or a prompt is not in UTF-8.
    """
    for prompt in prompts:
        if prompt != to_text(prompt):
            raise UsageError(f"--text must be in UTF-8, got {to_text(prompt)!r}")
    wanted = [max(1, prompt.split().count(PLACEHOLDER)) for prompt in prompts]
    if not images and not prompts:
        raise UsageError("a search needs --image, --text, or both")
    if not prompts:
        return [FreeQuery(images=(image,)) for image in images]
    if not images:
        return [FreeQuery(images=(), prompt=prompt) for prompt in prompts]
    if len(images) == 1 and set(wanted) == {1}:
        images = list(images) * len(prompts)
    if len(images) != sum(wanted):
        raise UsageError(
            f"{len(prompts)} prompts with {sum(wanted)} placeholders need as many pictures, got "
            f"{len(images)}; pass one --image for each placeholder, or one for prompts of one "
            "placeholder"
        )
    left = iter(images)
    return [
        FreeQuery(images=tuple(next(left) for _ in range(count)), prompt=prompt)
        for prompt, count in zip(prompts, wanted, strict=True)
    ]


def make_picture(name: str, content: bytes, *, most_pixels: int = MOST_PIXELS) -> ImageRef:
    """A query's picture from the bytes of its file, its header checked and nothing decoded.

    Raises:
        CorruptData: it is no picture that may be opened, or has more pixels than that.
    """
    try:
        open_picture(content, most_pixels=most_pixels).close()
    except CorruptData as error:
        raise CorruptData(f"picture {name} ({len(content):,} bytes) is refused: {error}") from error
    return ImageRef(id=name, read=lambda: content)


def read_picture(path: Path) -> ImageRef:
    """A query's picture from a file.

    Raises:
        MissingData: it can't be read.
        CorruptData: as `make_picture` does.
    """
    try:
        return make_picture(to_text(path), read_regular_file(path))
    except OSError as error:
        raise MissingData(f"picture {to_text(path)} cannot be read ({error.strerror})") from error
