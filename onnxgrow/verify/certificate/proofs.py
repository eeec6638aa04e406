"""What is proved so far: the states of values, and what a later proof may take from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from onnxgrow.axis_map import COPY
from onnxgrow.concrete.infer import Concrete
from onnxgrow.growth_map import GrowthMap
from onnxgrow.verify.certificate.axis import AxisTable
from onnxgrow.verify.certificate.between import removed_over
from onnxgrow.verify.certificate.claims import Claims
from onnxgrow.verify.certificate.combinations import Combinations
from onnxgrow.verify.certificate.compare import Tally, compare_constants, zero_slabs
from onnxgrow.verify.certificate.facts import prove_facts
from onnxgrow.verify.certificate.patterns import Pattern
from onnxgrow.verify.certificate.readers import Reader, everything
from onnxgrow.verify.certificate.side import Side
from onnxgrow.verify.certificate.state import Claim, ProofError, Proved, Unrelated, Zeros
from onnxgrow.verify.findings import EnoughFindingsError, Findings

__all__ = ["Proofs", "broken"]


def broken(error: Exception) -> str:
    """What is said of a check that failed itself."""
    return f"the check itself failed: {error!r}"


class Proofs(Findings):
    """One certification in progress.

    Attributes:
        old, new: The two models.
        claims: What the growth map claims of values.
        states: Value of the result → what is proved of it.
        tally: Entries that were compared.
        ways: How many values were proved in which way.
        combinations: Answers whether new entries combine old ones.
    """

    def __init__(
        self,
        original: ir.Model,
        grown: ir.Model,
        growth_map: GrowthMap,
        concrete_old: Concrete,
        concrete_new: Concrete,
    ) -> None:
        super().__init__()
        self.map = growth_map
        self.inserted = frozenset(growth_map.inserted)
        self.removed = frozenset(growth_map.removed)
        self.old = Side(original, concrete_old)
        self.new = Side(grown, concrete_new)
        self.claims = Claims(growth_map, self.old, self.new, AxisTable())
        self.states: dict[str, Proved | Unrelated] = {}
        self.tally = Tally()
        self.ways: Counter[str] = Counter()
        self._relations: dict[tuple[str, str], Proved] = {}
        self.combinations = Combinations(self.new)

    def guard(self, subject: str, action: Callable[..., None], *arguments: object) -> None:
        """Run one step; whatever it raises becomes a finding, never a pass."""
        try:
            action(*arguments)
        except EnoughFindingsError:
            raise
        except ProofError as fault:
            self.fault(subject, str(fault))
        except Exception as error:
            self.fault(subject, broken(error))

    def assume(self, claim: Claim) -> None:
        """Note a value as proved; if a finding follows, later values are judged as if it held, so it is said once."""
        self.states[claim.name] = Proved(claim, claim.zero)

    def proved(self, name: str) -> Proved:
        """The state of a value that is proved already."""
        state = self.states[name]
        assert isinstance(state, Proved)
        return state

    def slabs(self, reader: Reader, claim: Claim) -> Callable[[], Zeros]:
        """Where a constant is zero, read when it is asked for."""
        return lambda: zero_slabs(reader, claim.axes, self.tally)

    def combined(self, value: Proved, fact: str, axis: int) -> bool:
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

    def settle(
        self,
        claims: dict[int, Claim],
        zeros: dict[int, Callable[[], Zeros]],
        squares: Mapping[int, Fraction] | None = None,
    ) -> None:
        """Note the outputs of a node as proved, by index, with their zeros; ``squares`` are the factors they get.

        Raises:
            ProofError: A factor, or a fact of new entries, is claimed and does not hold.
        """
        for index, claim in claims.items():
            if claim.square != (squares or {}).get(index, 1):
                raise ProofError("the factor claimed of its old entries is not the one that it gets")
            # Found now, while those of the inputs are there: asked for later, a deep network would recurse. Where
            # nothing grew there is nothing to be zero.
            state = Proved(claim, zeros[index]() if index in zeros and not claim.identity else {})
            self.states[claim.name] = state
            prove_facts(state, self.combined)

    def relate(self, name: str, of: str) -> Proved:
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
        related = Proved(claim, self.slabs(new, claim))
        prove_facts(related, self.combined)
        self._relations[key] = related
        return related
