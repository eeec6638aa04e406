"""Which residual blocks will be inserted where; no weight is read, but for masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from onnxgrow.analysis.study import Study
from onnxgrow.errors import UnsupportedError, UsageError
from onnxgrow.passes.blocks.copying import Copy, moved, planned_copy
from onnxgrow.passes.blocks.fresh import Block, planned_block
from onnxgrow.passes.blocks.residuals import Residual, find_residuals, grouped
from onnxgrow.passes.deepen.functions import FUNCTIONS
from onnxgrow.passes.deepen.places import Illegal, Place, Places, collect
from onnxgrow.passes.deepen.plan import Where

__all__ = ["BlockPlan", "CopiedLayer", "plan_blocks", "plan_copies"]


@dataclass(frozen=True)
class CopiedLayer:
    """Consecutive residual blocks that are copied together.

    Attributes:
        place: Behind the last of them.
        number: Which layer of the network it is, from 0.
        copies: The blocks.
    """

    place: Place
    number: int
    copies: tuple[Copy, ...]

    @property
    def parameters(self) -> int:
        return sum(c.parameters for c in self.copies)

    @property
    def flops(self) -> int:
        return sum(c.flops for c in self.copies)


@dataclass(frozen=True)
class BlockPlan:
    """Blocks to insert, and what was meant but is not possible, with the reason.

    Attributes:
        recipe: What was asked for, JSON data.
        parts: In the order of insertion.
        skipped: Place or layer → why nothing is inserted there.
        notes: Remarks.
        parameters, flops: (before, after).
    """

    recipe: Mapping[str, Any]
    parts: tuple[Block | CopiedLayer, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]

    @property
    def exact(self) -> bool:
        """A block contributes zero at first."""
        return True

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": dict(self.recipe),
            "layers": [_described(p) for p in self.parts],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "parameters": {"old": self.parameters[0], "new": self.parameters[1]},
            "flops": {"old": self.flops[0], "new": self.flops[1]},
        }


def _described(part: Block | CopiedLayer) -> dict[str, Any]:
    found: dict[str, Any] = {"place": part.place.value, "channels": part.place.channels}
    if isinstance(part, CopiedLayer):
        names = [c.residual.name for c in part.copies]
        return found | {"name": names[-1], "block": f"copy of layer {part.number}", "copied": names}
    found |= {"name": f"{part.place.base}.{part.kind}", "block": part.kind, "hidden": part.hidden}
    return found | ({"kernel": list(part.kernel)} if part.kernel else {}) | {"function": part.function}


def plan_blocks(
    found: Study, where: Where, kind: str, ratio: float | None, kernel: int | tuple[int, ...], function: str
) -> BlockPlan:
    """New blocks.

    Raises:
        UsageError: A selector matches nothing.
        UnsupportedError: A place that was named is not legal, or no place is.
    """
    places = Places(found)
    blocks: dict[tuple[str, tuple[tuple[str, int], ...]], Block] = {}
    opset = found.analysis.network.opsets.get("", 1)
    if function in FUNCTIONS and opset < FUNCTIONS[function].since:
        raise UnsupportedError(function, f"the model's opset is {opset}; it needs {FUNCTIONS[function].since}")

    def with_block(find: Callable[[], Place]) -> Callable[[], Place]:
        def place() -> Place:
            made = find()
            blocks[made.value, made.readers] = planned_block(made, kind, ratio, kernel, function, opset)
            return made

        return place

    chosen = [(label, with_block(find), literal) for label, find, literal in where.chosen(places)]
    nothing = "it has no hidden activations to insert blocks behind"
    legal, skipped = collect(chosen, "the network", "; ".join((nothing, *where.notes(found))))
    parts = tuple(blocks[p.value, p.readers] for p in legal)
    recipe: dict[str, Any] = {"pass": "add-blocks", **where.to_json(), "block": kind, "activation": function}
    recipe |= {"ratio": ratio, "kernel": kernel if isinstance(kernel, int) else list(kernel)}
    return _priced(found, recipe, parts, skipped, where.notes(found))


def plan_copies(found: Study, selectors: Sequence[str], every: int, after: str = "") -> BlockPlan:
    """Copies of layers that are there.

    Args:
        found: The network.
        selectors: Numbers of layers, from 0, or names or globs of nodes or values inside; all layers without any.
        every: Without selectors, the last of every so many layers.
        after: Behind what the copies go: the number of a layer, a value, or the node that makes it; each right behind
            its own layer where nothing is given.

    Raises:
        UsageError: A selector matches nothing, or ``after`` several values.
        UnsupportedError: A layer that was named cannot be copied, or none can; the reason is named.
    """
    network = found.analysis.network
    layers = grouped(network, find_residuals(network))
    if not layers:
        reason = "it has no residual blocks s + F(s) with linear layers"
        raise UnsupportedError("the network", reason, "`onnxgrow blocks --block mlp` inserts new ones")
    places = Places(found)
    target = _target(places, layers, after) if after else ""
    planned: list[CopiedLayer] = []

    def finder(number: int) -> Callable[[], Place]:
        def find() -> Place:
            layer = layers[number]
            place = places.behind(target or layer[-1].end)
            copies = []
            for residual in layer:
                try:
                    copy = planned_copy(network, residual)
                    copies.append(moved(network, copy, place) if target else copy)
                except Illegal as e:
                    raise Illegal(f"block {residual.name}: {e}", e.hint) from e
            planned.append(CopiedLayer(place, number, tuple(copies)))
            return place

        return find

    numbers = _selected(layers, selectors) if selectors else dict.fromkeys(range(every - 1, len(layers), every), False)
    chosen = [(f"layer {n} ({layers[n][-1].name})", finder(n), literal) for n, literal in sorted(numbers.items())]
    _, skipped = collect(chosen, "the network", f"it has {len(layers)} layers only")
    which: dict[str, Any] = {"copy": list(selectors)} if selectors else {"every": every}
    recipe = {"pass": "copy-blocks", **which} | ({"after": after} if after else {})
    return _priced(found, recipe, tuple(planned), skipped)


def _target(places: Places, layers: Sequence[Sequence[Residual]], after: str) -> str:
    """The value behind which copies go."""
    if after.isascii() and after.isdigit():
        if int(after) >= len(layers):
            raise UsageError(after, f"the network has {len(layers)} layers of residual blocks, from 0")
        return layers[int(after)][-1].end
    values = [value for value, _ in places.values([after])]
    if len(values) > 1:
        raise UsageError(after, f"copies go to one place, this means {len(values)}: {values[0]}, {values[1]} …")
    return values[0]


def _selected(layers: Sequence[Sequence[Residual]], selectors: Sequence[str]) -> dict[int, bool]:
    """Layer → whether it was named literally."""
    handles = [{h for r in layer for h in r.handles} for layer in layers]
    found: dict[int, bool] = {}
    for selector in selectors:
        if selector.isascii() and selector.isdigit():
            if int(selector) >= len(layers):
                raise UsageError(selector, f"the network has {len(layers)} layers of residual blocks, from 0")
            found[int(selector)] = True
            continue
        literal = [n for n, names in enumerate(handles) if selector in names]
        matched = literal or [n for n, names in enumerate(handles) if any(fnmatchcase(h, selector) for h in names)]
        if not matched:
            close = get_close_matches(selector, sorted(set().union(*handles)), n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(close)}?" if close else "name a node of the block, or its number"
            raise UsageError(selector, "no residual block holds a node or value of this name", hint)
        for number in matched:
            found[number] = found.get(number, False) or bool(literal)
    return found


def _priced(
    found: Study,
    recipe: Mapping[str, Any],
    parts: tuple[Block | CopiedLayer, ...],
    skipped: Mapping[str, str],
    notes: tuple[str, ...] = (),
) -> BlockPlan:
    cost = found.analysis.cost
    parameters, flops = cost.total_parameters({}), cost.total_flops({})
    return BlockPlan(
        recipe,
        parts,
        skipped,
        notes,
        (parameters, parameters + sum(p.parameters for p in parts)),
        (flops, flops + sum(p.flops for p in parts)),
    )
