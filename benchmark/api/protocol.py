"""Evaluation protocols as data: everything that decides a number, besides the model and the data.

Two records whose protocols differ in any field have different hashes and never share a table.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from cirbench.benchmark.runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """One named, versioned way to evaluate a task.

    Attributes:
        name, version: what a person calls it; the hash is what a record is held to.
        gallery: which pictures are ranked, in words that the task's own documentation defines.
        reference: what of the reference picture is looked at, in the same way.
        reference_removed: whether a query's own reference is taken out of its ranking.
        caption_orders: whether a query of two captions is asked once, as annotated, or twice, the
            second time with its captions exchanged.
        preprocess: a name in `cirbench.benchmark.images.preprocess.PREPROCESSES`.
        reference_preprocess: that of references; empty: as the gallery's.
        templates: text per family of methods ("text" for encoders of plain text, "pseudo-word"
            for prompts with a placeholder, "inadditiontothat" and "and-token" for vocabularies in
            which that is a word), in `str.format` syntax over a query's fields.
        wording: what of a query's texts the templates take, in words that every table repeats,
            where the field measures with more than one.
        group_fields: template fields that all queries of one group share.
        image_text_sum: how image+text adds: features normalised first, or raw.
        overlong_text: "error" refuses a text that exceeds the context; "truncate" cuts it.
        metrics: names that `cirbench.benchmark.scoring.metrics.parse_metric` knows.
        headline: the metric that ranks a leaderboard's rows, on the average.
        group_metric: the one that tables give by group; empty: the headline.
        recall_epsilon: added to the number of positives in the denominator of recall.
        averages: name → the groups whose plain mean it is; "average" is that of all groups where it
            is not named here.

    Examples:
        >>> import cirbench
        >>> protocol = cirbench.load_task("emoji").protocols["emoji"]
        >>> protocol.headline, protocol.hash
        ('R@10', '6d247013dd41')
    """

    name: str
    version: int
    gallery: str
    reference_removed: bool
    preprocess: str
    reference_preprocess: str = ""
    reference: str = "whole picture"
    caption_orders: Literal["first", "both"] = "first"
    templates: Mapping[str, str]
    wording: str = ""
    group_fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    image_text_sum: Literal["normalised", "raw"] = "normalised"
    overlong_text: Literal["error", "truncate"] = "error"
    metrics: tuple[str, ...]
    headline: str
    group_metric: str = ""
    recall_epsilon: int | float = 0.0
    averages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The protocol as plain data, for a record or for the terminal.

        A field that earlier records lack is there only where it says something, so that a record
        of before is written as it was read.
        """
        later = {
            "caption_orders": "first",
            "reference_preprocess": "",
            "wording": "",
            "group_metric": "",
        }
        return {k: v for k, v in asdict(self).items() if k not in later or v != later[k]}

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that any change of any field changes.

        A field that has its default is left out, so that one added later renames no old protocol.
        """
        defaults = {f.name: f.default for f in fields(self)}
        said = {k: v for k, v in self.as_dict().items() if v != defaults[k] and v != {}}
        canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{self.name} v{self.version}" + (f" · text: {self.wording}" if self.wording else "")

    @property
    def preprocess_of_references(self) -> str:
        """The way from a reference to a tower's input, by its name."""
        return self.reference_preprocess or self.preprocess

    @property
    def times_asked(self) -> int:
        """How many queries one annotation of two captions makes."""
        return 2 if self.caption_orders == "both" else 1

    def averages_over(self, groups: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Name the averages of a task with these groups, and the groups of each."""
        return {"average": groups, **self.averages}

    def text(self, family: str, group: str, fields: Mapping[str, str]) -> str:
        """The text of one query for one family of methods.

        Raises:
            UsageError: the protocol has no template for the family, or a field is missing.
        """
        if family not in self.templates:
            known = ", ".join(sorted(self.templates))
            raise UsageError(
                f"protocol {self.name} has no text for methods of the family {family!r} "
                f"(it has: {known}); choose another --protocol"
            )
        template = self.templates[family]
        values = {**self.group_fields.get(group, {}), **fields}
        missing = [f for _, f, _, _ in string.Formatter().parse(template) if f and f not in values]
        if missing:
            raise UsageError(
                f"protocol {self.name}: the template {template!r} wants {', '.join(missing)}, "
                f"which queries of the group {group!r} do not have"
            )
        return template.format(**values)
