"""One verification: all tiers over one pair of models, and the verdict that follows from their evidence."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrow.concrete.infer import Concrete, concretize
from onnxgrow.concrete.trace import complete
from onnxgrow.concrete.values import constants
from onnxgrow.errors import BadInputError, UnsupportedError, UsageError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io.digest import model_digest
from onnxgrow.io.save import save_bytes
from onnxgrow.io.tensors import InlineTensor
from onnxgrow.verify import accounting, alive, alive_inserted, alive_taps, certificate, float64, runtime
from onnxgrow.verify.bodies import BodyPair, Opened
from onnxgrow.verify.fit import misfits
from onnxgrow.verify.float64.unrounded import unrounded, with_exact_attributes
from onnxgrow.verify.functions import unfold
from onnxgrow.verify.inputs import Variant, variants
from onnxgrow.verify.memory import give_back_freed
from onnxgrow.verify.merge import merged
from onnxgrow.verify.pairs import compared_pairs
from onnxgrow.verify.report import AliveResult, Finding, GrownOutput, Report, TierResult, TierStatus, Verdict
from onnxgrow.verify.sessions import ModelSource, check_runtime, resolve_provider

__all__ = ["TIERS", "model_source", "verify"]

TIERS = ("accounting", "certificate", "float64", "runtime")
INLINE = 16_000_000
"""Bytes of weights up to which ONNX Runtime gets a model as one protobuf; those of a larger one are mapped or lent."""
Path = str | os.PathLike[str]
_CHANNELS = {"set": "new channels", "layer": "channels", "kernel": "new taps"}


def verify(
    original: ir.Model,
    grown: ir.Model,
    growth_map: GrowthMap | None = None,
    *,
    original_path: Path | None = None,
    grown_path: Path | None = None,
    inputs: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    provider: str = "auto",
    max_change: float | None = None,
    outputs: Collection[str] = (),
    seed: int = 0,
    tiers: Collection[str] | None = None,
    frozen: Sequence[Mapping[str, Any]] = (),
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check that ``grown`` computes the same function as ``original`` and say on what evidence.

    Args:
        original, grown: The models; not modified.
        growth_map: What grew; by default the map in ``grown``'s metadata. Without one, only identical models pass.
        original_path, grown_path: Files of the models, for ONNX Runtime; by default it gets what is in memory.
        inputs: Input name → array in the model's dtype, batch included. Inputs not named are sampled.
        input_shapes: Input name → sizes, for dynamic dimensions.
        provider: ``auto``, ``cpu`` or ``cuda``.
        max_change: For inexact growth: the relative change of the outputs that is accepted.
        outputs: Graph outputs that may have grown, where the growth map lists them.
        seed: Of samples and noise; the same seed gives the same report.
        tiers: Tiers to run, names of :data:`TIERS` and ``alive``; by default all. One that is left out is never
            counted as passed.
        frozen: Channel sets that could not grow, for the report.
        progress: Called with the name of each tier before it runs.

    Returns:
        The report. A negative verdict is returned, not raised.

    Raises:
        BadInputError: The growth map in the metadata is malformed.
        UsageError: Unknown tier or provider, or inputs that do not fit.
        UnsupportedError: ONNX Runtime refuses the original.
        EnvironmentFault: onnxruntime is damaged, or CUDA was asked for and is not usable.
    """
    chosen = frozenset((*TIERS, "alive") if tiers is None else tiers)
    unknown = sorted(chosen - {*TIERS, "alive"})
    if unknown:
        raise UsageError("tiers", f"{unknown[0]!r} is unknown", f"tiers are {', '.join(TIERS)} and alive")
    say = progress or (lambda _: None)
    has_map = True
    if growth_map is None:
        growth_map = _stored_map(grown)
        has_map = growth_map is not None
        growth_map = growth_map or GrowthMap(original=model_digest(original))
    check_runtime()
    resolve_provider(provider)
    results: list[TierResult] = []
    stored, given = (original, grown), growth_map
    unfolded = unfold(original, grown, growth_map)
    original, grown, growth_map = unfolded.original, unfolded.grown, unfolded.growth_map
    opened = Opened(original, grown, growth_map)
    if "accounting" in chosen:
        say("accounting")
        tier = opened.account() if opened else accounting.account(original, grown, growth_map)
        results.append(_with_faults(tier, unfolded.faults))
    else:
        results.append(_not_run("accounting", "left out on request"))
    if not has_map and results[0].status is not TierStatus.PASSED:
        results += [_not_run(name, "the models differ and there is no growth map") for name in TIERS[1:]]
        note = "no growth map: only identical models can be called equivalent"
        return Report(Verdict.UNPROVED, tuple(results), (), None, max_change, tuple(frozen), (note,))
    rewritten = bool(given.inlined or given.calls)
    source = model_source(original, None if rewritten else original_path)
    found = variants(original, source, inputs, input_shapes, seed)
    jobs = [
        _Job(
            original,
            grown,
            opened.shell if opened else grown,
            opened.main_map if opened else growth_map,
            opened.main_run_map if opened else growth_map,
            source,
            model_source(grown, None if given.calls else grown_path),
            provider,
            seed,
            found,
        ),
        *(_body_job(pair, provider, seed) for pair in opened.pairs(found, seed)),
    ]
    for name in TIERS[1:]:
        if name in chosen:
            say(name)
            parts = [(job.label, job.tier(name)) for job in jobs]
            if rewritten and name == "runtime":
                as_stored = (model_source(m, p) for m, p in zip(stored, (original_path, grown_path), strict=True))
                parts.append(("functions as stored", jobs[0].as_stored(*as_stored)))
            results.append(merged(name, parts))
            give_back_freed()
        else:
            results.append(_not_run(name, "left out on request"))
    results = [_supported(t, results[-1]) if t.name == "float64" else t for t in results]
    living: tuple[AliveResult, ...] = ()
    if "alive" in chosen:
        say("alive")
        living = tuple(found for job in jobs for found in job.alive())
    notes = [note for job in jobs for variant in job.variants for note in variant.notes]
    if given.calls:
        notes.append(f"compared with {len(given.calls)} calls of local functions expanded")
    if given.inlined:
        notes.append(f"compared with the original's local functions inlined: {', '.join(given.inlined)}")
    return _conclude(growth_map, results, living, max_change, frozen, notes, outputs)


