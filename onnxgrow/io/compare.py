"""The structure of a model without its weights, and where two such structures differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped] # protobuf ships no types

from onnxgrow.io.structure import attribute_tensors

__all__ = ["first_difference", "known_skeleton", "skeleton"]

_PAYLOAD = frozenset(
    {
        *("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data", "raw_data"),
        *("external_data", "data_location"),
    }
)


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which dense tensors keep all but their data; sparse ones are copied whole."""
    return known_skeleton(model)[0]


def known_skeleton(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """The skeleton, and whether the installed ``onnx`` knows all fields of the model.

    No data of a dense tensor is touched: measuring or listing a message that holds data copies them.
    """
    copier = _Copier()
    result = onnx.ModelProto()
    copier.fields(model, result, {"graph": copier.graph, "functions": copier.function})
    size = result.ByteSize()
    result.DiscardUnknownFields()  # which messages that were copied whole have kept
    return result, not copier.unknown and result.ByteSize() == size


class _Copier:
    """Copies a model without data.

    Attributes:
        unknown: Whether a message that was taken apart has fields that the installed ``onnx`` does not know.
    """

    def __init__(self) -> None:
        self.unknown = False

    def _look(self, message: Any) -> None:
        self.unknown |= len(UnknownFieldSet(message)) > 0

    def fields(self, source: Any, target: Any, special: dict[str, Any]) -> None:
        """Copy a message, fields named in ``special`` by the functions given there."""
        self._look(source)
        for field, value in source.ListFields():
            copy = special.get(field.name)
            if _is_repeated(field):
                for element in value:
                    if copy is None:
                        getattr(target, field.name).append(element)
                    else:
                        copy(element, getattr(target, field.name).add())
            elif copy is not None:
                getattr(target, field.name).SetInParent()
                copy(value, getattr(target, field.name))
            elif field.message_type is not None:
                getattr(target, field.name).CopyFrom(value)
            else:
                setattr(target, field.name, value)

    def graph(self, source: onnx.GraphProto, target: onnx.GraphProto) -> None:
        self.fields(source, target, {"node": self.node, "initializer": self.tensor})

    def function(self, source: onnx.FunctionProto, target: onnx.FunctionProto) -> None:
        self.fields(source, target, {"node": self.node, "attribute_proto": self.attribute})

    def node(self, source: onnx.NodeProto, target: onnx.NodeProto) -> None:
        if any(_is_deep(attribute) for attribute in source.attribute):
            self.fields(source, target, {"attribute": self.attribute})
        else:
            target.CopyFrom(source)

    def attribute(self, source: onnx.AttributeProto, target: onnx.AttributeProto) -> None:
        if _is_deep(source):
            tensor, graph = self.tensor, self.graph
            self.fields(source, target, {"g": graph, "graphs": graph, "t": tensor, "tensors": tensor})
        else:
            target.CopyFrom(source)

    def tensor(self, source: onnx.TensorProto, target: onnx.TensorProto) -> None:
        """Copy what a tensor has beside its data, without asking for these."""
        self._look(source)
        for entry in source.external_data:
            self._look(entry)
        for field in source.DESCRIPTOR.fields:
            if field.name in _PAYLOAD:
                continue
            if _is_repeated(field):
                getattr(target, field.name).extend(getattr(source, field.name))
            elif source.HasField(field.name):
                value = getattr(source, field.name)
                if field.message_type is not None:
                    getattr(target, field.name).CopyFrom(value)
                else:
                    setattr(target, field.name, value)


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def _is_deep(attribute: onnx.AttributeProto) -> bool:
    kinds = onnx.AttributeProto
    return attribute.type in (kinds.GRAPH, kinds.GRAPHS) or any(True for _ in attribute_tensors(attribute))


def first_difference(old: Any, new: Any) -> str:
    """Path and kind of the first difference of two messages, or an empty string.

    A text or number that is present but empty equals one that is absent: ONNX gives no meaning to the
    difference.
    """
    return "" if old == new else next(_differences(old, new, ""), "")


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    old_fields = {field.name: (field, value) for field, value in old.ListFields()}
    new_fields = {field.name: (field, value) for field, value in new.ListFields()}
    for name in sorted({*old_fields, *new_fields}):
        here = f"{path}.{name}" if path else name
        if name not in new_fields or name not in old_fields:
            value = (old_fields.get(name) or new_fields[name])[1]
            if not isinstance(value, (str, bytes, int)) or value:
                yield f"{here} was {'lost' if name in old_fields else 'added'}"
            continue
        field, value = old_fields[name]
        other = new_fields[name][1]
        if value == other:
            continue
        if field.message_type is None:
            yield f"{here} changed"
        elif hasattr(value, "ListFields"):
            yield from _differences(value, other, here)
        elif len(value) != len(other):
            yield f"{here} has {len(other)} entries instead of {len(value)}"
        else:
            for index, (a, b) in enumerate(zip(value, other, strict=True)):
                yield from _differences(a, b, f"{here}[{index}]")
