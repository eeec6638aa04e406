"""Growth inside bodies of control flow, taken apart: every graph in which something grew is judged as a model.

A result is the original with some bodies exchanged. So two things are proved: the result with the original's bodies
put back (its *shell*) is equivalent to the original, and every body that was exchanged is equivalent to the original's
as a function of what it captures. That holds for branches that no sample takes, too. Bodies in which the growth map
lists nothing are no business of this module: they have to be equal where the node that runs them is compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import onnx_ir as ir

from onnxgrow.concrete.bodies import Path, Scopes, lift
from onnxgrow.concrete.body_runs import BodyRuns, body_runs
from onnxgrow.concrete.values import dims_of
from onnxgrow.errors import UnsupportedError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap, NodeChange, SetGrowth, TensorGrowth, ValueGrowth
from onnxgrow.io.copy import copy_body, copy_model
from onnxgrow.io.digest import model_digest
from onnxgrow.verify import accounting
from onnxgrow.verify.inputs import Variant
from onnxgrow.verify.merge import merged
from onnxgrow.verify.report import Finding, TierResult, TierStatus

__all__ = ["BodyPair", "Opened"]


@dataclass(frozen=True)
class BodyPair:
    """A body that grew, lifted out of both models.

    Attributes:
        label: Its name.
        original, grown: It as a model.
        shell: ``grown`` with the original's bodies in place of those inside it that grew, too.
        growth_map: What grew in it.
        run_map: The same, and the constants in it that grew with a body inside it: to run ``grown``, not ``shell``.
        variants: Inputs it runs with.
        refused: Why there are none; empty where there are.
    """

    label: str
    original: ir.Model
    grown: ir.Model
    shell: ir.Model
    growth_map: GrowthMap
    run_map: GrowthMap
    variants: tuple[Variant, ...] = ()
    refused: str = ""


@dataclass
class _Local:
    """What the growth map lists in one graph, by the names of that graph."""

    sets: list[SetGrowth] = field(default_factory=list)
    values: dict[str, ValueGrowth] = field(default_factory=dict)
    tensors: dict[str, TensorGrowth] = field(default_factory=dict)
    nodes: dict[str, NodeChange] = field(default_factory=dict)
    inserted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def map(self, whole: GrowthMap, original: str) -> GrowthMap:
        return replace(
            whole,
            original=original,
            sets=tuple(self.sets),
            values=self.values,
            tensors=self.tensors,
            nodes=self.nodes,
            inserted=tuple(self.inserted),
            removed=tuple(self.removed),
            outputs=tuple(name for name in whole.outputs if name in self.values),
            history=(),
        )


class Opened:
    """Two models and the bodies in which they differ as the growth map says.

    Args:
        original, grown: The models; not modified.
        growth_map: What grew. Names that no body has are taken for names of the main graph.
    """

    def __init__(self, original: ir.Model, grown: ir.Model, growth_map: GrowthMap) -> None:
        self.original, self.grown, self.map = original, grown, growth_map
        self.old, self.new = Scopes(original), Scopes(grown)
        self._local: dict[Path, _Local] = {(): _Local()}
        if self.old.bodies:
            self._sort()
        listed = [path for path in self._local if path]
        every = {path[:depth] for path in listed for depth in range(1, len(path) + 1)}
        self.paths = [path for path in self.old.bodies if path in every]

    def __bool__(self) -> bool:
        """Whether any body grew."""
        return bool(self.paths)

    # ---- whose name it is

    def _sort(self) -> None:
        """Give each name of the growth map to the graph that it belongs to."""
        for key, value in self.map.values.items():
            path, name = self._place(self.new, key)
            self._at(path).values[name] = replace(value, of=self._old_name(value.of))
        for key, tensor in self.map.tensors.items():
            path, name = self._place(self.new, key)
            self._at(path).tensors[name] = replace(
                tensor, of=self._old_name(tensor.of), weights=self._old_name(tensor.weights)
            )
        for key, change in self.map.nodes.items():
            path, name = self._place(self.old, key)
            self._at(path).nodes[name] = change
        for key in self.map.inserted:
            path, name = self._place(self.new, key)
            self._at(path).inserted.append(name)
        for key in self.map.removed:
            path, name = self._place(self.old, key)
            self._at(path).removed.append(name)
        for s in self.map.sets:
            path = next((self._place(self.old, key)[0] for key in (*s.writers, *s.readers)), ())
            names = [tuple(map(self._old_name, keys)) for keys in (s.writers, s.readers)]
            self._at(path).sets.append(replace(s, writers=names[0], readers=names[1]))

    def _at(self, path: Path) -> _Local:
        return self._local.setdefault(path, _Local())

    def _place(self, scopes: Scopes, key: str) -> tuple[Path, str]:
        """The graph a name belongs to in both models, and its name there; the main graph where that is not clear."""
        where, name = scopes.places.get(key, ((), key))
        path = self._home(where, name)
        known = all(
            path[:d] in side.bodies and side.bodies[path[:d]].liftable
            for side in (self.old, self.new)
            for d in range(1, len(path) + 1)
        )
        return (path, name) if known else ((), name)

    def _home(self, where: Path, name: str) -> Path:
        """The graph a constant belongs to in both models; where they disagree, or it is new, the one it is in."""
        old, new = (s.homes.get((where, name)) for s in (self.old, self.new))
        return old if old is not None and old == new else where

    def _old_name(self, key: str) -> str:
        return self.old.places[key][1] if key in self.old.places else key

    # ---- the main graph

    @cached_property
    def main_map(self) -> GrowthMap:
        """What grew in the main graph."""
        return self._local[()].map(self.map, self.map.original)

    @cached_property
    def main_run_map(self) -> GrowthMap:
        """The same, and the constants of the main graph that grew with a body."""
        return self._with_lent((), self.main_map)

    @cached_property
    def shell(self) -> ir.Model:
        """The result with the original's bodies put back, and with the growth map of what is left."""
        shell = self._shell((), self.original, self.grown)
        if METADATA_KEY in shell.metadata_props:
            shell.metadata_props[METADATA_KEY] = self.main_map.dumps()
        return shell

    def _shell(self, path: Path, original: ir.Model, grown: ir.Model) -> ir.Model:
        shell = copy_model(grown)
        inside, source = Scopes(shell), Scopes(original)
        for body in self.paths:
            if body[:-1] != path:
                continue
            step = (body[-1],)
            given = {n: inside.defined[()][n] for n in source.captured(step) if n in inside.defined[()]}
            node = inside.bodies[step].node
            attribute = node.attributes[body[-1][1]]
            graph = copy_body(source.graphs[step], given)
            node.attributes[attribute.name] = ir.Attr(
                attribute.name, ir.AttributeType.GRAPH, graph, doc_string=attribute.doc_string
            )
        for name, _ in self._lent(path):
            _put_back(inside.defined[()][name], source.defined[()][name])
        return shell

    def _with_lent(self, path: Path, local: GrowthMap) -> GrowthMap:
        return replace(local, tensors={**local.tensors, **dict(self._lent(path))})

    def _lent(self, path: Path) -> Iterator[tuple[str, TensorGrowth]]:
        """Constants of a graph that grew because they belong to a body inside it."""
        for below, local in self._local.items():
            if len(below) > len(path) and below[: len(path)] == path:
                for name, growth in local.tensors.items():
                    where = self.old.find(below, name)
                    if where is not None and len(where) <= len(path) and self._home(where, name) == below:
                        yield name, growth

    # ---- tiers

    def account(self) -> TierResult:
        """Accounting of the main graph and of every body that grew."""
        started = time.perf_counter()
        results = [("", accounting.account(self.original, self.shell, self.main_map))]
        stored = self.grown.metadata_props.get(METADATA_KEY)
        for path in self.paths:
            label = self.old.bodies[path].label
            try:
                old, new = lift(self.old, path), lift(self.new, path, also=self.old.captured(path))
                local = self._at(path).map(self.map, model_digest(old))
                found = accounting.account(old, self._shell(path, old, new), local)
            except Exception as error:
                # Whatever breaks while comparing must never look like a match.
                fault = Finding("accounting", f"the check itself failed: {error!r}")
                found = TierResult("accounting", TierStatus.FAILED, {}, (fault,))
            results.append((label, found))
        if stored is not None and not _same_map(stored, self.map):
            fault = Finding("growth map", "the one in the result's metadata is another one, or damaged")
            results.append(("", TierResult("accounting", TierStatus.FAILED, {}, (fault,))))
        return replace(merged("accounting", results), seconds=time.perf_counter() - started)

    def pairs(self, variants: Sequence[Variant], seed: int) -> Iterator[BodyPair]:
        """Every body that grew, lifted out of both models, with inputs.

        Args:
            variants: Inputs of the models.
            seed: Of samples, for bodies that do not run on what the graph around them gives.
        """
        feeds = [one for variant in variants for one in variant.few]
        yield from self._pairs((), self.original, feeds, seed)

    def _pairs(self, path: Path, model: ir.Model, feeds: Sequence[Mapping[str, Any]], seed: int) -> Iterator[BodyPair]:
        wanted = [p for p in self.paths if p[:-1] == path]
        if not wanted:
            return
        for body, runs in body_runs(self.old, path, model, feeds, wanted, seed=seed).items():
            if isinstance(runs, UnsupportedError):
                yield from self._refused(body, runs)
                continue
            grown = lift(self.new, body, runs.types, self.old.captured(body))
            shell = self._shell(body, runs.model, grown)
            local = self._at(body).map(self.map, "")
            label = runs.body.label
            run_map = self._with_lent(body, local)
            yield BodyPair(label, runs.model, grown, shell, local, run_map, tuple(_variants(runs)))
            yield from self._pairs(body, runs.model, runs.feeds, seed)

    def _refused(self, path: Path, error: UnsupportedError) -> Iterator[BodyPair]:
        """A body that cannot be run, and all that grew inside it."""
        for below in self.paths:
            if below[: len(path)] == path:
                local = self._at(below).map(self.map, "")
                reason = f"it cannot be run: {error.subject}: {error.reason}"
                yield BodyPair(
                    self.old.bodies[below].label, self.original, self.grown, self.grown, local, local, refused=reason
                )


