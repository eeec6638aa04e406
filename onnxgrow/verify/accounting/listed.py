"""The growth map itself: it is sound, and claims nothing of values that do not exist or did not grow."""

from __future__ import annotations

from onnxgrow.growth_map import METADATA_KEY, GrowthMap, TensorGrowth, ValueGrowth
from onnxgrow.io.digest import model_digest
from onnxgrow.verify.accounting.ledger import Ledger

__all__ = ["check_growth_map", "check_listed_values"]


def check_growth_map(ledger: Ledger) -> None:
    """The growth map is sound, is the one that the result holds, and was made for this original."""
    growths: list[tuple[str, ValueGrowth | TensorGrowth]] = [*ledger.map.values.items(), *ledger.map.tensors.items()]
    for name, growth in growths:
        for axis, axis_map in growth.axes.items():
            ledger.expect(axis_map.problems(), f"growth map: {name}, axis {axis}")
    for name in ledger.map.values.keys() & ledger.map.tensors.keys():
        ledger.fault(name, "the growth map lists it both as a value and as a tensor")
    if len(ledger.inserted) != len(ledger.map.inserted) or len(ledger.removed) != len(ledger.map.removed):
        ledger.fault("growth map", "a node is listed twice")
    stored = ledger.grown.metadata_props.get(METADATA_KEY)
    if stored is not None:
        try:
            same = GrowthMap.loads(stored).dumps() == ledger.map.dumps()
        except ValueError as error:
            ledger.fault("growth map", f"the one in the result's metadata is damaged: {error}")
        else:
            if not same:
                ledger.fault("growth map", "the one in the result's metadata is another one")
    empty = not (ledger.map.values or ledger.map.tensors or ledger.map.nodes or ledger.inserted or ledger.removed)
    if not (empty and not ledger.map.original) and ledger.map.original != model_digest(ledger.original):
        ledger.fault("growth map", "it was made for another original (its digest does not match)")


def check_listed_values(ledger: Ledger) -> None:
    """Values that the growth map lists: they are there, stand for one of the original, and grew."""
    made = {value.name: value for node in ledger.grown.graph for value in node.outputs if value.name}
    known = {value.name or "" for node in ledger.original.graph for value in node.outputs}
    known.update(value.name or "" for value in ledger.original.graph.inputs)
    known.update(ledger.original.graph.initializers)
    for name, growth in ledger.map.values.items():
        if name not in made:
            ledger.fault(name, "the growth map lists a value that no node of the result makes")
        if (growth.of or name) not in known:
            ledger.fault(name, f"stands for {growth.of or name!r}, which the original does not have")
        same = growth.of in ("", name) and growth.factor == 1
        if same and all(axis.is_identity for axis in growth.axes.values()):
            ledger.fault(name, "the growth map lists a value that did not grow")
