"""What all passes that insert something do with their plan, and the arguments that they share."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import onnx_ir as ir

from onnxgrow.analysis.study import Study, study
from onnxgrow.errors import UsageError
from onnxgrow.growth_map import GrowthMap
from onnxgrow.io import copy_model
from onnxgrow.passes.base import Grown, GrowthPass, Lineage, lineage
from onnxgrow.passes.deepen.builder import Builder
from onnxgrow.passes.deepen.places import Place
from onnxgrow.passes.deepen.plan import Where
from onnxgrow.passes.rewriter import Rewriter

__all__ = ["Insertion", "Selectors", "check_every", "kernel_of", "where_of"]

LARGEST_KERNEL = 1 << 10
Selectors = Sequence[str] | str | None


class _Part(Protocol):
    @property
    def place(self) -> Place: ...


P_co = TypeVar("P_co", bound=_Part, covariant=True)
P = TypeVar("P", bound=_Part)


class Plan(Protocol[P_co]):
    """What is inserted: JSON data of what was asked for, the parts in order, and whether the result is exact."""

    @property
    def recipe(self) -> Mapping[str, Any]: ...
    @property
    def parts(self) -> Sequence[P_co]: ...
    @property
    def exact(self) -> bool: ...
    def to_json(self) -> dict[str, Any]: ...


class Insertion(GrowthPass, Generic[P]):
    """A pass that inserts parts into a network: a subclass plans them, and builds one of them at its place."""

    seed = 0
    inline: Collection[str] | None = None
    """Local functions that are looked into (all of them); what is inserted lies between their calls."""

    @abc.abstractmethod
    def planned(self, found: Study) -> Plan[P]:
        """The plan for a network that was studied."""

    @abc.abstractmethod
    def insert(self, build: Builder, part: P, value: str, past: Lineage) -> str:
        """Add the nodes of ``part`` behind ``value``; returns the name of what stands for it now."""

    def plan(self, model: ir.Model) -> Plan[P]:
        """What would be done."""
        return self.planned(self._studied(model))

    def preview(self, model: ir.Model) -> Mapping[str, Any]:
        """The plan, JSON data."""
        return self.plan(model).to_json()

    def grow(self, model: ir.Model) -> Grown:
        """Insert into a copy of ``model``."""
        return self.carry_out(self._studied(model))

    def carry_out(self, found: Study) -> Grown:
        """Insert into a copy of a model that was studied."""
        plan, past = self.planned(found), lineage(found.given)
        self.proof.say(f"inserting at {len(plan.parts)} places")
        grown = copy_model(found.given)
        build = Builder(Rewriter(grown))
        for part in plan.parts:
            key, index = part.place.readers[0]
            read = build.rewriter.node(key).inputs[index]
            assert read is not None
            build.lead_to(part.place, self.insert(build, part, read.name or "", past))
        growth_map = GrowthMap(
            original=past.original,
            generation=past.generation,
            seed=self.seed,
            exact=plan.exact,
            values=build.values,
            tensors=build.tensors,
            nodes=build.rewriter.node_changes(),
            inserted=tuple(build.rewriter.inserted),
            recipe=plan.recipe,
            versions=past.versions,
            history=past.history,
            calls=tuple(build.calls),
        )
        return Grown(grown, growth_map, plan.to_json())

    def _studied(self, model: ir.Model) -> Study:
        self.proof.say("analysing")
        return study(model, input_shapes=self.proof.input_shapes, inputs=self.proof.inputs, inline=self.inline)


def where_of(at: Selectors, after: Selectors, before: Selectors, every: int) -> Where:
    """The places that the arguments of a pass mean.

    Raises:
        UsageError: ``every`` is no positive whole number, or given beside named places.
    """

    def listed(given: Selectors) -> tuple[str, ...]:
        return () if given is None else (given,) if isinstance(given, str) else tuple(given)

    where = Where(listed(at), listed(after), listed(before), every)
    check_every(every, where.named)
    return where


def check_every(every: int, named: bool) -> None:
    """Refuse an ``every`` that is no positive whole number, or is given beside named places."""
    if type(every) is not int or every < 1:
        raise UsageError("every", f"{every!r} is no positive whole number")
    if every != 1 and named:
        raise UsageError("every", "it picks among the automatic places, but places are named", "leave one of them out")


def kernel_of(kernel: int | Sequence[int]) -> int | tuple[int, ...]:
    """Kernel size: one for every axis, or one per axis.

    Raises:
        UsageError: A size is no whole number from 1 to :data:`LARGEST_KERNEL`.
    """
    sizes = (kernel,) if isinstance(kernel, int) else tuple(kernel)
    if not sizes or not all(type(n) is int and 0 < n <= LARGEST_KERNEL for n in sizes):
        raise UsageError("kernel", f"{kernel!r} is no kernel size", f"sizes are from 1 to {LARGEST_KERNEL}")
    return kernel if isinstance(kernel, int) else sizes
