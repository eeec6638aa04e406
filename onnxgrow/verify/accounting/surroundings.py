"""What surrounds the nodes: header, metadata, functions, inputs and outputs."""

from __future__ import annotations

from typing import Any

from onnxgrow.growth_map import METADATA_KEY, Axes
from onnxgrow.io.carry import Carried, Frame, frame_of
from onnxgrow.verify.accounting.declared import declared_difference
from onnxgrow.verify.accounting.ledger import Ledger
from onnxgrow.verify.certificate.equality import function_difference

__all__ = ["check_carried", "check_functions", "check_header", "check_interface"]


def check_header(ledger: Ledger) -> None:
    """Versions, producer, opset imports, metadata, and what is written of the graph."""
    for what in (
        "ir_version",
        "producer_name",
        "producer_version",
        "domain",
        "model_version",
        "doc_string",
    ):
        a, b = getattr(ledger.original, what), getattr(ledger.grown, what)
        if (a or "") != (b or ""):
            ledger.fault(what.replace("_", " "), f"{a!r} became {b!r}")
    old, new = dict(ledger.original.opset_imports), dict(ledger.grown.opset_imports)
    if old != new:
        ledger.fault("opset imports", f"{old} became {new}")
    props = [{k: v for k, v in m.metadata_props.items() if k != METADATA_KEY} for m in (ledger.original, ledger.grown)]
    for name in sorted(props[0].keys() | props[1].keys()):
        if props[0].get(name) != props[1].get(name):
            ledger.fault(f"metadata {name!r}", f"{props[0].get(name)!r} became {props[1].get(name)!r}")
    if list(ledger.original.device_configurations or ()) != list(ledger.grown.device_configurations or ()):
        ledger.fault("device configurations", "they differ")
    a_graph, b_graph = ledger.original.graph, ledger.grown.graph
    for what in ("name", "doc_string"):
        if (getattr(a_graph, what) or "") != (getattr(b_graph, what) or ""):
            ledger.fault(f"graph {what.replace('_', ' ')}", "it differs")
    if dict(a_graph.metadata_props) != dict(b_graph.metadata_props):
        ledger.fault("graph metadata", "they differ")


def check_carried(ledger: Ledger, old: Carried, new: Carried) -> None:
    """What ``onnx_ir`` cannot hold: training information, and descriptions that describe no value."""
    if old.training_info != new.training_info:
        ledger.fault("training info", "it differs")
    for name in sorted(_trained(old) & (ledger.map.tensors.keys() | ledger.map.values.keys())):
        ledger.fault(name, "it grew, and the training information of the model reads or updates it as it was")
    frames = frame_of(ledger.original.graph), frame_of(ledger.grown.graph)
    if _entries(frames[0]) != _entries(frames[1]):
        ledger.fault("value descriptions", "those that describe no value of the graph differ")


def _trained(carried: Carried) -> set[str]:
    """Names that training information may mean the network's values by."""
    found: set[str] = set()
    for info in carried.training_info:
        found.update(binding.key for binding in info.update_binding)
        found.update(name for g in (info.initialization, info.algorithm) for node in g.node for name in node.input)
    return found


def check_functions(ledger: Ledger) -> None:
    """Local functions, in order."""
    old, new = ledger.original.functions, ledger.grown.functions
    if list(old) != list(new):
        ledger.fault("functions", f"{len(old)} became {len(new)}, or their order or names differ")
    for identifier in old:
        if identifier in new:
            difference = function_difference(old[identifier], new[identifier])
            ledger.expect(difference, f"function {old[identifier].name}")


def check_interface(ledger: Ledger) -> None:
    """Inputs and outputs of the graph."""
    for what, old, new in (
        ("inputs", ledger.original.graph.inputs, ledger.grown.graph.inputs),
        ("outputs", ledger.original.graph.outputs, ledger.grown.graph.outputs),
    ):
        if [v.name for v in old] != [v.name for v in new]:
            ledger.fault(f"graph {what}", f"{[v.name for v in old]} became {[v.name for v in new]}")
            continue
        for a, b in zip(old, new, strict=True):
            # Old files list every initializer as an input, too; such an input has the shape of its tensor.
            stored = a.name in ledger.original.graph.initializers and a.name in ledger.map.tensors
            axes = ledger.map.tensors[a.name].axes if stored and a.name else {}
            if what == "outputs" and a.name in ledger.map.outputs:
                axes = _output_axes(ledger, a.name)
            ledger.expect(declared_difference(a, b, axes), a.name or "")
    _outputs_are_listed(ledger)


def _output_axes(ledger: Ledger, name: str) -> Axes:
    growth = ledger.map.values.get(name)
    return {} if growth is None else growth.axes


def _outputs_are_listed(ledger: Ledger) -> None:
    """An output grows only where the map says so in so many words, and says so only of what grew."""
    names = [v.name or "" for v in ledger.grown.graph.outputs]
    for name in names:
        growth = ledger.map.values.get(name)
        if name not in ledger.map.outputs and any(not m.is_identity for m in _output_axes(ledger, name).values()):
            ledger.fault(name, "a graph output that grew, which the growth map does not list under its outputs")
        listed = growth if name in ledger.map.outputs else None
        if listed is not None and (listed.of not in ("", name) or listed.factor != 1):
            ledger.fault(name, "a graph output that grew has to stand for itself, unscaled")
    for name in ledger.map.outputs:
        if name not in names or not _output_axes(ledger, name):
            ledger.fault(name, "listed among the outputs that grew, but it is none, or did not grow")


def _entries(frame: Frame) -> list[list[tuple[str, Any]]]:
    return [[entry for entry in part if entry[1] is not None] for part in (frame.value_info, frame.annotations)]
