"""A network that drops at random is refused before anything is grown; one that does not is left in peace."""

from __future__ import annotations

import numpy as np
import pytest
from support import analysis_of, model_of

from onnxgrow.errors import UnsupportedError
from onnxgrow.plan import WidenRequest, plan_widen

WEIGHTS = {"wa": (6, 4), "wb": (4, 3), "half": np.float32(0.5), "nil": np.float32(0), "yes": np.array(True)}


def text(call: str) -> str:
    return f"g (float[2,6] x) => (float[2,3] y) {{ h = MatMul(x, wa) a = {call} y = MatMul(a, wb) }}"


def test_a_dropout_in_training_mode_is_refused_with_the_reason() -> None:
    analysis = analysis_of(model_of(text("Dropout(h, half, yes)"), WEIGHTS))
    with pytest.raises(UnsupportedError, match=r"Dropout a: it is in training mode .* model\.eval"):
        plan_widen(analysis, WidenRequest())


@pytest.mark.parametrize("call", ["Dropout(h)", "Dropout(h, half)", "Dropout(h, nil, yes)"])
def test_a_dropout_that_drops_nothing_is_planned_through(call: str) -> None:
    analysis = analysis_of(model_of(text(call), WEIGHTS))
    assert [p.channel_set.name for p in plan_widen(analysis, WidenRequest()).sets] == ["wa"]