@dataclass(frozen=True)
class _Job:
    """One graph of both models and what it runs on: the main graph, or a body lifted out.

    Attributes:
        shell: ``grown`` with the original's bodies in it, for the certificate: they have jobs of their own.
        growth_map: What grew, in ``shell``.
        run_map: The same in ``grown``, for what runs it.
        label: The body; empty for the main graph.
        refused: Why the body cannot be run; empty where it can.
    """

    original: ir.Model
    grown: ir.Model
    shell: ir.Model
    growth_map: GrowthMap
    run_map: GrowthMap
    original_source: ModelSource
    grown_source: ModelSource
    provider: str
    seed: int
    variants: tuple[Variant, ...]
    label: str = ""
    refused: str = ""

    def tier(self, name: str) -> TierResult:
        """One of the tiers after accounting."""
        if self.refused:
            return _not_run(name, self.refused)
        if name != "certificate" and self.misfits:  # the certificate looks at every claim by itself
            return TierResult(name, TierStatus.FAILED, {}, self.misfits)
        runs = {"certificate": self.certificate, "float64": self.float64, "runtime": self.runtime}
        return runs[name]()

    @cached_property
    def concrete(self) -> Concrete:
        """Shapes of the result at small batches."""
        return concretize(self.grown, self.variants[0].few_shapes)

    @cached_property
    def misfits(self) -> tuple[Finding, ...]:
        """Where arrays of the models cannot be taken apart as the growth map says."""
        return misfits(self.original, self.grown, self.run_map, self.concrete.shapes)[: accounting.MAX_FINDINGS]

    def feeds(self) -> list[Mapping[str, Any]]:
        """All feeds, with small batches: one of each set of sizes first."""
        longest = max(len(variant.few) for variant in self.variants)
        return [v.few[i] for i in range(longest) for v in self.variants if i < len(v.few)]

    def certificate(self) -> TierResult:
        """The certificate at every set of sizes; passed when all of them pass."""
        found = []
        for variant in self.variants:
            before = _concrete(self.original, variant)
            try:
                after = _concrete(self.shell, variant)
            except UnsupportedError as e:
                finding = Finding("result", f"its shapes cannot be found: {e.reason}")
                return TierResult("certificate", TierStatus.FAILED, {}, (finding,))
            found.append(certificate.certify(self.original, self.shell, self.growth_map, before, after))
        worst = next((t for s in (TierStatus.FAILED, TierStatus.NOT_RUN) for t in found if t.status is s), found[0])
        figures = dict(worst.figures) | {"input_shapes": [_plain_shapes(v) for v in self.variants]}
        return TierResult("certificate", worst.status, figures, worst.findings, sum(t.seconds for t in found))

    def float64(self) -> TierResult:
        """Two runs: one for each set of sizes, or both feeds of the only one."""
        feeds = [v.few[0] for v in self.variants] if len(self.variants) > 1 else self.feeds()
        exact = with_exact_attributes(self.original, self.grown, self.run_map)
        overrides = unrounded(self.original, self.grown, self.run_map)
        return float64.run_tier(self.original, exact, self.run_map, feeds, overrides, seed=self.seed)

    def alive(self) -> tuple[AliveResult, ...]:
        """Which new channels can learn."""
        refused = self.refused or ("the growth map does not fit the models" if self.misfits else "")
        if refused:
            sets = [s for s in self.growth_map.sets if s.new > s.old]
            return tuple(AliveResult(s.name, s.new - s.old, None, f"not measured: {refused}") for s in sets)
        grown_sets = alive.check(self.grown, self.growth_map, self.feeds(), self.seed, self.concrete.shapes)
        inserted = alive_inserted.check(self.grown, self.growth_map, self.feeds(), self.seed)
        return grown_sets + inserted + alive_taps.check(self.grown, self.growth_map, self.feeds(), self.seed)

    def as_stored(self, original: ModelSource, grown: ModelSource) -> TierResult:
        """The outputs of both models as they are stored, with their local functions."""
        return runtime.run_tier(original, grown, self.feeds(), self.provider, self.run_map, (), self.seed)

    def runtime(self) -> TierResult:
        pairs = compared_pairs(self.original, self.grown, self.run_map, self.concrete)
        return runtime.run_tier(
            self.original_source,
            self.grown_source,
            self.feeds(),
            self.provider,
            self.run_map,
            pairs,
            self.seed,
        )


