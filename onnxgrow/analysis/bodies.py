"""Channel sets inside bodies of control flow: each body is lifted out and analysed as a network of its own.

What a body captures and gives out are inputs and outputs of that network, and so is the state that a Loop or Scan
carries: frozen by the ordinary rules. Captured constants that only this body reads grow with it, those that others
read too are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.analysis.channel_sets import Analysis, BodyAnalysis, analyse
from onnxgrow.analysis.network import Network
from onnxgrow.concrete.bodies import Path, Scopes
from onnxgrow.concrete.body_runs import BodyRuns, body_runs
from onnxgrow.concrete.infer import Concrete, concretize
from onnxgrow.concrete.trace import complete
from onnxgrow.concrete.values import dims_of

__all__ = ["analyse_bodies", "graphs_of"]

Feeds = Mapping[str, npt.NDArray[np.generic]]


def analyse_bodies(analysis: Analysis, feeds: Sequence[Feeds], *, seed: int = 0) -> None:
    """Find the channel sets of all bodies inside a network, at any depth, and add them to its analysis.

    Args:
        analysis: Of the main graph; ``bodies``, ``sets`` and ``notes`` are filled in.
        feeds: Inputs of the model.
        seed: Of sampled inputs.
    """
    scopes = Scopes(analysis.network.model)
    if scopes.bodies:
        _descend(scopes, (), analysis, feeds, seed)


def graphs_of(analysis: Analysis, path: Path = (), label: str = "") -> Iterator[tuple[Path, str, Analysis]]:
    """All graphs that were analysed: path, label (empty for the main graph) and analysis, outer ones first."""
    yield path, label, analysis
    for body in analysis.bodies:
        yield from graphs_of(body.analysis, body.runs.body.path, body.runs.body.label)


def _descend(scopes: Scopes, path: Path, analysis: Analysis, feeds: Sequence[Feeds], seed: int) -> None:
    wanted = [b.path for b in scopes.children(path) if b.liftable and _holds_weights(scopes, b.path)]
    if not wanted:
        return
    for body, runs in body_runs(scopes, path, analysis.network.model, feeds, wanted, seed=seed).items():
        label = scopes.bodies[body].label
        if not isinstance(runs, BodyRuns):
            analysis.notes.append(f"{label} is not analysed: {runs.subject}: {runs.reason}")
            continue
        inner = _analyse(scopes, body, runs)
        _descend(scopes, body, inner, runs.feeds, seed)
        analysis.notes += inner.notes
        analysis.bodies.append(BodyAnalysis(runs, inner))
        analysis.sets = [*analysis.sets, *inner.sets]


def _analyse(scopes: Scopes, path: Path, runs: BodyRuns) -> Analysis:
    here = _concrete(runs.model, runs.feeds[0])
    others = [f for f in runs.feeds if any(f[n].shape != x.shape for n, x in runs.feeds[0].items())]
    there = _concrete(runs.model, others[0]) if others else here
    foreign = [n for n in scopes.captured(path) if _home(scopes, path, n) != path]
    inner = analyse(Network(runs.model, here, there, foreign=frozenset(foreign), place=f"the body {runs.body.label}"))
    inner.sets = [replace(s, name=f"{runs.body.label}/{s.name}") for s in inner.sets]
    return inner


def _home(scopes: Scopes, path: Path, name: str) -> Path:
    """The graph a captured constant belongs to, as seen from a body: one inside it counts as the body itself."""
    where = scopes.find(path[:-1], name) or ()
    home = scopes.home(where, name)
    return path if home[: len(path)] == path else home


def _concrete(model: ir.Model, feeds: Feeds) -> Concrete:
    return complete(model, concretize(model, {n: x.shape for n, x in feeds.items()}), feeds)


def _holds_weights(scopes: Scopes, path: Path) -> bool:
    """Whether anything of two or more axes that could be a weight is read in a body or in those inside it."""
    named = [scopes.constants[p][n] for p in scopes.graphs if p[: len(path)] == path for n in scopes.constants[p]]
    for name in scopes.captured(path):
        where = scopes.find(path, name) or ()
        if name in scopes.constants[where]:
            named.append(scopes.constants[where][name])
    return any(len(dims_of(t)) > 1 and math.prod(dims_of(t)) > 1 and t.dtype != ir.DataType.STRING for t in named)
