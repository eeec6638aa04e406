"""The structure of a model without its weights, and where two such structures differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from onnxgrow.io.structure import attribute_tensors

__all__ = ["first_difference", "skeleton"]

_PAYLOAD = frozenset(
    {
        *("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data", "raw_data"),
        *("external_data", "data_location"),
    }
)


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which dense tensors keep all but their data; sparse ones are copied whole."""
    result = onnx.ModelProto()
    _copy_fields(model, result, {"graph": _graph, "functions": _function})
    return result


def _copy_fields(source: Any, target: Any, special: dict[str, Any]) -> None:
    for field, value in source.ListFields():
        copy = special.get(field.name)
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
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


def _graph(source: onnx.GraphProto, target: onnx.GraphProto) -> None:
    _copy_fields(source, target, {"node": _node, "initializer": _tensor})


def _function(source: onnx.FunctionProto, target: onnx.FunctionProto) -> None:
    _copy_fields(source, target, {"node": _node, "attribute_proto": _attribute})


def _node(source: onnx.NodeProto, target: onnx.NodeProto) -> None:
    if any(_is_deep(attribute) for attribute in source.attribute):
        _copy_fields(source, target, {"attribute": _attribute})
    else:
        target.CopyFrom(source)


def _is_deep(attribute: onnx.AttributeProto) -> bool:
    kinds = onnx.AttributeProto
    return attribute.type in (kinds.GRAPH, kinds.GRAPHS) or any(True for _ in attribute_tensors(attribute))


def _attribute(source: onnx.AttributeProto, target: onnx.AttributeProto) -> None:
    if _is_deep(source):
        _copy_fields(source, target, {"g": _graph, "graphs": _graph, "t": _tensor, "tensors": _tensor})
    else:
        target.CopyFrom(source)


def _tensor(source: onnx.TensorProto, target: onnx.TensorProto) -> None:
    for field, value in source.ListFields():
        if field.name in _PAYLOAD:
            continue
        if field.name in ("name", "doc_string", "data_type"):
            setattr(target, field.name, value)
        elif field.name in ("dims", "metadata_props"):
            getattr(target, field.name).extend(value)
        else:
            getattr(target, field.name).CopyFrom(value)


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
