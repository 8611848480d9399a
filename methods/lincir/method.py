"""LinCIR: Language-only Efficient Training of Zero-shot Composed Image Retrieval.

Gu, Chun, Kim, Kang, Yun. CVPR 2024, arXiv 2312.01998. Inference follows the released code
(navervision/lincir): SEARLE's network and prompts, with a phi that was trained on captions alone;
checkpoints {"epoch", "Phi"}. The pictures go through Hugging Face's preprocessing, references are
rounded to half precision before the tower (protocol `lincir`), and nothing is padded as in SEARLE.

Known deviations: none in inference; for training, see `self_masking`. The authors released one
demonstration model, not the paper's.
"""

from __future__ import annotations

from typing import ClassVar

from cirbench.methods.searle.method import Searle


class LinCIR(Searle):
    """SEARLE with a network that saw no picture in training."""

    name: ClassVar[str] = "lincir"
    released_training: ClassVar[str] = "CC3M captions"
