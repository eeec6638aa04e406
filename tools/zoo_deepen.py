"""Deepen real networks in every way there is, prove each, and print a table.

    python -m tools.zoo_deepen [--only GLOB]... [--models DIR]... [--cache DIR] [--report FILE] [--trial NAME]...

Models as for ``tools/zoo.py``. The trials (all by default; ``--trial`` names some):

* ``layers``: an identity layer behind every value where one is legal (``--places``: about so many, never fewer, spread
  over the network), each alone. Outputs of Gemm, MatMul and 1x1 or 3x3 Conv are expected to be equal in value; what is
  not is counted, and has to stay inside the noise floor.
* ``together``: layers with ActiSwitches behind all hidden activations; all four tiers.
* ``kernels``: every convolution's kernel larger by two, by one, and on one axis only, those of equal size together.
* ``actiswitch``: an ActiSwitch around every activation, then folded back: the nodes have to be the original's.
* ``blocks``: a new residual block of each kind behind about every third activation.
* ``copies``: every layer of residual blocks twice; a refusal is noted with its reason.

What is not ``together`` is proved by accounting, by the certificate at two sizes, and by the outputs in ONNX Runtime
without optimisations. Exit code 1 when anything was not equivalent, invalid or crashed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from onnxgrow.analysis.bodies import graphs_of
from onnxgrow.analysis.study import Study, study
from onnxgrow.errors import UnsupportedError
from onnxgrow.io import load
from onnxgrow.names import BLOCKS
from onnxgrow.passes.base import Grown, Proof
from onnxgrow.passes.blocks import AddBlocks, CopyBlocks
from onnxgrow.passes.deepen import AddActiSwitch, InsertIdentity
from onnxgrow.passes.deepen.places import Illegal, Places
from onnxgrow.passes.enlarge_kernel import EnlargeKernel
from onnxgrow.passes.fold import Fold
from onnxgrow.verify.judge import verify
from tools.zoo_run import BaseRow, Clock, Singles, guarded, parser, run

__all__ = ["TRIALS", "Row", "examine", "legal_places", "main"]

KERNELS = (1, 3, 2, 5)
"""Kernels of inserted convolutions, in turn."""
EXACT_KERNELS = (1, 3)
LARGER: Mapping[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "by 2": lambda kernel: tuple(k + 2 for k in kernel),
    "by 1": lambda kernel: tuple(k + 1 for k in kernel),
    "on one axis": lambda kernel: (kernel[0] + 2, *kernel[1:]),
}
"""New sizes of a kernel."""


COLUMNS = ("kernels", "actiswitch", "fold", "blocks", "copies")
"""What has a column of its own in the table."""


@dataclass
class Row(BaseRow):
    """What was found of one model.

    Attributes:
        places: Legal places.
        values: All values that nodes compute from data.
        tried, proved: Layers inserted singly, and those that were proved.
        exact, inexact: Layers expected to leave outputs equal in value, and those of them that did not.
        kinds: Layers by kind.
        illegal: Reasons, counted.
        trials: Trial → (proved, tried) of what was done in it.
        refused: Trial → why nothing, or not everything, was done.
    """

    places: int = 0
    values: int = 0
    tried: int = 0
    proved: int = 0
    exact: int = 0
    inexact: int = 0
    layers: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    illegal: dict[str, int] = field(default_factory=dict)
    trials: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        done = all(proved == tried for proved, tried in self.trials.values())
        settled = self.joint in ("equivalent", "none", "unrunnable", "")
        return not self.faults and self.tried == self.proved and done and settled

    def count(self, trial: str, name: str, faults: Sequence[str]) -> None:
        """Count one growth of a trial."""
        proved, tried = self.trials.get(trial, (0, 0))
        self.trials[trial] = (proved + (not faults), tried + 1)
        self.faults += [f"{trial}: {name}: {f}" for f in faults[:2]]


def legal_places(found: Study) -> tuple[list[str], Counter[str]]:
    """Values behind which a layer is legal, and the reasons against all others, counted without their details."""
    places = Places(found)
    legal: list[str] = []
    reasons: Counter[str] = Counter()
    for node in found.given.graph:
        for name in (o.name for o in node.outputs if o.name and o.name not in found.analysis.network.derived):
            try:
                places.behind(name)
                legal.append(name)
            except Illegal as e:
                reasons[str(e).split(":")[0].replace(name, "it")] += 1
    return legal, reasons


def examine(name: str, path: Path, feeds: Mapping[str, Any] | None, most: int = 20, trials: Sequence[str] = ()) -> Row:
    """Run the trials (all where none is named) on one model; never raises.

    Args:
        name: Of the model.
        path: Its file.
        feeds: Inputs; sampled where not given.
        most: Layers inserted singly, about, never fewer where there are so many places; 0 for all places.
        trials: Names of :data:`TRIALS`.
    """
    row = Row(name)
    guarded(row, lambda: _examine(row, path, feeds, most, trials or tuple(TRIALS)))
    return row


def _examine(row: Row, path: Path, feeds: Mapping[str, Any] | None, most: int, trials: Sequence[str]) -> None:
    clock = Clock(row)
    found = study(load(path).model, inputs=feeds, inline=None)
    row.nodes = len(found.given.graph)
    clock.mark("analysis")
    trial = _Trials(row, found, feeds, most)
    for name in (t for t in TRIALS if t in trials):
        try:
            TRIALS[name](trial)
        except UnsupportedError as e:
            row.refused[name] = e.reason
        clock.mark(name)


class _Trials:
    """The trials on one model."""

    def __init__(self, row: Row, found: Study, feeds: Mapping[str, Any] | None, most: int) -> None:
        self.row, self.found, self.feeds, self.most = row, found, feeds, most
        # What changes nodes inside functions looks at the model as it is stored.
        self.stored = study(found.given, inputs=feeds) if found.inlined else found
        self.singles = Singles(found, 0.0)

    def proved(self, trial: str, name: str, grown: Grown) -> None:
        """Count a growth; one that only ONNX Runtime objects to is held to the noise floor that is measured for it."""
        faults = self.singles.faults(grown)
        if faults and all(f.startswith("runtime") for f in faults):
            tiers = ("accounting", "certificate", "runtime")
            report = verify(self.found.given, grown.model, inputs=self.feeds, provider="cpu", tiers=tiers)
            faults = [f"{t.name}: {f.subject}: {f.reason}" for t in report.tiers if t.name in tiers for f in t.findings]
        self.row.count(trial, name, faults)

    def layers(self) -> None:
        row = self.row
        legal, reasons = legal_places(self.found)
        row.places, row.values = len(legal), len(legal) + reasons.total()
        row.illegal = dict(reasons.most_common())
        kinds: Counter[str] = Counter()
        for i, place in enumerate(legal[:: max(1, len(legal) // self.most)] if self.most else legal):
            kernel = KERNELS[i % len(KERNELS)]
            grown = InsertIdentity(at=place, kernel=kernel, actiswitch=False).carry_out(self.found)
            layer = grown.plan["layers"][0]
            kinds[" ".join([layer["layer"], "x".join(map(str, layer.get("kernel", ())))]).strip()] += 1
            self.proved("layers", place, grown)
            if kernel in EXACT_KERNELS or "kernel" not in layer:
                row.exact += 1
                row.inexact += not self.singles.is_same(grown)
        row.proved, row.tried = row.trials.get("layers", (0, 0))
        row.kinds = dict(kinds)

    def together(self) -> None:
        try:
            grown = InsertIdentity(kernel=3, depthwise=False).carry_out(self.found)
        except UnsupportedError as e:
            self.row.joint, self.row.note = "none", e.reason
            return
        self.row.layers = len(grown.plan["layers"])
        self.row.judge(verify(self.found.given, grown.model, inputs=self.feeds, provider="cpu"))

    def kernels(self) -> None:
        for kernel, names in sorted(_kernels(self.stored).items()):
            for how, larger in LARGER.items():
                step = EnlargeKernel(names, to=larger(kernel))
                grown = step.carry_out(self.stored)
                label = f"{len(grown.plan['kernels'])} of {'x'.join(map(str, kernel))} {how}"
                self.proved("kernels", label, grown)
                for name, reason in grown.plan["skipped"].items():
                    self.row.refused[f"kernel {name}"] = reason

    def actiswitch(self) -> None:
        grown = AddActiSwitch().carry_out(self.found)
        self.proved("actiswitch", f"{len(grown.plan['layers'])} around activations", grown)
        folded = Fold(proof=Proof(inputs=self.feeds)).grow(grown.model)
        report = verify(
            grown.model, folded.model, inputs=self.feeds, provider="cpu", tiers=("accounting", "certificate")
        )
        faults = [f"{t.name}: {f.subject}: {f.reason}" for t in report.tiers[:2] for f in t.findings]
        if _nodes(folded.model) != _nodes(self.found.given):
            faults.append("folding all of them does not give back the nodes of the original")
        self.row.count("fold", "all of them", faults)

    def blocks(self) -> None:
        for kind in BLOCKS:
            try:
                grown = AddBlocks(kind, every=3).carry_out(self.found)
            except UnsupportedError as e:
                self.row.refused[f"block {kind}"] = e.reason
                continue
            self.proved("blocks", f"{len(grown.plan['layers'])} {kind}", grown)

    def copies(self) -> None:
        grown = CopyBlocks().carry_out(self.stored)
        self.proved("copies", f"{len(grown.plan['layers'])} layers", grown)
        for name, reason in grown.plan["skipped"].items():
            self.row.refused[f"copy {name}"] = reason


TRIALS: Mapping[str, Callable[[_Trials], None]] = {
    "layers": _Trials.layers,
    "together": _Trials.together,
    "kernels": _Trials.kernels,
    "actiswitch": _Trials.actiswitch,
    "blocks": _Trials.blocks,
    "copies": _Trials.copies,
}
"""Name → what is done."""


def _kernels(found: Study) -> dict[tuple[int, ...], list[str]]:
    """Kernel size → the stored weights of convolutions that have it."""
    sizes: dict[tuple[int, ...], dict[str, None]] = {}
    for _, label, part in graphs_of(found.analysis):
        network = part.network
        for node in network.nodes:
            if node.op_type in ("Conv", "ConvTranspose") and node.domain in ("", "ai.onnx"):
                roots = network.roots((node, 1))
                shape = network.shape(node.inputs[1].name or "") if node.inputs[1] is not None else None
                if len(roots) == 1 and shape and roots[0][0] in network.tensors:
                    name = f"{label}/{roots[0][0]}" if label else roots[0][0]
                    sizes.setdefault(tuple(shape[2:]), {})[name] = None
    return {kernel: list(names) for kernel, names in sizes.items()}


def _nodes(model: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(n.op_type, n.name or "", tuple(o.name or "" for o in n.outputs)) for n in model.graph]


def table(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    out = Table("model", "values", "legal", "singly", "not exact", "together", "layers", "difference", "float64")
    for trial in COLUMNS:
        out.add_column(trial)
    out.add_column("note")
    for r in rows:
        out.add_row(
            r.model,
            str(r.values),
            str(r.places),
            f"{r.proved}/{r.tried}",
            f"{r.inexact}/{r.exact}",
            r.joint,
            str(r.layers),
            *("" if x is None else f"{x:.1e}" for x in (r.difference, r.float64)),
            *("/".join(map(str, r.trials[t])) if t in r.trials else "" for t in COLUMNS),
            "; ".join(r.faults[:2]) or r.note[:60] or "; ".join(_refusals(r))[:90],
        )
    return out


def _refusals(row: Row) -> Iterator[str]:
    counted = Counter(f"{name.split()[0]}: {reason.split(':')[0]}" for name, reason in row.refused.items())
    yield from (f"{n} {reason}" if n > 1 else reason for reason, n in counted.most_common())


def _total(rows: Sequence[Row]) -> str:
    trials: Counter[str] = Counter()
    proved: Counter[str] = Counter()
    for row in rows:
        for trial, (good, tried) in row.trials.items():
            trials[trial] += tried
            proved[trial] += good
    counts = ", ".join(f"{proved[t]} of {n} {t} proved" for t, n in trials.items())
    inexact = f"{sum(r.inexact for r in rows)} of {sum(r.exact for r in rows)} layers not equal in value"
    joint = f"{sum(r.joint == 'equivalent' for r in rows)} of {sum(r.layers > 0 for r in rows)} together equivalent"
    return f"{counts}, {inexact}, {joint}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parser("Deepen real networks in every way there is and prove every result.")
    options.add_argument(
        "--places", type=int, default=20, help="about so many places a model, never fewer of them (0: all)"
    )
    options.add_argument("--trial", action="append", choices=tuple(TRIALS), help="do this one; may be repeated")
    args = options.parse_args(argv)

    def brief(row: Row) -> str:
        counts = [f"{name} {proved}/{tried}" for name, (proved, tried) in row.trials.items()]
        return ", ".join([*counts, *([row.joint] if row.joint else [])]) or "nothing done"

    return run(
        args,
        lambda name, path, feeds: examine(name, path, feeds, args.places, args.trial or ()),
        lambda row: row.good,
        brief,
        table,
        _total,
    )


if __name__ == "__main__":
    sys.exit(main())