def _variants(runs: BodyRuns) -> Iterator[Variant]:
    """The feeds of a body, those of the same sizes together."""
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[Mapping[str, Any]]] = {}
    for one in runs.feeds:
        groups.setdefault(tuple((n, x.shape) for n, x in one.items()), []).append(one)
    notes = (f"{runs.body.label} does not run on the values around it: its inputs are sampled",) if runs.sampled else ()
    for shapes, feeds in groups.items():
        yield Variant(dict(shapes), tuple(feeds), notes, tuple(feeds))
        notes = ()


def _put_back(value: ir.Value, original: ir.Value) -> None:
    """Give a constant the number it has in the original."""
    maker, source = value.producer(), original.producer()
    if maker is None or source is None:
        value.const_value = original.const_value
        if original.const_value is not None and value.shape is not None:
            value.shape = (
                original.shape.copy() if original.shape is not None else ir.Shape(dims_of(original.const_value))
            )
        return
    for name, attribute in source.attributes.items():
        if name in maker.attributes and name.startswith("value"):
            doc = maker.attributes[name].doc_string
            maker.attributes[name] = ir.Attr(name, attribute.type, attribute.value, doc_string=doc)
    value.shape = original.shape.copy() if original.shape is not None else None


def _same_map(text: str, growth_map: GrowthMap) -> bool:
    try:
        return GrowthMap.loads(text).dumps() == growth_map.dumps()
    except ValueError:
        return False