def _with_faults(tier: TierResult, faults: tuple[Finding, ...]) -> TierResult:
    return replace(tier, status=TierStatus.FAILED, findings=(*faults, *tier.findings)) if faults else tier


def _body_job(pair: BodyPair, provider: str, seed: int) -> _Job:
    return _Job(
        pair.original,
        pair.grown,
        pair.shell,
        pair.growth_map,
        pair.run_map,
        model_source(pair.original, None),
        model_source(pair.grown, None),
        provider,
        seed,
        pair.variants,
        pair.label,
        pair.refused,
    )


def _stored_map(grown: ir.Model) -> GrowthMap | None:
    try:
        return GrowthMap.of_model(grown.metadata_props)
    except ValueError as e:
        raise BadInputError(f"metadata {METADATA_KEY}", str(e), "verify with a growth map of its own") from e


def model_source(model: ir.Model, path: Path | None) -> ModelSource:
    """The file itself where ONNX Runtime can open it; else the model with its weights mapped or lent."""
    tensors = constants(model).values()
    inline = any(isinstance(tensor, InlineTensor) for tensor in tensors)  # which ONNX Runtime would read, and copy
    if path is not None and not inline and _self_contained(path, tensors):
        return ModelSource.of(path)
    total = sum(tensor.nbytes for tensor in tensors)
    mapped = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    return ModelSource.of_model(model) if mapped or total > INLINE else ModelSource.of(save_bytes(model))


