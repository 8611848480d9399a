"""Pinned npm packages, and the pictures in them. Building wants npm and the build extra."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.datasets.embedded.drawing import paste_on_white, render

Files = Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package, pinned."""

    package: str
    version: str
    sha256: str


def fetch(source: Package, cache: Path) -> Path:
    """The archive of a package, fetched with npm if it is not cached.

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
    return archive


def fetch_files(source: Package, cache: Path) -> Files:
    """The files of a package by their path in it; raises as `fetch`."""
    with tarfile.open(fetch(source, cache)) as tar:
        return {
            member.name.partition("/")[2]: file.read()
            for member in tar.getmembers()
            if (file := tar.extractfile(member)) is not None
        }


def strip_selectors(code: str) -> str:
    """A code of an emoji without variation selectors, by which the packages agree."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


class ShippedPictures:
    """A package of ready pictures, named by code."""

    def __init__(self, files: Files) -> None:
        self._files = {
            strip_selectors(Path(name).stem): content
            for name, content in files.items()
            if name.endswith("webp")
        }

    def draw(self, code: str, slug: str, side: int) -> Image.Image | None:
        """An emoji at `side` pixels on white, by its code; None where there is none."""
        content = self._files.get(code)
        return paste_on_white(decode(content), side) if content else None


class IconifySet:
    """A package of SVG bodies, found by code where it lists codes, else by name."""

    def __init__(self, files: Files) -> None:
        data: dict[str, Any] = json.loads(files["icons.json"])
        self._icons, self._aliases = data["icons"], data.get("aliases", {})
        self._width, self._height = data.get("width", 16), data.get("height", 16)
        listed = json.loads(files.get("chars.json", b"{}"))
        self._names = {strip_selectors(code): name for code, name in listed.items()}

    def draw(self, code: str, slug: str, side: int) -> Image.Image | None:
        """As `ShippedPictures.draw`, by code or slug."""
        name = self._names.get(code) if self._names else slug
        alias = self._aliases.get(name, {})
        icon = self._icons.get(alias.get("parent", name))
        if icon is None:
            return None
        image = paste_on_white(self._render(icon, 2 * side), side)
        return ImageOps.mirror(image) if alias.get("hFlip") else image

    def _render(self, icon: Mapping[str, Any], side: int) -> Image.Image:
        width, height = icon.get("width", self._width), icon.get("height", self._height)
        larger = max(width, height)
        left, top = (width - larger) / 2, (height - larger) / 2
        return render(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" '
            f'viewBox="{left} {top} {larger} {larger}">{icon["body"]}</svg>'
        )
