"""Plain training of one network, the baseline of every method."""

from ._base import Distiller
from ._common import cross_entropy


class Vanilla(Distiller):
    """Cross-entropy on the labels, no teacher."""

    def __init__(self, student):
        super().__init__(student, None)

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        return logits, {"loss_ce": cross_entropy(logits, target)}
