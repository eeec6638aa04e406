"""What grew, as data: the growth map, format version 1.

A pass writes it while it grows a model; the verifier, the optimizer-state growth and the checkpoint export
read it. It claims, for every value and tensor that changed, where the old entries went and what is known of
the new ones. It holds no times, no paths and no hash of itself, so the same growth gives the same bytes.
The JSON form is described by ``growth_map.schema.json`` beside this file.

Ground floor: imports numpy, and of this package only the axis maps and the strict JSON reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnxgrow import strict_json as js
from onnxgrow.axis_map import AxisMap

__all__ = [
    "CONTENTS",
    "DRAWN",
    "FILLED",
    "FORMAT",
    "IDENTITY",
    "MERGED",
    "METADATA_KEY",
    "ONES",
    "SCALED",
    "TAKEN_BACK",
    "ZEROS",
    "GrowthMap",
    "NodeChange",
    "SetGrowth",
    "TensorGrowth",
    "ValueGrowth",
]

METADATA_KEY = "onnxgrow.growth_map"
FORMAT = "onnxgrow.growth_map"
VERSION = 1
_KEYS = (
    *("format", "version", "original", "generation", "seed", "exact", "sets", "maps", "values", "tensors"),
    *("nodes", "inserted", "removed", "recipe", "versions", "history"),
)

SCALED = "scaled"
"""Formula of a tensor whose old entries are the original's times ``factor``, in float64, rounded once."""

IDENTITY = "identity"
ZEROS = "zeros"
ONES = "ones"
FILLED = "filled"
DRAWN = "drawn"
TAKEN_BACK = "taken-back"
CONTENTS = (IDENTITY, ZEROS, ONES, FILLED, DRAWN, TAKEN_BACK)
"""Formulas of new tensors, whose every entry follows from the map, the shape and the dtype alone; but initial draws
(``drawn``), which are free: what they lead to has to be zero."""
MERGED = "merged"
"""Formula of a new weight or bias that two linear layers make together; rounded, so in inexact maps only."""


Axes = Mapping[int, AxisMap]


@dataclass(frozen=True)
class ValueGrowth:
    """A computed value of the result whose axes grew.

    Attributes:
        axes: Axis (non-negative) → map. Axes that are not listed did not grow.
        of: Name of the value of the original it stands for; empty when the name is the same.
        factor: What its old entries are multiplied by (inside a norm over channels that grew).
    """

    axes: Axes
    of: str = ""
    factor: float = 1.0


@dataclass(frozen=True)
class TensorGrowth:
    """A constant tensor of the result (initializer, or output of a Constant node) that is new or changed.

    Attributes:
        axes: Axis → map, as for values.
        of: Name of the tensor of the original; empty when the name is the same.
        formula: How old entries relate to the original: empty for bit-equal; ``operand`` for an integer
            operand of a shape op (sizes, split points …), which is judged by the shapes it leads to;
            for a new tensor one of ``CONTENTS``: ``identity`` (a unit matrix, or the weight of a convolution with a
            1 at tap ⌊k/2⌋ of the channel itself), ``zeros``, ``ones``, ``filled`` (with ``factor``), ``drawn``
            (initial values, any finite ones) or ``taken-back`` (one number, ``factor`` rounded once, that an inserted
            Mul multiplies a standardised weight by);
            otherwise the id of a named formula that the verifier recomputes.
        factor: Factor on old entries where the formula has one (optimizer moments follow it).
        weights: Name of the constant of the original that weighs the old entries in a ``mean``; empty when they
            count alike.
        over: Further axes that a ``mean`` is taken over: with them it is that of a whole fan-in.
        sha256: Hex digest of the tensor's little-endian bytes (``TensorProto.raw_data`` form) in the result.
    """

    axes: Axes = field(default_factory=dict)
    of: str = ""
    formula: str = ""
    factor: float = 1.0
    sha256: str = ""
    weights: str = ""
    over: tuple[int, ...] = ()


@dataclass(frozen=True)
class NodeChange:
    """How a node of the result differs from the node of the original with the same first output.

    Attributes:
        attributes: Name → (old, new); None where the attribute is absent.
        inputs: Index → (old name, new name); an absent input has the empty name.
    """

    attributes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    inputs: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class SetGrowth:
    """One channel set that grew: the unit users select and read about.

    Attributes:
        name: Stable, recognisable name (its first writer's).
        old, new: Number of channels before and after.
        writers, readers: Names of the weights that write and read it.
        method: ``zero-fan-out``, ``zero-fan-in``, ``near-zero`` or ``net2wider``; for the width of a residual stream
            what its new channels hold: ``residual-mean``, ``residual-zero`` or ``residual-copy``.
    """

    name: str
    old: int
    new: int
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    method: str = "zero-fan-out"


