"""Concrete sizes for the dynamic dimensions of a model's inputs.

Every symbolic dimension gets its own prime, so that two dimensions are never equal by accident: equal sizes
downstream then mean equal dimensions. Primes that occur as a static size in the model are avoided for the
same reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrow.errors import UnsupportedError, UsageError

__all__ = [
    "SHAPE_HINT",
    "Dim",
    "InputSpec",
    "assign",
    "free_symbols",
    "input_specs",
    "pin_inputs",
    "primes_for",
    "real_inputs",
    "static_sizes",
]

SHAPE_HINT = "give its shape with --input-shape NAME:DIMS"

_SMALLEST_PRIME = 5
# Float inputs of this rank are signals, images or volumes: their axes after the batch are strided over.
_SMALLEST_BY_RANK = {2: 29, 3: 29, 4: 67, 5: 17}


@dataclass(frozen=True)
class Dim:
    """One dimension of a graph input: its static ``size``, or (size 0) the ``symbol`` that names it.

    Dimensions without a name get a symbol of their own. A symbol may be an expression of others (``past +
    1``).
    """

    size: int = 0
    symbol: str = ""


@dataclass(frozen=True)
class InputSpec:
    """A graph input: name, element type and dimensions (None: unknown rank)."""

    name: str
    dtype: ir.DataType
    dims: tuple[Dim, ...] | None


def real_inputs(model: ir.Model) -> list[ir.Value]:
    """The graph inputs a caller has to feed: those that are not initializers as well."""
    return [value for value in model.graph.inputs if value.name and value.name not in model.graph.initializers]


def input_specs(model: ir.Model) -> list[InputSpec]:
    """Describe every real graph input.

    Raises:
        UnsupportedError: An input is a sequence, a map or optional, or has no declared type.
    """
    specs = []
    for value in real_inputs(model):
        name = value.name or ""
        if not isinstance(value.type, ir.TensorType):
            kind = "has no declared type" if value.type is None else f"is a {type(value.type).__name__}"
            raise UnsupportedError(f"input {name!r}", f"it {kind}, not a tensor", "only tensor inputs can be fed")
        dims: tuple[Dim, ...] | None = None
        if value.shape is not None:
            dims = tuple(_dim(d, name, axis) for axis, d in enumerate(value.shape))
        specs.append(InputSpec(name, value.type.dtype, dims))
    return specs


def _dim(dim: int | ir.SymbolicDim, name: str, axis: int) -> Dim:
    if isinstance(dim, int):
        # Some exporters write -1 or 0 for "any size".
        return Dim(size=dim) if dim > 0 else Dim(symbol=f"{name}.{axis}")
    text = (str(dim.value) if dim.value is not None else "").strip()
    if text.isdigit() and int(text) > 0:
        return Dim(size=int(text))
    # "?" and "-1" are what some exporters write for a dimension without a name.
    named = text not in ("", "?", "None") and not text.lstrip("-").isdigit()
    return Dim(symbol=text if named else f"{name}.{axis}")


def pin_inputs(
    model: ir.Model, user_shapes: Mapping[str, Sequence[int]] | None = None, variant: int = 0
) -> dict[str, tuple[int, ...]]:
    """Choose a concrete shape for every real graph input.

    Static dimensions stay. Every symbol gets a prime ≥ 5 of its own that is no static size of the model, the
    same wherever it occurs, and other primes in another ``variant``. Shapes given by the user win, and bind
    the symbols they meet in other inputs too.

    Args:
        model: The model; not modified.
        user_shapes: Input name → dimensions, all positive.
        variant: 0 for the first set of sizes, 1 for the second.

    Returns:
        Input name → shape, in the order of the graph's inputs.

    Raises:
        UsageError: A user shape names no input, or disagrees in rank or in a static dimension.
        UnsupportedError: An input is no tensor, or its rank is unknown and no shape is given.
    """
    specs = input_specs(model)
    symbols = free_symbols(specs)
    sizes = primes_for(symbols.values(), avoid=static_sizes(model, specs), variant=variant)
    return assign(specs, dict(zip(symbols, sizes, strict=True)), user_shapes)


def primes_for(starts: Iterable[int], avoid: set[int], variant: int = 0) -> list[int]:
    """A prime of its own for each wanted smallest size; other ``variant``s use other primes."""
    wanted = list(starts)
    taken = set(avoid)
    chosen: list[int] = []
    for _ in range(variant + 1):
        chosen = []
        for start in wanted:
            chosen.append(_next_prime(start, taken))
            taken.add(chosen[-1])
    return chosen


def assign(
    specs: Sequence[InputSpec],
    sizes: Mapping[str, int],
    user_shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Put ``sizes`` (symbol → size) into the inputs' shapes; raises as :func:`pin_inputs`."""
    given = {name: tuple(int(d) for d in dims) for name, dims in (user_shapes or {}).items()}
    unknown = sorted(given.keys() - {spec.name for spec in specs})
    if unknown:
        names = ", ".join(spec.name for spec in specs)
        raise UsageError(f"input shape {unknown[0]!r}", "the model has no such input", f"inputs are: {names}")
    bound = dict(sizes)
    for spec in specs:
        if spec.name in given:
            _check_user_shape(spec, given[spec.name])
            for dim, size in zip(spec.dims or (), given[spec.name], strict=bool(spec.dims)):
                if dim.symbol and _is_name(dim.symbol):
                    bound[dim.symbol] = size
    shapes = {}
    for spec in specs:
        if spec.name in given:
            shapes[spec.name] = given[spec.name]
        elif spec.dims is None:
            raise UnsupportedError(f"input {spec.name!r}", "its rank is not declared", SHAPE_HINT)
        else:
            shapes[spec.name] = tuple(dim.size or _evaluate(dim.symbol, bound) for dim in spec.dims)
    return shapes


