"""The certificate itself: every value of the grown graph, in topological order, proved from those before it.

The *restrict property* of a value v that stands for u: at every new index whose coordinates are all old, v
equals u at the mapped old coordinates. The graph's outputs must have it with nothing grown; then both models
compute the same function, for the given input shapes and all inputs that keep every activation finite.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from onnxgrow.axis_map import COPY
from onnxgrow.concrete.infer import Concrete
from onnxgrow.growth_map import GrowthMap, TensorGrowth, ValueGrowth
from onnxgrow.verify.certificate import checkers
from onnxgrow.verify.certificate.axis import AxisTable
from onnxgrow.verify.certificate.between import PROVABLE, prove_inserted, removed_over, taken_back
from onnxgrow.verify.certificate.claims import Claims
from onnxgrow.verify.certificate.combinations import Combinations
from onnxgrow.verify.certificate.compare import Tally, compare_constants, compare_values, zero_slabs
from onnxgrow.verify.certificate.domain import stays_defined
from onnxgrow.verify.certificate.equality import function_difference
from onnxgrow.verify.certificate.facts import prove_facts
from onnxgrow.verify.certificate.formulas import FORMULAS, OPERAND
from onnxgrow.verify.certificate.pair import Pair
from onnxgrow.verify.certificate.patterns import Pattern
from onnxgrow.verify.certificate.readers import ArrayReader, Reader, everything
from onnxgrow.verify.certificate.registry import checker_for
from onnxgrow.verify.certificate.side import (
    Side,
    input_name,
    output_names,
)
from onnxgrow.verify.certificate.state import Claim, ProofError, Proved, Unrelated, Zeros
from onnxgrow.verify.certificate.unchanged import unchanged, why_changed
from onnxgrow.verify.report import Finding, TierResult, TierStatus

__all__ = ["ASSUMES", "MAX_FINDINGS", "certify"]

MAX_FINDINGS = 20

ASSUMES = (
    "activations of the grown model are finite (0 times an infinity is no zero)",
    "arithmetic of real numbers: the order of a sum may change its last bits, and -0 counts as 0",
    "the shapes given; sizes that depend on data are those of the sample run",
    "initializers that are also graph inputs keep their stored values",
)


def certify(
    original: ir.Model,
    grown: ir.Model,
    growth_map: GrowthMap,
    concrete_original: Concrete,
    concrete_grown: Concrete,
) -> TierResult:
    """Prove from the two models and the growth map alone that the grown model computes the original's function.

    Args:
        original, grown: The models; not modified. Weights are read in blocks of at most 32 MB.
        growth_map: The claims to prove.
        concrete_original, concrete_grown: Shapes and known values of both models for the same input shapes.

    Returns:
        The tier ``certificate``: passed only when every graph output is proved. A fault in the checking
        itself is a finding, too; nothing is raised for a wrong growth.
    """
    started = time.perf_counter()
    run = _Run(original, grown, growth_map, concrete_original, concrete_grown)
    try:
        run.prove()
    except _EnoughFindingsError:
        pass
    except Exception as error:
        # Whatever breaks while checking must never look like a proof.
        run.findings.append(Finding("certificate", _broken(error)))
    status = TierStatus.FAILED if run.findings else TierStatus.PASSED
    figures = {
        "nodes": dict(sorted(run.ways.items())),
        "tensors_compared": run.tally.tensors,
        "entries_bit_compared": run.tally.bit_compared,
        "entries_proved_zero": run.tally.proved_zero,
        "outputs_proved": run.outputs_proved,
        "assumes": list(ASSUMES),
    }
    seconds = time.perf_counter() - started
    return TierResult("certificate", status, figures, tuple(run.findings), seconds)


class _EnoughFindingsError(Exception):
    """Enough findings: the rest would not change the verdict."""


class _Run:
    """One certification in progress."""

    def __init__(
        self,
        original: ir.Model,
        grown: ir.Model,
        growth_map: GrowthMap,
        concrete_old: Concrete,
        concrete_new: Concrete,
    ) -> None:
        self.map = growth_map
        self.inserted = frozenset(growth_map.inserted)
        self.removed = frozenset(growth_map.removed)
        self.old = Side(original, concrete_old)
        self.new = Side(grown, concrete_new)
        self.claims = Claims(growth_map, self.old, self.new, AxisTable())
        self.states: dict[str, Proved | Unrelated] = {}
        self.findings: list[Finding] = []
        self.tally = Tally()
        self.ways: Counter[str] = Counter()
        self.outputs_proved = 0
        self._relations: dict[tuple[str, str], Proved] = {}
        self.combinations = Combinations(self.new)

    def fault(self, subject: str, reason: str) -> None:
        self.findings.append(Finding(subject, reason))
        if len(self.findings) >= MAX_FINDINGS:
            raise _EnoughFindingsError

    def prove(self) -> None:
        if not checkers.LOADED:
            raise ProofError("no checkers are registered")
        self._models()
        self._listed()
        for name in self.new.inputs:
            if name not in self.new.tensors:
                self._guard(name, self._input, name)
        for name in self.new.graph.initializers:
            self._guard(name, self._constant, name)
        for node in self.new.order:
            self._node(node)
        self._outputs()

    def _guard(self, subject: str, action: Callable[..., None], *arguments: object) -> None:
        """Run one step; whatever it raises becomes a finding, never a pass."""
        try:
            action(*arguments)
        except _EnoughFindingsError:
            raise
        except ProofError as fault:
            self.fault(subject, str(fault))
        except Exception as error:
            self.fault(subject, _broken(error))

    # What must hold before any value is looked at.

    def _models(self) -> None:
        if not self.map.exact:
            self.fault("growth map", "it says itself that the growth is not exact")
        if self.old.opsets != self.new.opsets:
            self.fault("opset imports", f"{self.old.opsets} became {self.new.opsets}")
        old, new = self.old.model.functions, self.new.model.functions
        if set(old) != set(new):
            self.fault("functions", "the model's functions differ")
        for key in old:
            if key in new:
                difference = function_difference(old[key], new[key])
                if difference:
                    self.fault(f"function {old[key].name}", difference)
        if self.old.inputs != self.new.inputs:
            self.fault("graph inputs", "their names differ")
        if self.old.outputs != self.new.outputs:
            self.fault("graph outputs", "their names or order differ")

    def _listed(self) -> None:
        """Names that the map lists must exist, once, and stand for something that exists."""
        growths: list[tuple[str, ValueGrowth | TensorGrowth]] = [*self.map.values.items(), *self.map.tensors.items()]
        for name, growth in growths:
            if not self.new.exists(name):
                self.fault(name, "the growth map lists it, but the result has no such value")
            if growth.of and not self.old.exists(growth.of):
                self.fault(name, f"stands for {growth.of!r}, which the original does not have")
        for name in self.map.values.keys() & self.map.tensors.keys():
            self.fault(name, "the growth map lists it both as a value and as a tensor")
        for name in self.map.values:
            if name in self.new.tensors and not self._filled(name):
                self.fault(name, "the growth map lists a constant tensor as a computed value")
        for name in self.map.tensors:
            if name not in self.new.tensors and self.new.exists(name):
                self.fault(name, "the growth map lists a computed value as a constant tensor")

    # Values that need no op: inputs, constants and what follows from constants and shapes alone.

    def _input(self, name: str) -> None:
        claim = self.claims.claim(name, name)
        self._assume(claim)
        if self.claims.listed(name) or not claim.identity:
            raise ProofError("a graph input may not grow")

    def _assume(self, claim: Claim) -> None:
        """Note a value as proved; if a finding follows, later values are judged as if it held, so it is said once."""
        self.states[claim.name] = Proved(claim, claim.zero)

    def _constant(self, name: str) -> None:
        self.states[name] = Unrelated("it is a new tensor without a counterpart")
        of = self.claims.of(name)
        if not of:
            return
        growth = self.map.tensors.get(name)
        formula = growth.formula if growth is not None else ""
        if formula == OPERAND:
            self._known(name, of, stored=True)
            if isinstance(self.states[name], Proved):
                prove_facts(self._proved(name), self._combined)
            return
        claim = self.claims.claim(name, of)
        self._assume(claim)
        new, old = self.new.reader(name), self.old.reader(of)
        if new is None or old is None:
            raise ProofError(f"stands for {of!r}, which is not constant")
        if formula:
            assert growth is not None
            if formula not in FORMULAS:
                raise ProofError(f"the formula {formula!r} is not known")
            FORMULAS[formula](new, old, growth)
            self.states[name] = Proved(claim, self._slabs(new, claim))
        else:
            self._compare(claim, new, old)
        prove_facts(self._proved(name), self._combined)
        self.ways["constant"] += 1

    def _proved(self, name: str) -> Proved:
        state = self.states[name]
        assert isinstance(state, Proved)
        return state

    def _slabs(self, reader: Reader, claim: Claim) -> Callable[[], Zeros]:
        return lambda: zero_slabs(reader, claim.axes, self.tally)

    def _compare(self, claim: Claim, new: Reader, old: Reader) -> None:
        if claim.square != 1:
            raise ProofError("its old entries are claimed to be multiplied, but it names no formula")
        difference = compare_constants(new, old, claim, self.tally)
        if difference:
            raise ProofError(difference)
        self.states[claim.name] = Proved(claim, self._slabs(new, claim))

    def _known(self, name: str, of: str, *, stored: bool = False) -> bool:
        """Prove a value whose number is known in both models; False where it is not known, or has to be proved as
        what its node computes. ``stored`` says that no node computes it."""
        new, old = self.new.value(name), self.old.value(of)
        if new is None or old is None:
            return False
        try:
            claim = self.claims.claim(name, of)
        except ProofError as fault:
            self.states[name] = Unrelated(str(fault))
            return True
        if claim.square == 1 and compare_values(new, old, claim):
            self.states[name] = Proved(claim, self._slabs(ArrayReader(new), claim))
        elif new.dtype.kind == "f" and not stored:
            # Sums over a grown axis are rounded in another order, here or further up: the node itself has to be proved.
            return False
        else:
            self.states[name] = Unrelated(f"its known value differs from the original's ({_brief(old)}, {_brief(new)})")
        return True

    # Nodes.

    def _node(self, node: ir.Node) -> None:
        pending: dict[int, str] = {}
        for index, name in enumerate(output_names(node)):
            if not name:
                continue
            if name in self.new.tensors and not (self._filled(name) and self.claims.of(name) not in self.old.tensors):
                self._guard(name, self._constant, name)
                continue
            of = self.claims.of(name)
            self.states[name] = Unrelated("it is new and stands for no value of the original")
            if not of:
                continue
            try:
                if not self._settled(name, of):
                    pending[index] = of
            except _EnoughFindingsError:
                raise
            except Exception as error:
                self.fault(name, str(error) if isinstance(error, ProofError) else _broken(error))
        if pending:
            self._guard(_subject(node), self._prove_node, node, pending)

    def _filled(self, name: str) -> bool:
        """Whether a ConstantOfShape node makes the value: a constant only as long as its shape operand is one."""
        entry = self.new.producer.get(name)
        return entry is not None and entry[0].op_type == "ConstantOfShape"

    def _settled(self, name: str, of: str) -> bool:
        """Whether the value is proved, or found unrelated, by numbers alone."""
        if name in self.new.static and of in self.old.static:
            if self._known(name, of):
                self.ways["known value"] += 1
                state = self.states[name]
                if isinstance(state, Proved):
                    self._zeros_by_node(name, of)
                    state = self._proved(name)
                    prove_facts(state, self._combined)
                elif self.claims.listed(name):
                    raise ProofError(f"the growth map lists it, but {state.reason}")
                return True
            new, old = self.new.reader(name), self.old.reader(of)
            if new is not None and old is not None:
                claim = self.claims.claim(name, of)
                self._assume(claim)
                try:
                    self._compare(claim, new, old)
                except ProofError:
                    # As above: what a node computes from constants may differ in its last bits, a stored tensor not.
                    if new.dtype.kind == "f" and self.new.producer.get(name):
                        return False
                    raise
                prove_facts(self._proved(name), self._combined)
                self.ways["constant"] += 1
                return True
        return False

    def _zeros_by_node(self, name: str, of: str) -> None:
        """Add the zeros that the node itself proves: those of a computed number may be roundings."""
        known, entry = self._proved(name), self.new.producer.get(name)
        if known.identity or entry is None or self.new.concrete.values[name].dtype.kind != "f":
            return
        ways = self.ways.copy()
        try:
            self._prove_node(entry[0], {entry[1]: of})
        except Exception:  # what the numbers show is proved without it
            self.states[name] = known
        else:
            proved = self._proved(name)
            both = {axis: known.zero(axis) | proved.zero(axis) for axis in {*known.zeros, *proved.zeros}}
            self.states[name] = Proved(known.claim, both)
        self.ways = ways

    def _prove_node(self, node: ir.Node, pending: dict[int, str]) -> None:
        claims: dict[int, Claim] = {}
        for index, of in pending.items():
            claim = self.claims.claim(node.outputs[index].name or "", of)
            claims[index] = claim
        for claim in claims.values():
            self._assume(claim)
        if _subject(node) in self.inserted and node.op_type in PROVABLE:
            rescaled = taken_back(node, claims[0], self.new, self._relate)
            if rescaled is not None:
                self.ways["inserted factor"] += 1
                self._prove_claims(claims, {0: lambda: rescaled.zeros})
                return
            prove_inserted(node, claims[0], self.new, self.old, self._relate, self.claims.of)
            self.ways[f"inserted {node.op_type}"] += 1
            self._prove_claims(claims, {})
            return
        original = self._original(pending)
        if original is None or (node.op_type, self.new.domain(node), node.overload) != (
            original.op_type,
            self.old.domain(original),
            original.overload,
        ):
            self._identity_insertion(node, claims)
            return
        if unchanged(node, original, claims, self._relate):
            self.ways["same node, nothing grown"] += 1
            self._prove_claims(claims, {})
            return
        for claim in claims.values():
            if claim.shape is None:
                raise ProofError(f"the shape of {claim.name!r} is not known{why_changed(node, original, self._relate)}")
        domain = self.new.domain(node)
        checker = None if self.new.is_function(node) else checker_for(domain, node.op_type)
        if checker is None:
            raise ProofError(
                f"no rule for {node.op_type} where something grew or changed{why_changed(node, original, self._relate)}"
            )
        pair = Pair(
            node,
            original,
            self.new,
            self.old,
            self.new.opsets.get(domain, 1),
            claims,
            self._relate,
            self.tally,
        )
        checker(pair)
        stays_defined(pair)
        self.ways[f"rule {node.op_type}"] += 1
        self._prove_claims(claims, pair.zeros, pair.squares)

    def _combined(self, value: Proved, fact: str, axis: int) -> bool:
        """Whether the new entries of a value combine its old ones as claimed."""
        claim = value.claim
        if fact == COPY:
            pattern = Pattern.copies(claim.axes[axis], claim.copies[axis])
        else:
            reader = self.old.reader(claim.weights) if claim.weights else None
            if claim.weights and reader is None:
                return False
            weights = None if reader is None else reader.read(everything(reader)).astype(np.float64).reshape(-1)
            pattern = Pattern.mean(claim.axes[axis], claim.mean[axis], weights, claim.over)
        return self.combinations.holds(claim.name, axis, pattern)

    def _prove_claims(
        self,
        claims: dict[int, Claim],
        zeros: dict[int, Callable[[], Zeros]],
        squares: Mapping[int, Fraction] | None = None,
    ) -> None:
        for index, claim in claims.items():
            if claim.square != (squares or {}).get(index, 1):
                raise ProofError("the factor claimed of its old entries is not the one that it gets")
            # Found now, while those of the inputs are there: asked for later, a deep network would recurse. Where
            # nothing grew there is nothing to be zero.
            state = Proved(claim, zeros[index]() if index in zeros and not claim.identity else {})
            self.states[claim.name] = state
            prove_facts(state, self._combined)

    def _original(self, pending: dict[int, str]) -> ir.Node | None:
        """The node of the original that makes all these values, at the same places; None where there is none."""
        producers = {of: self.old.producer.get(of) for of in pending.values()}
        nodes = {entry[0] for entry in producers.values() if entry is not None}
        if len(nodes) == 1 and all(
            (entry := producers[of]) is not None and entry[1] == index for index, of in pending.items()
        ):
            return nodes.pop()
        if not nodes or len(pending) == 1:
            return None
        raise ProofError("its outputs stand for outputs of different nodes")

    def _identity_insertion(self, node: ir.Node, claims: dict[int, Claim]) -> None:
        """An inserted Identity passes on what its input stands for."""
        claim = next(iter(claims.values()))
        if node.op_type != "Identity" or self.new.domain(node) or self.new.is_function(node):
            raise ProofError(f"{node.op_type} makes {claim.of!r}, which no such node of the original makes")
        state = self._relate(input_name(node, 0), claim.of)
        if state.square != 1 or not all(a.same(b) for a, b in zip(state.axes, claim.axes, strict=True)):
            raise ProofError("its input's growth differs")
        self.ways["inserted Identity"] += 1
        self._prove_claims({0: claim}, {0: lambda: state.zeros})

    def _relate(self, name: str, of: str) -> Proved:
        """The proved state of a value of the result as a stand-in for a value of the original. Raises ProofError."""
        state = self.states.get(name)
        if state is None:
            raise ProofError(f"reads {name!r}, which is not computed before it")
        if isinstance(state, Proved) and state.claim.of == of:
            return state
        key = (name, of)
        if key in self._relations:
            return self._relations[key]
        if isinstance(state, Proved) and state.identity and state.claim.of in removed_over(self.old, self.removed, of):
            return state
        new, old = self.new.reader(name), self.old.reader(of)
        if new is None or old is None:
            if isinstance(state, Unrelated):
                raise ProofError(f"reads {name!r}: {state.reason}")
            raise ProofError(f"reads {name!r}, which stands for {state.claim.of!r}, where the original reads {of!r}")
        if isinstance(state, Unrelated) and self.claims.of(name) == of:
            raise ProofError(f"reads {name!r}: {state.reason}")
        claim = self.claims.claim(name, of)
        difference = "it is multiplied" if claim.square != 1 else compare_constants(new, old, claim, self.tally)
        if difference:
            raise ProofError(f"reads {name!r} where the original reads {of!r}: {difference}")
        related = Proved(claim, self._slabs(new, claim))
        prove_facts(related, self._combined)
        self._relations[key] = related
        return related

    # What it is all for.

    def _outputs(self) -> None:
        if not self.new.outputs:
            self.fault("graph outputs", "there are none, so nothing is proved")
        for name in self.new.outputs:
            self._guard(name, self._output, name)

    def _output(self, name: str) -> None:
        related = self._relate(name, name)
        if not related.identity and (name not in self.map.outputs or related.square != 1):
            raise ProofError("a graph output grew")
        self.outputs_proved += 1


def _subject(node: ir.Node) -> str:
    return next((name for name in output_names(node) if name), node.name or node.op_type)


def _brief(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def _broken(error: Exception) -> str:
    return f"the check itself failed: {error!r}"
