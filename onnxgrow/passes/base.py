"""What every growth pass does around its own work: take any kind of model, prove the result, give that kind back."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxgrow.errors import BadInputError, NotEquivalentError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io import Loaded, Seal, give_back, load, model_digest, tensor_digest
from onnxgrow.verify.report import Report, Verdict

__all__ = [
    *("Grown", "GrowthPass", "GrowthResult", "Lineage", "Proof", "Sequential"),
    *("lineage", "prove", "refusal_of", "seal"),
]

Feeds = Mapping[str, npt.NDArray[np.generic]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Proof:
    """How a result is verified.

    Attributes:
        inputs: Input name → value, to be used beside sampled ones.
        input_shapes: Input name → dimensions.
        provider: ``auto``, ``cpu`` or ``cuda``.
        max_change: Largest relative change of an output that an inexact method may make; required there.
        progress: Told what is being done.
    """

    inputs: Feeds | None = None
    input_shapes: Mapping[str, Sequence[int]] | None = None
    provider: str = "auto"
    max_change: float | None = None
    progress: Progress | None = None

    def say(self, text: str) -> None:
        if self.progress is not None:
            self.progress(text)

    def within(self, what: str) -> Proof:
        """The same, for a part of the work: progress is told with its name in front."""
        tell = self.progress
        return self if tell is None else replace(self, progress=lambda text: tell(f"{what}: {text}"))


@dataclass
class Grown:
    """A grown model that is not verified yet, and what is known of it.

    Its growth map lists digests of the grown tensors, and a tensor has to be computed for its digest. So the map is
    completed when somebody asks for it or for the model, or, where the model is written to a file, with the digests
    that come out of the writing.

    Args:
        draft: The grown model, without a growth map.
        listed: What grew; the digests of tensors may be missing.
        plan: What was planned, JSON data.
        frozen: Channel sets that could not grow, with their reasons, JSON data.
    """

    draft: ir.Model
    listed: GrowthMap
    plan: Mapping[str, Any]
    frozen: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if all(tensor.sha256 for tensor in self.listed.tensors.values()):
            self.listed = seal(self.draft, self.listed)  # nothing to wait for, as where only nodes changed

    @property
    def model(self) -> ir.Model:
        """The grown model, its growth map complete and in its metadata."""
        self.complete({})
        return self.draft

    @property
    def growth_map(self) -> GrowthMap:
        """The same map."""
        self.complete({})
        return self.listed

    def complete(self, digests: Mapping[str, str]) -> None:
        """Complete the growth map with known digests; a tensor without one is computed.

        Args:
            digests: Tensor name → what :func:`onnxgrow.io.tensor_digest` gives.

        Raises:
            GrowError: A tensor cannot be computed.
        """
        missing = [name for name, tensor in self.listed.tensors.items() if not tensor.sha256]
        if missing:
            known = {name: digests[name] for name in missing if name in digests}
            self.listed = seal(self.draft, self.listed.with_digests(known))

    def writing(self) -> Seal | None:
        """How :func:`onnxgrow.io.stage` completes the map while it writes; None when it is complete."""
        if all(tensor.sha256 for tensor in self.listed.tensors.values()):
            return None
        names = frozenset(self.listed.tensors)

        def finish(digests: Mapping[str, str]) -> Mapping[str, str]:
            self.complete(digests)
            return self.draft.metadata_props

        # Until then a map of the same length holds its place.
        unknown = self.listed.with_digests(dict.fromkeys(names, "0" * 64))
        return Seal(names, {**self.draft.metadata_props, METADATA_KEY: unknown.dumps()}, finish)


@dataclass
class GrowthResult(ir.passes.PassResult):
    """Result of a growth pass.

    Attributes:
        model: The grown model, of the type that was given; an ``onnx_ir.Model`` for a path.
        modified: True.
        growth_map: What grew.
        report: The evidence.
        plan: What was planned, JSON data.
    """

    model: Any
    growth_map: GrowthMap = field(default_factory=GrowthMap)
    report: Report = field(default_factory=lambda: Report(Verdict.UNPROVED))
    plan: Mapping[str, Any] = field(default_factory=dict)


class GrowthPass(ir.passes.FunctionalPass):
    """Base of the passes. A subclass says what it :meth:`requires` and how to :meth:`grow`.

    An instance can be called with a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``onnx_graphsurgeon.Graph``,
    stand in a :class:`Sequential`, or in ``onnx_ir.passes.Sequential``.

    Args:
        proof: How the result is verified.
    """

    def __init__(self, proof: Proof | None = None) -> None:
        self.proof = proof or Proof()

    @abc.abstractmethod
    def grow(self, model: ir.Model) -> Grown:
        """Grow a copy of ``model``, which stays as it is."""

    def preview(self, model: ir.Model) -> Mapping[str, Any]:
        """The plan for ``model``, JSON data; nothing is made where a pass can tell without."""
        return self.grow(model).plan

    def verify(
        self, original: ir.Model, grown: Grown, written: Loaded | None = None, original_path: Path | None = None
    ) -> Report:
        """Prove the result.

        Args:
            original: The model before.
            grown: What :meth:`grow` gave.
            written: The same as read back from the file it was written to; by default what is in memory is proved.
            original_path: The file the original was read from.

        Raises:
            NotEquivalentError: It is not what was promised; the report is attached.
        """
        if written is None:
            return prove(original, grown.model, grown, self.proof, original_path=original_path)
        return prove(original, written.model, grown, self.proof, original_path=original_path, grown_path=written.path)

    def call(self, model: ir.Model) -> GrowthResult:
        """Grow and verify an ``onnx_ir.Model``."""
        grown = self.grow(model)
        report = self.verify(model, grown)
        return GrowthResult(grown.model, True, grown.growth_map, report, grown.plan)

    def __call__(self, source: object, /) -> GrowthResult:
        """Grow, verify, and give back the kind of model that was given.

        Raises:
            GrowError: What was asked for cannot be done, or was not proved; ``source`` is never changed.
        """
        if isinstance(source, ir.passes.PassResult):
            source = source.model
        loaded = source if isinstance(source, Loaded) else load(source)
        self.requires(loaded.model)
        result = self.call(loaded.model)
        result.model = give_back(loaded, result.model)
        return result


class Sequential(ir.passes.Sequential):
    """Growth passes in order, each proved against the one before. Takes and gives what a single pass does.

    The result's report and plan are those of the last pass; its growth map holds the earlier ones as history.
    """

    def __init__(self, *passes: GrowthPass) -> None:
        super().__init__(*passes)
        self._steps = passes

    def __call__(self, source: object, /) -> GrowthResult:
        loaded = load(source.model if isinstance(source, ir.passes.PassResult) else source)
        model = loaded.model
        for step in self._steps:
            step.requires(model)
            result = step.call(model)
            model = result.model
        result.model = give_back(loaded, model)
        return result


def prove(
    original: ir.Model,
    grown_model: ir.Model,
    grown: Grown,
    proof: Proof,
    *,
    original_path: Path | None = None,
    grown_path: Path | None = None,
) -> Report:
    """Verify and judge: what may not be handed out raises.

    Args:
        original: The model before.
        grown_model: The model after, as it will be handed out (for a file: as it was read back).
        grown: What is known of it.
        proof: How to verify.
        original_path, grown_path: The files they were read from, for ONNX Runtime to read, too.

    Raises:
        NotEquivalentError: The verdict does not allow the result to be used.
    """
    from onnxgrow.verify.judge import verify

    report = verify(
        original,
        grown_model,
        original_path=original_path,
        grown_path=grown_path,
        inputs=proof.inputs,
        input_shapes=proof.input_shapes,
        provider=proof.provider,
        max_change=proof.max_change,
        outputs=grown.listed.outputs,  # a pass grows those that were named to it
        frozen=grown.frozen,
        progress=proof.progress,
    )
    if report.ok:
        return report
    raise NotEquivalentError("result", *refusal_of(report), report=report)


def refusal_of(report: Report) -> tuple[str, str]:
    """Reason and hint for a verdict that does not allow a result to be used."""
    unasked = next((o for o in report.outputs if not o.allowed), None)
    if report.verdict is Verdict.CHANGED and unasked is not None:
        return f"output {unasked.name} grew from {unasked.old} to {unasked.new}", "allow that with --outputs"
    if report.verdict is Verdict.CHANGED and report.change is not None:
        size = f"by {report.change:.3g} of their scale"
        if report.max_change is None:
            return f"this method changes outputs {size}", "allow that with --max-change"
        return f"outputs change {size}, more than {report.max_change:.3g}", "use a smaller --scale"
    for tier in report.tiers:
        if tier.status.value != "passed":
            first = tier.findings[0] if tier.findings else None
            detail = f": {first.subject}: {first.reason}" if first else ""
            return f"{report.verdict.value}; tier {tier.name} {tier.status.value}{detail}", ""
    return report.verdict.value + (f": {report.notes[0]}" if report.notes else ""), ""


@dataclass(frozen=True)
class Lineage:
    """What a new growth map says of the model that it starts from.

    Attributes:
        original: Digest of that model.
        generation: How often it has grown, the new time included.
        versions: Package → version.
        history: Earlier growth maps, the oldest first.
    """

    original: str
    generation: int
    versions: Mapping[str, str]
    history: tuple[Mapping[str, Any], ...]


def lineage(model: ir.Model) -> Lineage:
    """The lineage of a growth of ``model``, which may carry a growth map of its own. Raises BadInputError."""
    try:
        before = GrowthMap.of_model(model.metadata_props)
    except ValueError as e:
        raise BadInputError(f"metadata {METADATA_KEY}", str(e), "remove it to grow the model as an original") from e
    try:
        versions = {"onnxgrow": version("onnxgrow")}
    except PackageNotFoundError:
        versions = {"onnxgrow": "unknown"}
    if before is None:
        return Lineage(model_digest(model), 1, versions, ())
    last = before.to_json()
    last.pop("history")
    return Lineage(model_digest(model), before.generation + 1, versions, (*before.history, last))


def seal(model: ir.Model, growth_map: GrowthMap) -> GrowthMap:
    """Digest the grown tensors that have no digest yet and put the growth map into the model's metadata.

    Returns:
        The completed map.
    """
    from onnxgrow.concrete.bodies import Scopes
    from onnxgrow.concrete.values import constants

    held = Scopes(model).named_constants() | constants(model)
    missing = [name for name, tensor in growth_map.tensors.items() if not tensor.sha256]
    complete = growth_map.with_digests({name: tensor_digest(held[name]) for name in missing})
    model.metadata_props[METADATA_KEY] = complete.dumps()
    return complete
