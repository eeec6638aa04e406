"""Inputs that bodies of control flow run with: values of a run of the model around them, or sampled ones.

What a branch captures is there whether the branch is taken or not, and the first iteration of a Loop or Scan reads
what goes into the node. So bodies are fed without running them in place; where a body refuses what it would never be
given (a branch for other sizes), sizes with which it runs are looked for, and its inputs are sampled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.concrete.bodies import Body, Path, Scopes, Type, lift
from onnxgrow.concrete.runnable import find_runnable, second_variant
from onnxgrow.concrete.session import Output, Session, open_session
from onnxgrow.errors import UnsupportedError

__all__ = ["BodyRuns", "body_runs"]

Array = npt.NDArray[np.generic]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class BodyRuns:
    """A lifted body and inputs with which it runs.

    Attributes:
        body: The body.
        model: It as a model, its inputs typed.
        types: Their types.
        feeds: At least one set of values.
        sampled: Whether they are made up, because the body does not run on those of the model around it.
    """

    body: Body
    model: ir.Model
    types: Mapping[str, Type]
    feeds: tuple[Feeds, ...]
    sampled: bool


def body_runs(
    scopes: Scopes,
    path: Path,
    model: ir.Model,
    feeds: Sequence[Feeds],
    wanted: Collection[Path],
    *,
    seed: int = 0,
) -> dict[Path, BodyRuns | UnsupportedError]:
    """Find inputs for bodies of one graph.

    Args:
        scopes: Of the whole model.
        path: The graph whose nodes run the bodies; () for the main graph.
        model: That graph as a model: the whole model, or the lifted body.
        feeds: Inputs of ``model``.
        wanted: The bodies, all of them children of ``path``.
        seed: Of samples.

    Returns:
        For every body its runs, or why there are none.
    """
    bodies = [scopes.bodies[p] for p in wanted]
    names = {b.path: _names(scopes, path, b) for b in bodies}
    every = list(dict.fromkeys(name for found in names.values() for name in found))
    try:
        seen = list(_recorded(scopes, path, model, feeds, every))
    except UnsupportedError as error:
        return dict.fromkeys(wanted, error)
    found: dict[Path, BodyRuns | UnsupportedError] = {}
    for body in bodies:
        try:
            found[body.path] = _runs(scopes, body, seen, seed)
        except UnsupportedError as error:
            found[body.path] = error
    return found


def _names(scopes: Scopes, path: Path, body: Body) -> list[str]:
    """Computed values that have to be seen to feed a body."""
    names = [v.name for v in body.node.inputs if v is not None and v.name] if body.node.op_type != "If" else []
    names += [n for n in scopes.captured(body.path) if not _is_constant(scopes, path, n)]
    return list(dict.fromkeys(names))


def _is_constant(scopes: Scopes, path: Path, name: str) -> bool:
    where = scopes.find(path, name)
    return where is not None and name in scopes.constants[where]


def _recorded(
    scopes: Scopes, path: Path, model: ir.Model, feeds: Sequence[Feeds], names: Sequence[str]
) -> Iterator[dict[str, Array]]:
    """The named values in a run on each feed; those that are no tensors are left out."""
    constants = {}
    for name in names:
        where = scopes.find(path, name)
        if where is not None and name in scopes.constants[where]:
            constants[name] = np.asarray(scopes.constants[where][name].numpy())
    rest = [n for n in names if n not in constants]
    computed = [n for n in rest if n not in {v.name for v in model.graph.inputs}]
    session = open_session(model, computed) if computed else None
    for one in feeds:
        values = constants | {n: np.asarray(one[n]) for n in rest if n in one}
        for name, output in (session.run(one, computed) if session is not None else {}).items():
            array = output.numpy()
            if array is not None:
                values[name] = array
        yield values


def _runs(scopes: Scopes, body: Body, seen: Sequence[Mapping[str, Array]], seed: int) -> BodyRuns:
    first = [_entering(scopes, body, values) for values in seen]
    types = _types(first)
    model = lift(scopes, body.path, types)
    good = list(_accepted(scopes, body, model, list(zip(seen, first, strict=True))))
    if good:
        return BodyRuns(body, model, types, tuple(good), False)
    types = _loosened(scopes, body, types)
    model = lift(scopes, body.path, types)
    shapes, feeds = find_runnable(model, seed=seed)
    second = second_variant(model, shapes, seed=seed)
    return BodyRuns(body, model, types, (feeds,) if second is None else (feeds, second[1]), True)


def _accepted(
    scopes: Scopes, body: Body, model: ir.Model, tries: Sequence[tuple[Mapping[str, Array], Feeds]]
) -> Iterator[Feeds]:
    """The inputs with which the body runs, each followed by those of the second iteration."""
    try:
        session = open_session(model)
    except UnsupportedError:
        return  # made for other sizes
    for values, one in tries:
        try:
            outputs = session.run(one)
        except UnsupportedError:
            continue
        yield one
        later = _following(scopes, body, values, one, outputs)
        if later is not None and _accepts(session, later):
            yield later


def _accepts(session: Session, feeds: Feeds) -> bool:
    try:
        session.run(feeds)
    except UnsupportedError:
        return False
    return True


def _entering(scopes: Scopes, body: Body, values: Mapping[str, Array]) -> dict[str, Array]:
    """What the body reads when it first runs. Raises UnsupportedError where that is no tensor."""
    own = [v.name or "" for v in body.graph.inputs]
    node = [v.name if v is not None else None for v in body.node.inputs]
    needed = [n for n in scopes.captured(body.path) if not _is_constant(scopes, body.path[:-1], n)]
    lacking = [n for n in (*needed, *(n for n in node if n and body.node.op_type != "If")) if n not in values]
    if lacking:
        raise UnsupportedError(body.label, f"it reads {lacking[0]!r}, which is no tensor", "it stays as it is")
    feeds = {n: values[n] for n in needed}
    if body.node.op_type == "Loop":
        go = values[node[1]] if len(node) > 1 and node[1] else np.array(True)
        start: list[Array] = [np.array(0, np.int64), go, *(values[n] for n in node[2:] if n)]
        for index, (value, x) in enumerate(zip(body.graph.inputs, start, strict=False)):
            # counter and condition are scalars, or vectors of one
            as_declared = index < 2 and value.shape is not None
            feeds[value.name or ""] = x.reshape([1] * len(value.shape or ())) if as_declared else x
    elif body.node.op_type == "Scan":
        states, sequences = _scanned(scopes, body, values)
        feeds.update(zip(own, [*states, *(s[0] for s in sequences)], strict=False))
    if any(n not in feeds for n in own):
        raise UnsupportedError(body.label, "its inputs and those of its node do not fit", "it stays as it is")
    return feeds


def _scanned(scopes: Scopes, body: Body, values: Mapping[str, Array]) -> tuple[list[Array], list[Array]]:
    """States and sequences of a Scan, the scanned axis first and in the order of the run."""
    if scopes.model.opset_imports.get("", 1) < 9:
        raise UnsupportedError(body.label, "Scan before opset 9 is not known", "it stays as it is")
    inputs = [values[v.name] for v in body.node.inputs if v is not None and v.name]
    count = body.node.attributes["num_scan_inputs"].as_int()
    axes = body.node.attributes.get_ints("scan_input_axes", ()) or (0,) * count
    back = body.node.attributes.get_ints("scan_input_directions", ()) or (0,) * count
    sequences = [np.moveaxis(x, a, 0) for x, a in zip(inputs[len(inputs) - count :], axes, strict=True)]
    if any(not len(s) for s in sequences):
        raise UnsupportedError(body.label, "it never runs: its sequence is empty", "give a longer one with --inputs")
    ordered = [np.ascontiguousarray(s[::-1] if b else s) for s, b in zip(sequences, back, strict=True)]
    return inputs[: len(inputs) - count], ordered


def _following(
    scopes: Scopes, body: Body, values: Mapping[str, Array], feeds: Mapping[str, Array], outputs: Mapping[str, Output]
) -> dict[str, Array] | None:
    """What the body reads in its second iteration; None where there is none."""
    if body.node.op_type == "If":
        return None
    results = [outputs[v.name].numpy() if v.name and v.name in outputs else None for v in body.graph.outputs]
    inputs = [v.name or "" for v in body.graph.inputs]
    later = dict(feeds)
    if body.node.op_type == "Loop":
        later[inputs[0]] = np.asarray(np.ones_like(feeds[inputs[0]]))  # the second iteration
        carried = list(zip(inputs[2:], results[1:], strict=False))
    else:
        states, sequences = _scanned(scopes, body, values)
        carried = list(zip(inputs[: len(states)], results, strict=False))
        slices = [s[1] if len(s) > 1 else None for s in sequences]
        carried += zip(inputs[len(states) :], slices, strict=True)
    for name, array in carried:
        if array is None:
            return None
        later[name] = array
    return later


def _types(feeds: Sequence[Feeds]) -> dict[str, Type]:
    """Types of the inputs: sizes that differ between runs are free."""
    found: dict[str, Type] = {}
    for name, array in feeds[0].items():
        shapes = [one[name].shape for one in feeds]
        if len({len(s) for s in shapes}) > 1:
            raise UnsupportedError(name, "its rank differs from run to run", "the body that reads it stays as it is")
        dims = tuple(s[0] if len(set(s)) == 1 else None for s in zip(*shapes, strict=True))
        found[name] = (ir.DataType.from_numpy(array.dtype), dims)
    return found


def _loosened(scopes: Scopes, body: Body, types: Mapping[str, Type]) -> dict[str, Type]:
    """The types with the sizes that the model itself declares; all others are free."""
    found: dict[str, Type] = {}
    for name, (dtype, dims) in types.items():
        where = scopes.find(body.path, name)
        declared = scopes.defined[where][name].shape if where is not None else None
        fits = declared is not None and len(declared) == len(dims)
        sizes = [d if isinstance(d, int) and d > 0 else _symbol(d) for d in declared] if declared and fits else []
        found[name] = (dtype, tuple(sizes) if fits else (None,) * len(dims))
    return found


def _symbol(dim: int | ir.SymbolicDim) -> str | None:
    return dim.value if isinstance(dim, ir.SymbolicDim) and isinstance(dim.value, str) else None