@dataclass(frozen=True)
class GrowthMap:
    """Everything one growth changed.

    Nodes are keyed by their first non-empty output name. ``inserted`` and ``removed`` use the same keys. What is inside
    a body of control flow is listed by its name, too, after the label of the body (``If_0.then_branch/w``) where
    another graph of the model has the same name. ``exact`` is False where the user asked for an inexact method: such a
    result is never called equivalent.

    Attributes:
        original: Hex digest of the original (see ``onnxgrow.io.digest.model_digest``).
        recipe: What was asked for, as JSON data.
        history: Growth maps of earlier generations, oldest first, as JSON data without their own history.
        inlined: Local functions (``domain::name``) whose calls were inlined because channels inside them grew: names
            of the original are those it has after that.
        outputs: Graph outputs that grew, which has to be asked for by name: a change of the interface, so that such a
            result is never called equivalent either. Their old entries are the original's.
        calls: Calls of local functions that are new, or that went: the map speaks of both models with these calls
            expanded (see :func:`onnxgrow.concrete.calls.expanded`).
    """

    original: str = ""
    generation: int = 1
    seed: int = 0
    exact: bool = True
    sets: tuple[SetGrowth, ...] = ()
    values: Mapping[str, ValueGrowth] = field(default_factory=dict)
    tensors: Mapping[str, TensorGrowth] = field(default_factory=dict)
    nodes: Mapping[str, NodeChange] = field(default_factory=dict)
    inserted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    inlined: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; equal axis maps are stored once in ``maps`` and referred to by index."""
        table: dict[AxisMap, int] = {}

        def axes(m: Axes) -> dict[str, int]:
            return {str(axis): table.setdefault(m[axis], len(table)) for axis in sorted(m)}

        def lean(d: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in d.items() if k not in defaults or v != defaults[k]}

        values = {
            k: lean({"axes": axes(v.axes), "of": v.of, "factor": v.factor}, {"of": "", "factor": 1.0})
            for k, v in sorted(self.values.items())
        }
        tensors = {
            k: lean(
                {
                    "axes": axes(t.axes),
                    "of": t.of,
                    "formula": t.formula,
                    "factor": t.factor,
                    "sha256": t.sha256,
                    "weights": t.weights,
                    "over": list(t.over),
                },
                {"axes": {}, "of": "", "formula": "", "factor": 1.0, "sha256": "", "weights": "", "over": []},
            )
            for k, t in sorted(self.tensors.items())
        }
        nodes = {
            k: lean(
                {
                    "attributes": {a: list(c) for a, c in sorted(n.attributes.items())},
                    "inputs": {str(i): list(c) for i, c in sorted(n.inputs.items())},
                },
                {"attributes": {}, "inputs": {}},
            )
            for k, n in sorted(self.nodes.items())
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "original": self.original,
            "generation": self.generation,
            "seed": self.seed,
            "exact": self.exact,
            "sets": [
                {
                    "name": s.name,
                    "old": s.old,
                    "new": s.new,
                    "writers": list(s.writers),
                    "readers": list(s.readers),
                    "method": s.method,
                }
                for s in self.sets
            ],
            "maps": [m.to_json() for m in table],
            "values": values,
            "tensors": tensors,
            "nodes": nodes,
            "inserted": list(self.inserted),
            "removed": list(self.removed),
            "recipe": dict(self.recipe),
            "versions": dict(self.versions),
            "history": [dict(h) for h in self.history],
            **({"inlined": list(self.inlined)} if self.inlined else {}),
            **({"outputs": list(self.outputs)} if self.outputs else {}),
            **({"calls": list(self.calls)} if self.calls else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GrowthMap:
        """Rebuild from :meth:`to_json` data.

        Raises:
            ValueError: Another format or version, or data that is malformed or could be read in two ways: an
                unknown key, a string for a number, an axis map that is none.
        """
        try:
            return cls._parse(data)
        except ValueError as e:
            raise ValueError(f"malformed growth map: {e}") from e

    @classmethod
    def _parse(cls, data: Mapping[str, Any]) -> GrowthMap:
        top = js.mapping(data, "top")
        version = top.get("version")
        if top.get("format") != FORMAT or version != VERSION or isinstance(version, bool):
            raise ValueError(f"not of format {FORMAT} version {VERSION}")
        top = js.record(data, "top", _KEYS, ("inlined", "outputs", "calls"))
        maps = [AxisMap.from_json(m) for m in js.items(top["maps"], "maps")]

        def axes(value: Any, where: str) -> dict[int, AxisMap]:
            chosen = {axis: js.integer(i, where, least=0) for axis, i in js.indexed(value, where).items()}
            js.require(all(i < len(maps) for i in chosen.values()), where, "a map that does not exist")
            return {axis: maps[i] for axis, i in chosen.items()}

        def channel_set(value: Any) -> SetGrowth:
            s = js.record(value, "sets", ("name", "old", "new", "writers", "readers", "method"))
            return SetGrowth(
                js.text(s["name"], "sets.name"),
                js.integer(s["old"], "sets.old", least=0),
                js.integer(s["new"], "sets.new", least=0),
                js.texts(s["writers"], "sets.writers"),
                js.texts(s["readers"], "sets.readers"),
                js.text(s["method"], "sets.method"),
            )

        def value_growth(name: str, value: Any) -> ValueGrowth:
            where = f"values[{name!r}]"
            v = js.record(value, where, ("axes",), ("of", "factor"))
            factor = js.number(v.get("factor", 1.0), where)
            return ValueGrowth(axes(v["axes"], where), js.text(v.get("of", ""), where), factor)

        def tensor_growth(name: str, value: Any) -> TensorGrowth:
            where = f"tensors[{name!r}]"
            t = js.record(value, where, (), ("axes", "of", "formula", "factor", "sha256", "weights", "over"))
            return TensorGrowth(
                axes(t.get("axes", {}), where),
                js.text(t.get("of", ""), where),
                js.text(t.get("formula", ""), where),
                js.number(t.get("factor", 1.0), where),
                js.text(t.get("sha256", ""), where),
                js.text(t.get("weights", ""), where),
                tuple(js.integer(a, where, 0) for a in js.items(t.get("over", []), where)),
            )

        def node_change(name: str, value: Any) -> NodeChange:
            where = f"nodes[{name!r}]"
            n = js.record(value, where, (), ("attributes", "inputs"))
            attributes = {k: js.items(c, where, 2) for k, c in js.mapping(n.get("attributes", {}), where).items()}
            inputs = {
                i: js.texts(js.items(c, where, 2), where) for i, c in js.indexed(n.get("inputs", {}), where).items()
            }
            return NodeChange(
                {k: (c[0], c[1]) for k, c in attributes.items()}, {i: (c[0], c[1]) for i, c in inputs.items()}
            )

        return cls(
            original=js.text(top["original"], "original"),
            generation=js.integer(top["generation"], "generation", least=0),
            seed=js.integer(top["seed"], "seed"),
            exact=js.flag(top["exact"], "exact"),
            sets=tuple(channel_set(s) for s in js.items(top["sets"], "sets")),
            values={k: value_growth(k, v) for k, v in js.mapping(top["values"], "values").items()},
            tensors={k: tensor_growth(k, t) for k, t in js.mapping(top["tensors"], "tensors").items()},
            nodes={k: node_change(k, n) for k, n in js.mapping(top["nodes"], "nodes").items()},
            inserted=js.texts(top["inserted"], "inserted"),
            removed=js.texts(top["removed"], "removed"),
            recipe=js.mapping(top["recipe"], "recipe"),
            versions={k: js.text(v, "versions") for k, v in js.mapping(top["versions"], "versions").items()},
            history=tuple(js.mapping(h, "history") for h in js.items(top["history"], "history")),
            inlined=js.texts(top.get("inlined", []), "inlined"),
            outputs=js.texts(top.get("outputs", []), "outputs"),
            calls=js.texts(top.get("calls", []), "calls"),
        )

    def dumps(self) -> str:
        """Compact JSON text: the same map always gives the same characters."""
        return json.dumps(self.to_json(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def loads(cls, text: str) -> GrowthMap:
        """Raises ValueError when ``text`` is no growth map."""
        try:
            data = js.mapping(js.loads(text), "growth map")
        except ValueError as e:
            raise ValueError(f"malformed growth map: {e}") from e
        return cls.from_json(data)

    @classmethod
    def of_model(cls, metadata: Mapping[str, str]) -> GrowthMap | None:
        """The growth map in a model's ``metadata_props``, or None. Raises ValueError if it is malformed."""
        text = metadata.get(METADATA_KEY)
        return None if text is None else cls.loads(text)

    def with_digests(self, digests: Mapping[str, str]) -> GrowthMap:
        """A copy with ``sha256`` filled in for the tensors named in ``digests``."""
        tensors = {k: replace(t, sha256=digests.get(k, t.sha256)) for k, t in self.tensors.items()}
        return replace(self, tensors=tensors)