def _self_contained(path: Path, tensors: Iterable[ir.TensorProtocol]) -> bool:
    """Whether no link leads out of the model's folder: ONNX Runtime follows none to external data."""
    files = {tensor.path for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    linked = os.path.islink(path)
    return not files or (not linked and all(os.path.dirname(os.path.realpath(f)) == folder for f in files))


def _not_run(name: str, reason: str) -> TierResult:
    return TierResult(name, TierStatus.NOT_RUN, {}, (Finding(name, reason),))


def _supported(exact: TierResult, runtime_tier: TierResult) -> TierResult:
    """The float64 tier, which proves nothing alone where operators ran in their own precision and were rounded."""
    rounded = exact.figures.get("single_precision_nodes")
    if exact.status is not TierStatus.PASSED or not rounded or runtime_tier.status is TierStatus.PASSED:
        return exact
    finding = Finding(rounded[0], "computed in its own precision only; the runtime tier has to pass too")
    return replace(exact, status=TierStatus.NOT_RUN, findings=(finding,))


def _concrete(model: ir.Model, variant: Variant) -> Concrete:
    return complete(model, concretize(model, variant.shapes), variant.feeds[0])


def _plain_shapes(variant: Variant) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in variant.shapes.items()}


def _conclude(
    growth_map: GrowthMap,
    results: Sequence[TierResult],
    living: tuple[AliveResult, ...],
    max_change: float | None,
    frozen: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    allowed: Collection[str],
) -> Report:
    """The verdict: equivalent only when every tier passed, no output grew, and no channel set that grew is zero on
    both sides."""
    remarks = list(notes)
    status = {t.name: t.status for t in results}
    change = None
    if not growth_map.exact:
        change = _change(results)
        if status["accounting"] is TierStatus.FAILED:
            verdict = Verdict.NOT_EQUIVALENT
        elif status["accounting"] is TierStatus.PASSED and change is not None:
            verdict = Verdict.CHANGED
        else:
            verdict = Verdict.UNPROVED
            remarks.append("the change of the outputs could not be measured")
    elif TierStatus.FAILED in status.values():
        verdict = Verdict.NOT_EQUIVALENT
    elif TierStatus.NOT_RUN in status.values():
        verdict = Verdict.UNPROVED
    else:
        verdict = Verdict.CHANGED if growth_map.outputs else Verdict.EQUIVALENT
    grown = _grown_outputs(growth_map, allowed)
    remarks += [f"interface: output {o.name} grew on axis {o.axis} from {o.old} to {o.new}, by request" for o in grown]
    dead = [a for a in living if a.alive == 0]
    remarks += [f"{a.name}: none of its {a.channels} {_CHANNELS[a.unit]} can learn: {a.note}" for a in dead]
    if any(a.hopeless for a in dead) and verdict in (Verdict.EQUIVALENT, Verdict.CHANGED):
        verdict = Verdict.UNPROVED
    return Report(verdict, tuple(results), living, change, max_change, tuple(frozen), tuple(remarks), grown)


def _grown_outputs(growth_map: GrowthMap, allowed: Collection[str]) -> tuple[GrownOutput, ...]:
    named = [(name, growth_map.values[name].axes) for name in growth_map.outputs if name in growth_map.values]
    axes = ((name, axis, m) for name, maps in named for axis, m in maps.items())
    return tuple(GrownOutput(name, axis, m.old_size, m.new_size, name in allowed) for name, axis, m in axes)


def _change(results: Sequence[TierResult]) -> float | None:
    """Largest relative change of the outputs over the measuring tiers; None unless both measured a finite one."""
    found = [t.figures.get("outputs_difference") for t in results if t.name in ("float64", "runtime")]
    if not found or not all(isinstance(x, float) and np.isfinite(x) for x in found):
        return None
    return max(float(x) for x in found if x is not None)