def _check_user_shape(spec: InputSpec, shape: tuple[int, ...]) -> None:
    subject = f"input shape {spec.name!r}"
    if any(size <= 0 for size in shape):
        raise UsageError(subject, f"{list(shape)} holds a size that is not positive")
    if spec.dims is None:
        return
    if len(spec.dims) != len(shape):
        raise UsageError(subject, f"{list(shape)} has {len(shape)} dimensions, the input has {len(spec.dims)}")
    for axis, (dim, size) in enumerate(zip(spec.dims, shape, strict=True)):
        if dim.size and dim.size != size:
            raise UsageError(subject, f"dimension {axis} is {size}, the model fixes it at {dim.size}")


def static_sizes(model: ir.Model, specs: Sequence[InputSpec]) -> set[int]:
    """All sizes in the inputs' static dimensions and in the shapes of initializers and Constants."""
    sizes = {dim.size for spec in specs for dim in spec.dims or () if dim.size}
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            sizes.update(int(d) for d in value.const_value.shape.numpy())
    for node in model.graph:
        if node.op_type == "Constant":
            tensor = node.attributes.get("value")
            if tensor is not None and tensor.type == ir.AttributeType.TENSOR:
                sizes.update(int(d) for d in tensor.as_tensor().shape.numpy())
    return sizes


def free_symbols(specs: Sequence[InputSpec]) -> dict[str, int]:
    """Symbols that need a size of their own → smallest sensible size, in order of appearance.

    Symbols inside expressions are included. Spatial axes start larger, so that a few strided layers do not
    reduce them to 1, where sizes can no longer be told apart.
    """
    seen: dict[str, int] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.dims or ()):
            for symbol in _names(dim.symbol) if dim.symbol else ():
                seen[symbol] = max(seen.get(symbol, 0), _smallest(spec, axis))
    return seen


def _smallest(spec: InputSpec, axis: int) -> int:
    if axis == 0 or not spec.dtype.is_floating_point():
        return _SMALLEST_PRIME
    return _SMALLEST_BY_RANK.get(len(spec.dims or ()), _SMALLEST_PRIME)


def _parse(symbol: str) -> ast.expr | None:
    """The expression a symbol spells, or None where it is a plain name (of any characters)."""
    try:
        tree = ast.parse(symbol, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if isinstance(tree, ast.BinOp) and _supported(tree) else None


def _supported(tree: ast.expr) -> bool:
    if isinstance(tree, ast.BinOp):
        operators = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv)
        return isinstance(tree.op, operators) and _supported(tree.left) and _supported(tree.right)
    return isinstance(tree, ast.Name) or (isinstance(tree, ast.Constant) and type(tree.value) is int)


def _is_name(symbol: str) -> bool:
    return _parse(symbol) is None


def _names(symbol: str) -> list[str]:
    tree = _parse(symbol)
    if tree is None:
        return [symbol]
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return [node.id for node in sorted(found, key=lambda node: node.col_offset)]


def _evaluate(symbol: str, sizes: Mapping[str, int]) -> int:
    tree = _parse(symbol)
    return sizes[symbol] if tree is None else max(1, _value(tree, sizes))


def _value(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.BinOp):
        left, right = _value(tree.left, sizes), _value(tree.right, sizes)
        if isinstance(tree.op, ast.Add):
            return left + right
        if isinstance(tree.op, ast.Sub):
            return left - right
        if isinstance(tree.op, ast.Mult):
            return left * right
        return left // right if right else 0
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    return int(ast.literal_eval(tree))


def _next_prime(start: int, taken: set[int]) -> int:
    candidate = start | 1
    while candidate in taken or any(candidate % d == 0 for d in range(3, int(candidate**0.5) + 1, 2)):
        candidate += 2
    return candidate
