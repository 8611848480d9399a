"""A method that a package of its own adds to cirbench."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.api.method import Method, Queries


class NegatedImage(Method):
    """Looks for what the reference is least like."""

    name: ClassVar[str] = "negated-image"

    def compose(self, queries: Queries) -> Tensor:
        return normalize(-queries.reference_features, dim=-1)
