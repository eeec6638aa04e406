"""Growing what has grown, in many orders: every link is proved, the history is kept, and the whole chain verifies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from residual_models import resnet, transformer

import onnxgrow
from onnxgrow.io import model_digest
from onnxgrow.passes import (
    AddActiSwitch,
    AddBlocks,
    CopyBlocks,
    EnlargeKernel,
    Fold,
    GrowthPass,
    InsertIdentity,
    Widen,
)
from onnxgrow.recipe import RunRecipe, read_recipe
from onnxgrow.verify.report import Verdict

STEPS: dict[str, Callable[[], GrowthPass]] = {
    "actiswitch": lambda: AddActiSwitch(every=2, as_function=True),
    "blocks": lambda: AddBlocks("mlp", every=3, ratio=1.0),
    "copy": lambda: CopyBlocks(0),
    "deepen": lambda: InsertIdentity(every=3),
    "enlarge": lambda: EnlargeKernel(to=5),
    "fold": Fold,
    "function": lambda: InsertIdentity(every=3, as_function=True),
    "residual": lambda: Widen(residual=True, factor=2.0),
    "widen": lambda: Widen(factor=1.5),
}

ORDERS: dict[str, tuple[Callable[[], ir.Model], str]] = {
    "cnn, inlined and called again": (
        lambda: resnet(1),
        "function enlarge widen copy actiswitch fold",
    ),
    "cnn, widened twice": (lambda: resnet(1), "widen deepen widen blocks enlarge fold"),
    "transformer": (lambda: transformer(1), "actiswitch function copy fold residual"),
}


@pytest.mark.parametrize("name", ORDERS)
def test_a_chain_of_growths_verifies_from_end_to_end(name: str) -> None:
    make, order = ORDERS[name]
    original = make()
    digests = []
    model = original
    for step in order.split():
        digests.append(model_digest(model))
        model = STEPS[step]().grow(model).model
    growth_map = onnxgrow.GrowthMap.of_model(model.metadata_props)
    assert growth_map is not None
    assert growth_map.generation == len(order.split())
    assert [*(h["original"] for h in growth_map.history), growth_map.original] == digests
    report = onnxgrow.verify(original, model)
    assert report.verdict is Verdict.EQUIVALENT
    assert all(t.status.value == "passed" for t in report.tiers)


RECIPE = """
steps:
  - widen: {{factor: 1.5}}
  - deepen: {{every: 3, as-function: true}}
  - actiswitch: {{as-function: true}}
  - enlarge-kernel: {{to: 5, layer: "{layer}"}}
  - blocks: {{block: mlp, ratio: 1, every: 4}}
  - blocks: {{copy: 0, after: {after}}}
  - fold
"""


def test_a_recipe_of_all_steps_is_one_proof(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(RECIPE.format(layer="*0", after="1"), encoding="utf-8")
    result = RunRecipe(read_recipe(path))(resnet(2))
    assert result.report.verdict is Verdict.EQUIVALENT
    assert result.growth_map.generation == 7
    assert [h["recipe"].get("pass", "widen") for h in result.growth_map.history] == [
        *("widen", "deepen", "actiswitch", "enlarge-kernel", "add-blocks", "copy-blocks"),
    ]
    assert not any(f.name.startswith("ActiSwitch") for f in result.model.functions.values())


def test_copies_go_to_one_place_in_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("steps:\n  - blocks: {copy: 0, after: [a, b]}\n", encoding="utf-8")
    with pytest.raises(onnxgrow.UsageError, match="one place"):
        RunRecipe(read_recipe(path))(resnet(1))
