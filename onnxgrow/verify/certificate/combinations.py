"""New entries that combine the old ones along one axis: judged backwards from the constants, on the result alone.

``mean``: every new entry is the mean of the old ones (or, in front of a layer's own scale, their weighted mean);
``copy``: it equals one of them. Ops that work entry by entry along the axis, or are linear in what they read, pass
such a fact on; constants are compared number by number (:mod:`onnxgrow.verify.certificate.patterns`).
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxgrow.verify.certificate.combining import COMBINING
from onnxgrow.verify.certificate.moved import MOVED
from onnxgrow.verify.certificate.patterns import Pattern, follows
from onnxgrow.verify.certificate.question import Handler, Question
from onnxgrow.verify.certificate.side import Side

__all__ = ["Combinations"]

_DEPTH = 400
_HANDLERS: Mapping[str, Handler] = {**COMBINING, **MOVED}


class Combinations:
    """Answers questions about one model, each once."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._known: dict[tuple[str, int, tuple[bytes, ...]], bool] = {}

    def holds(self, name: str, axis: int, pattern: Pattern, depth: int = 0) -> bool:
        """Whether the new entries of a value along ``axis`` combine its old ones as the pattern says.

        Returns:
            True only when it is proved; False says nothing.
        """
        shape = self.side.shape(name)
        if not name or shape is None or not 0 <= axis < len(shape) or depth > _DEPTH:
            return False
        if not pattern.fits(shape[axis]):
            return False
        if pattern.source is not None and not pattern.new.size:
            return True
        key = (name, axis, pattern.key)
        if key not in self._known:
            reader = self.side.reader(name)
            # A value that is made of constants alone is rounded, too: its ops may prove what its numbers do not show.
            stored = reader is not None and follows(reader, axis, pattern)
            self._known[key] = stored or self._computed(name, axis, pattern, depth)
        return self._known[key]

    def _computed(self, name: str, axis: int, pattern: Pattern, depth: int) -> bool:
        entry = self.side.producer.get(name)
        if entry is None or self.side.is_function(entry[0]):
            return False
        domain = self.side.domain(entry[0])
        handler = _HANDLERS.get(f"{domain}:{entry[0].op_type}" if domain else entry[0].op_type)
        if handler is None:
            return False
        return handler(Question(self.side, self.holds, entry[0], entry[1], axis, pattern, depth + 1))
