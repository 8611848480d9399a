"""A method that a package of its own adds to cirbench."""

from torch import Tensor
from torch.nn.functional import normalize

import cirbench


class NegatedImage(cirbench.Method):
    """Looks for what the reference is least like."""

    name = "negated-image"

    def compose(self, queries: cirbench.Queries) -> Tensor:
        return normalize(-queries.reference_features, dim=-1)
