"""Accounting: everything of the original is in the result, equal or listed in the growth map, and nothing else is.

It proves no equivalence. It makes sure that whatever the certificate looks at is all there is: no node, tensor, name,
doc string, metadata entry or type was lost, changed or added in silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from onnxgrow.concrete.values import constants, dims_of
from onnxgrow.growth_map import CONTENTS, MERGED, METADATA_KEY, Axes, GrowthMap, TensorGrowth, ValueGrowth
from onnxgrow.io.carry import Carried, Frame, frame_of, model_carried
from onnxgrow.io.digest import model_digest, tensor_digest
from onnxgrow.verify.certificate.equality import (
    attribute_difference,
    function_difference,
    node_difference,
    tensor_with_names_difference,
    value_difference,
)
from onnxgrow.verify.certificate.formulas import OPERAND
from onnxgrow.verify.contents import content_difference
from onnxgrow.verify.fit import shape_difference
from onnxgrow.verify.report import Finding, TierResult, TierStatus

__all__ = ["MAX_FINDINGS", "account"]

MAX_FINDINGS = 20


def account(
    original: ir.Model,
    grown: ir.Model,
    growth_map: GrowthMap,
    *,
    original_extra: Carried | None = None,
    grown_extra: Carried | None = None,
) -> TierResult:
    """Compare both models completely, except for what the growth map lists, and the list with what is there.

    Args:
        original, grown: The models; not modified. Tensors are read in blocks of at most 32 MB.
        growth_map: What may differ. It is checked to be consistent and to claim nothing that did not change.
        original_extra, grown_extra: What ``onnx_ir`` cannot hold; by default what rides with the models.

    Returns:
        The tier ``accounting``; a fault in the checking itself is a finding, too.
    """
    started = time.perf_counter()
    run = _Account(original, grown, growth_map)
    extras = (
        model_carried(original) if original_extra is None else original_extra,
        model_carried(grown) if grown_extra is None else grown_extra,
    )
    steps: tuple[Callable[[], None], ...] = (
        run.growth_map_is_sound,
        run.models,
        lambda: run.carried(*extras),
        run.functions,
        run.interface,
        run.nodes,
        run.node_values,
        run.initializers,
        run.listed_tensors,
        run.listed_values,
    )
    for step in steps:
        try:
            step()
        except _EnoughFindingsError:
            break
        except Exception as error:
            # Whatever breaks while comparing must never look like a match.
            run.findings.append(Finding("accounting", f"the check itself failed: {error!r}"))
    status = TierStatus.FAILED if run.findings else TierStatus.PASSED
    seconds = time.perf_counter() - started
    return TierResult("accounting", status, dict(run.figures), tuple(run.findings[:MAX_FINDINGS]), seconds)


class _EnoughFindingsError(Exception):
    """Enough findings: the rest would not change the verdict."""


def _key(node: ir.Node) -> str:
    return next((value.name for value in node.outputs if value.name), "")


def _names(node: ir.Node) -> list[str]:
    return [value.name or "" if value is not None else "" for value in node.inputs]


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


class _Account:
    """One comparison in progress."""

    def __init__(self, original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> None:
        self.original, self.grown, self.map = original, grown, growth_map
        self.old_nodes = {_key(node): node for node in original.graph}
        self.new_nodes = {_key(node): node for node in grown.graph}
        self.inserted, self.removed = set(growth_map.inserted), set(growth_map.removed)
        self.findings: list[Finding] = []
        self.figures: dict[str, Any] = {
            "nodes_compared": 0,
            "nodes_inserted": len(self.inserted),
            "nodes_removed": len(self.removed),
            "tensors_equal": 0,
            "tensors_listed": len(growth_map.tensors),
            "values_listed": len(growth_map.values),
        }

    def fault(self, subject: str, reason: str) -> None:
        self.findings.append(Finding(subject, reason))
        if len(self.findings) >= MAX_FINDINGS:
            raise _EnoughFindingsError

    def expect(self, difference: str, subject: str) -> None:
        if difference:
            self.fault(subject, difference)

    # The growth map itself.

    def growth_map_is_sound(self) -> None:
        growths: list[tuple[str, ValueGrowth | TensorGrowth]] = [*self.map.values.items(), *self.map.tensors.items()]
        for name, growth in growths:
            for axis, axis_map in growth.axes.items():
                self.expect(axis_map.problems(), f"growth map: {name}, axis {axis}")
        for name in self.map.values.keys() & self.map.tensors.keys():
            self.fault(name, "the growth map lists it both as a value and as a tensor")
        if len(self.inserted) != len(self.map.inserted) or len(self.removed) != len(self.map.removed):
            self.fault("growth map", "a node is listed twice")
        stored = self.grown.metadata_props.get(METADATA_KEY)
        if stored is not None:
            try:
                same = GrowthMap.loads(stored).dumps() == self.map.dumps()
            except ValueError as error:
                self.fault("growth map", f"the one in the result's metadata is damaged: {error}")
            else:
                if not same:
                    self.fault("growth map", "the one in the result's metadata is another one")
        empty = not (self.map.values or self.map.tensors or self.map.nodes or self.inserted or self.removed)
        if not (empty and not self.map.original) and self.map.original != model_digest(self.original):
            self.fault("growth map", "it was made for another original (its digest does not match)")

    # What surrounds the graph.

    def models(self) -> None:
        for what in (
            "ir_version",
            "producer_name",
            "producer_version",
            "domain",
            "model_version",
            "doc_string",
        ):
            a, b = getattr(self.original, what), getattr(self.grown, what)
            if (a or "") != (b or ""):
                self.fault(what.replace("_", " "), f"{a!r} became {b!r}")
        old, new = dict(self.original.opset_imports), dict(self.grown.opset_imports)
        if old != new:
            self.fault("opset imports", f"{old} became {new}")
        props = [{k: v for k, v in m.metadata_props.items() if k != METADATA_KEY} for m in (self.original, self.grown)]
        for name in sorted(props[0].keys() | props[1].keys()):
            if props[0].get(name) != props[1].get(name):
                self.fault(f"metadata {name!r}", f"{props[0].get(name)!r} became {props[1].get(name)!r}")
        if list(self.original.device_configurations or ()) != list(self.grown.device_configurations or ()):
            self.fault("device configurations", "they differ")
        a_graph, b_graph = self.original.graph, self.grown.graph
        for what in ("name", "doc_string"):
            if (getattr(a_graph, what) or "") != (getattr(b_graph, what) or ""):
                self.fault(f"graph {what.replace('_', ' ')}", "it differs")
        if dict(a_graph.metadata_props) != dict(b_graph.metadata_props):
            self.fault("graph metadata", "they differ")

    def carried(self, old: Carried, new: Carried) -> None:
        if old.training_info != new.training_info:
            self.fault("training info", "it differs")
        frames = frame_of(self.original.graph), frame_of(self.grown.graph)
        if _entries(frames[0]) != _entries(frames[1]):
            self.fault("value descriptions", "those that describe no value of the graph differ")

    def functions(self) -> None:
        old, new = self.original.functions, self.grown.functions
        if list(old) != list(new):
            self.fault("functions", f"{len(old)} became {len(new)}, or their order or names differ")
        for identifier in old:
            if identifier in new:
                difference = function_difference(old[identifier], new[identifier])
                self.expect(difference, f"function {old[identifier].name}")

    def interface(self) -> None:
        for what, old, new in (
            ("inputs", self.original.graph.inputs, self.grown.graph.inputs),
            ("outputs", self.original.graph.outputs, self.grown.graph.outputs),
        ):
            if [v.name for v in old] != [v.name for v in new]:
                self.fault(f"graph {what}", f"{[v.name for v in old]} became {[v.name for v in new]}")
                continue
            for a, b in zip(old, new, strict=True):
                # Old files list every initializer as an input, too; such an input has the shape of its tensor.
                stored = a.name in self.original.graph.initializers and a.name in self.map.tensors
                axes = self.map.tensors[a.name].axes if stored and a.name else {}
                if what == "outputs" and a.name in self.map.outputs:
                    axes = self._output_axes(a.name)
                self.expect(_value_difference(a, b, axes), a.name or "")
        self._outputs_are_listed()

    def _output_axes(self, name: str) -> Axes:
        growth = self.map.values.get(name)
        return {} if growth is None else growth.axes

    def _outputs_are_listed(self) -> None:
        """An output grows only where the map says so in so many words, and says so only of what grew."""
        names = [v.name or "" for v in self.grown.graph.outputs]
        for name in names:
            growth = self.map.values.get(name)
            if name not in self.map.outputs and any(not m.is_identity for m in self._output_axes(name).values()):
                self.fault(name, "a graph output that grew, which the growth map does not list under its outputs")
            listed = growth if name in self.map.outputs else None
            if listed is not None and (listed.of not in ("", name) or listed.factor != 1):
                self.fault(name, "a graph output that grew has to stand for itself, unscaled")
        for name in self.map.outputs:
            if name not in names or not self._output_axes(name):
                self.fault(name, "listed among the outputs that grew, but it is none, or did not grow")

    # Nodes.

    def nodes(self) -> None:
        for key in sorted(self.inserted):
            if key not in self.new_nodes or self._in_original(key):
                self.fault(key, "listed as inserted, but it is missing, or it is no new node")
        for key in sorted(self.removed):
            if not self._in_original(key) or key in self.new_nodes or key in self.grown.graph.initializers:
                self.fault(key, "listed as removed, but it is still there, or never was")
        for key in self.map.nodes:
            if key not in self.old_nodes or key not in self.new_nodes:
                self.fault(key, "the growth map lists a change of a node that does not exist in both models")
        old = [key for key in map(_key, self.original.graph) if key not in self.removed]
        new = [key for key in map(_key, self.grown.graph) if key not in self.inserted]
        if old != new:
            self._order(old, new)
            return
        old_nodes = [node for node in self.original.graph if _key(node) not in self.removed]
        new_nodes = [node for node in self.grown.graph if _key(node) not in self.inserted]
        for a, b in zip(old_nodes, new_nodes, strict=True):
            self._node(a, b)
            self.figures["nodes_compared"] += 1

    def _in_original(self, key: str) -> bool:
        return key in self.old_nodes or key in self.original.graph.initializers

    def _order(self, old: list[str], new: list[str]) -> None:
        lost = [key for key in old if key not in self.new_nodes]
        added = [key for key in new if key not in self.old_nodes]
        for key in lost:
            self.fault(key, "the node that makes it is gone")
        for key in added:
            self.fault(key, "a new node makes it, which the growth map does not list")
        if not lost and not added:
            self.fault("nodes", "their order or number differs")

    def _node(self, old: ir.Node, new: ir.Node) -> None:
        key = _key(old)
        change = self.map.nodes.get(key)
        attributes = dict(change.attributes) if change is not None else {}
        inputs = dict(change.inputs) if change is not None else {}
        except_for = set(attributes)
        if _is_constant(old) and key in self.map.tensors:
            except_for |= {name for name in (*old.attributes, *new.attributes) if name.startswith("value")}
            if list(old.attributes) != list(new.attributes):
                self.fault(key, "its constant is held by another attribute")
        self.expect(node_difference(old, new, except_for=except_for, inputs=False), key)
        for name, values in attributes.items():
            found = tuple(_plain(node.attributes.get(name)) for node in (old, new))
            listed = tuple(_listed(value) for value in values)
            if found != listed or found[0] == found[1]:
                self.fault(key, f"attribute {name!r} is {found[0]} → {found[1]}, listed as {listed[0]} → {listed[1]}")
        self._inputs(key, _names(old), _names(new), inputs)

    def _inputs(self, key: str, old: list[str], new: list[str], changes: Mapping[int, tuple[str, str]]) -> None:
        length = max([len(old), len(new), *(index + 1 for index in changes)])
        old, new = ([*names, *[""] * (length - len(names))] for names in (old, new))
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            listed = changes.get(index)
            if listed is None and a != b:
                self.fault(key, f"input {index} {a!r} became {b!r}, which the growth map does not list")
            elif listed is not None and (tuple(listed) != (a, b) or a == b):
                self.fault(key, f"input {index} is {a!r} → {b!r}, listed as {listed[0]!r} → {listed[1]!r}")
        if any(index < 0 for index in changes):
            self.fault(key, "the growth map lists a negative input index")

    def node_values(self) -> None:
        """What is written of each node output: type, shape, doc string, metadata, quantisation annotation."""
        for key, node in self.old_nodes.items():
            other = self.new_nodes.get(key)
            if other is None or len(other.outputs) != len(node.outputs):
                continue  # said already
            for a, b in zip(node.outputs, other.outputs, strict=True):
                growth = self.map.values.get(a.name or "") or self.map.tensors.get(a.name or "")
                self.expect(_value_difference(a, b, growth.axes if growth is not None else {}), a.name or key)

    # Tensors.

    def initializers(self) -> None:
        old, new = self.original.graph.initializers, self.grown.graph.initializers
        for name in new:
            if name not in old and name not in self.map.tensors:
                self.fault(name, "a new tensor, which the growth map does not list")
        kept = [name for name in old if name not in self.removed]
        if kept != [name for name in new if name in old]:
            for name in kept:
                if name not in new:
                    self.fault(name, "the tensor is gone")
            if all(name in new for name in kept):
                self.fault("initializers", "their order differs")
        for name in kept:
            if name in new:
                self._initializer(name, old[name], new[name])

    def _initializer(self, name: str, old: ir.Value, new: ir.Value) -> None:
        listed = name in self.map.tensors
        self.expect(value_difference(old, new, shape=not listed), name)
        a, b = old.const_value, new.const_value
        if a is None or b is None:
            if a is not b:
                self.fault(name, "its data are missing in one of the two models")
            return
        difference = tensor_with_names_difference(a, b, data=not listed)
        self.expect(difference, name)
        if not listed and not difference:
            self.figures["tensors_equal"] += 1

    def listed_tensors(self) -> None:
        old_tensors, new_tensors = constants(self.original), constants(self.grown)
        for name, growth in self.map.tensors.items():
            new = new_tensors.get(name)
            if new is None:
                self.fault(name, "the growth map lists a tensor that the result does not have")
                continue
            if not growth.sha256 or growth.sha256 != tensor_digest(new):
                self.fault(name, "its bytes are not those the growth map was made for (sha256)")
            of = growth.of or name
            old = old_tensors.get(of)
            if growth.formula in CONTENTS:
                self._new_tensor(name, growth, new)
                continue
            if old is None:
                if growth.of:
                    self.fault(name, f"stands for {of!r}, which the original does not have")
                elif growth.formula != OPERAND and (growth.formula != MERGED or self.map.exact):
                    self.fault(name, "a new tensor that stands for none of the original")
                continue
            self._listed_tensor(name, growth, old, new)

    def _new_tensor(self, name: str, growth: TensorGrowth, new: ir.TensorProtocol) -> None:
        """A tensor of an inserted layer: nothing else reads it, and the map says every entry of it."""
        if growth.of or growth.axes or self._in_original(name):
            self.fault(name, f"its formula {growth.formula!r} is one of new tensors, but it stands for an old one")
        readers = {_key(node) for node in self.grown.graph if name in _names(node)}
        outside = sorted(readers - self.inserted)
        if outside or name in {v.name for v in self.grown.graph.outputs}:
            self.fault(name, f"a new tensor that something old reads: {', '.join(outside) or 'a graph output'}")
        self.expect(content_difference(growth, new), name)

    def _listed_tensor(self, name: str, growth: TensorGrowth, old: ir.TensorProtocol, new: ir.TensorProtocol) -> None:
        if old.dtype != new.dtype:
            self.fault(name, f"dtype {old.dtype} became {new.dtype}")
        if growth.formula == OPERAND:
            return
        self.expect(shape_difference(dims_of(old), dims_of(new), growth.axes), name)
        same_name = growth.of in ("", name)
        if same_name and not growth.formula and all(axis.is_identity for axis in growth.axes.values()):
            self.fault(name, "the growth map lists a tensor that did not grow")

    def listed_values(self) -> None:
        made = {value.name: value for node in self.grown.graph for value in node.outputs if value.name}
        known = {value.name or "" for node in self.original.graph for value in node.outputs}
        known.update(value.name or "" for value in self.original.graph.inputs)
        known.update(self.original.graph.initializers)
        for name, growth in self.map.values.items():
            if name not in made:
                self.fault(name, "the growth map lists a value that no node of the result makes")
            if (growth.of or name) not in known:
                self.fault(name, f"stands for {growth.of or name!r}, which the original does not have")
            same = growth.of in ("", name) and growth.factor == 1
            if same and all(axis.is_identity for axis in growth.axes.values()):
                self.fault(name, "the growth map lists a value that did not grow")


def _entries(frame: Frame) -> list[list[tuple[str, Any]]]:
    return [[entry for entry in part if entry[1] is not None] for part in (frame.value_info, frame.annotations)]


def _value_difference(old: ir.Value, new: ir.Value, axes: Axes) -> str:
    """As :func:`value_difference`, but a static dim may change as its axis map says."""
    if not axes or old.shape is None or new.shape is None:
        return value_difference(old, new)
    difference = value_difference(old, new, shape=False)
    if difference:
        return difference
    if len(old.shape) != len(new.shape):
        return f"shape {old.shape} became {new.shape}"
    for number, (a, b) in enumerate(zip(old.shape, new.shape, strict=True)):
        axis_map = axes.get(number)
        # A declared size that was wrong before is no declaration to follow: it has to stay as it is.
        if axis_map is not None and isinstance(a, int) and isinstance(b, int) and a == axis_map.old_size:
            if b != axis_map.new_size:
                return f"axis {number} is written as {a} → {b}, but grew {axis_map.old_size} → {axis_map.new_size}"
        elif a != b or old.shape.get_denotation(number) != new.shape.get_denotation(number):
            return f"shape {old.shape} became {new.shape}"
    return ""


def _plain(attribute: ir.Attr | None) -> Any:
    """An attribute's value as the growth map writes it; tensors, graphs and types have no such form."""
    if attribute is None:
        return None
    if attribute.is_ref() or attribute_difference(attribute, attribute):
        return ("no plain value", attribute.name)
    if attribute.type in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING):
        return attribute.value
    if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return list(attribute.value)
    return ("no plain value", attribute.name)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
