"""Do new entries stay where an operator has a number for them? A zero behind them makes nothing else of a NaN.

Of logarithms, roots, quotients and powers of computed values, new entries that repeat old ones are as safe as these,
and so is their mean where a whole range is safe: the mean of two divisors may be 0. Others have to be kept positive by
the operators in front, whatever the weights are: what was seen on samples only does not count.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxgrow.verify.certificate.pair import Pair, require
from onnxgrow.verify.certificate.pointing import POINTERS, require_inside
from onnxgrow.verify.certificate.side import Side, input_name, input_names
from onnxgrow.verify.certificate.state import Proved

__all__ = ["stays_defined"]

TINY = 1e-30
"""What a divisor may not be smaller than."""
LOOK_BACK = 64
"""Operators that are followed back."""

POSITIVE = {"Div": 1, "Log": 0, "ReduceLogSum": 0, "Reciprocal": 0}
DIVISIONS = frozenset(("Div", "Mod", "Reciprocal"))
INVERSE = frozenset(("Acos", "Asin", "Atanh"))
"""Ops of what lies between -1 and 1; Atanh is infinite at 1 itself, to which what stays below may be rounded."""
WITHIN_ONE = frozenset("Cos Erf HardSigmoid Sigmoid Sin Softmax Softsign Tanh".split())
POSITIVE_ALWAYS = frozenset("Exp Sigmoid Softplus".split())
BARELY = 1e-45
"""A positive number that may be rounded to 0."""
NONNEGATIVE = frozenset("Abs HardSigmoid ReduceL1 ReduceL2 ReduceSumSquare Relu Softmax".split())
FROM_MINUS_ONE = frozenset("Cos Erf Sin Softsign Tanh".split())
NO_LESS = frozenset(
    "DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND GlobalAveragePool GlobalMaxPool Identity "
    "MaxPool ReduceMax ReduceMean ReduceMin Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split()
)
"""Ops that give out entries of their first input, or means of them, as their first output (Split: as any)."""
SUMS = frozenset(("CumSum", "ReduceSum"))
FLOATS = frozenset((ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16))


def stays_defined(pair: Pair) -> None:
    """Require that the node has numbers for the new entries of its operands. Raises ProofError."""
    op, side = pair.node.op_type, pair.new
    if side.domain(pair.node):
        return
    if op in POSITIVE:
        _require_least(pair, POSITIVE[op], TINY, means=op not in DIVISIONS)
    elif op == "Sqrt":
        _require_least(pair, 0, 0.0)
    elif op == "Pow":
        _require_power(pair)
    elif op == "Acosh":
        _require_least(pair, 0, 1.0)
    elif op in INVERSE and (op == "Atanh" or not _within_one(side, input_name(pair.node, 0))):
        _require_least(pair, 0, math.inf)
    elif op == "Mod":
        _require_least(pair, 1, math.inf, means=False)
    elif op in POINTERS:
        _require_inside(pair)


def _require_inside(pair: Pair) -> None:
    """Zeros and repetitions of old indices lie inside; constants are the same in every run."""
    computed = input_name(pair.node, 1) not in pair.new.static
    if computed and _grew(pair.scaled(1), zeros=True, repeats=True, means=False):
        require_inside(pair)


def _within_one(side: Side, name: str) -> bool:
    node = side.producer[name][0] if name in side.producer else None
    return node is not None and not side.domain(node) and not side.is_function(node) and node.op_type in WITHIN_ONE


def _require_power(pair: Pair) -> None:
    """Whole powers from 0 on are those of any number, other powers those of what is positive, or at least 0."""
    powers = _powers(pair.new, pair.node)
    if powers is None:
        # Powers that differ from run to run: also of a constant, and of what did not grow itself.
        if any(_grew(pair.scaled(i), zeros=False, repeats=False, means=False) for i in (0, 1)):
            _require_bound(pair, 0, TINY)
    elif not all(p.is_integer() and p >= 0 for p in powers):
        alike = len(set(powers)) == 1
        whole = all(p.is_integer() for p in powers)
        _require_least(pair, 0, 0.0 if min(powers) >= 0 else TINY, repeats=alike, means=alike and not whole)


def _require_least(pair: Pair, index: int, least: float, *, repeats: bool = True, means: bool = True) -> None:
    """Require a lower bound of new entries of a computed operand.

    A constant is the same in every run, so running the models shows what it leads to.
    """
    if input_name(pair.node, index) not in pair.new.static and _grew(
        pair.scaled(index), zeros=least == 0, repeats=repeats, means=means
    ):
        _require_bound(pair, index, least)


def _require_bound(pair: Pair, index: int, least: float) -> None:
    """Require a lower bound of an operand; a positive one is enough where that of the original is no greater."""
    name = input_name(pair.node, index)
    found = _Least(pair.new).of(name)
    as_before = found > 0 and found >= _Least(pair.old).of(input_name(pair.original, index))
    defined = found >= least or (as_before and least == TINY)
    require(defined, f"{pair.node.op_type} may have no number for new entries of {name}: nothing bounds them")


def _grew(state: Proved, *, zeros: bool, repeats: bool, means: bool) -> bool:
    """Whether there are new entries, other than zeros, repetitions of old ones and their mean where these are safe."""
    for number, axis in enumerate(state.axes):
        if axis.identity:
            continue
        free = axis.new.copy()
        if means and number in state.claim.mean:
            free &= ~state.claim.mean[number]
        if repeats and number in state.claim.copies:
            free &= state.claim.copies[number] < 0
        if zeros:
            free &= ~state.zero(number)
        if free.any():
            return True
    return False


def _powers(side: Side, node: ir.Node) -> list[float] | None:
    value = side.value(input_name(node, 1))
    return None if value is None else np.asarray(value).astype(np.float64).reshape(-1).tolist()


class _Least:
    """Lower bounds of values of the result, from the operators that make them; −Inf where there is none."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._known: dict[str, float] = {}
        self._depth = 0

    def of(self, name: str) -> float:
        if name not in self._known:
            self._known[name] = -math.inf  # of what is made from itself, or too far away
            self._depth += 1
            if name and self._depth <= LOOK_BACK:
                self._known[name] = self._found(name)
            self._depth -= 1
        return self._known[name]

    def _found(self, name: str) -> float:
        value = self.side.value(name)
        if value is not None:
            return float(value.astype(np.float64).min(initial=math.inf)) if value.dtype.kind in "fiub" else -math.inf
        node, output = self.side.producer.get(name, (None, 0))
        if node is None or self.side.domain(node) or self.side.is_function(node):
            return -math.inf
        return self._made(node) if not output or node.op_type == "Split" else -math.inf

    def _made(self, node: ir.Node) -> float:
        op, least = node.op_type, [self.of(name) for name in input_names(node)]
        if op in POSITIVE_ALWAYS:
            return BARELY
        if op in NONNEGATIVE:
            return 0.0
        if op in FROM_MINUS_ONE:
            return -1.0
        if op == "Elu":
            return -abs(node.attributes.get_float("alpha", 1.0))
        if op in NO_LESS:
            return least[0]
        if op in SUMS:
            from_zero = node.attributes.get_int("exclusive", 0)  # then the first sum is that of nothing
            return -math.inf if least[0] < 0 else 0.0 if from_zero else least[0]
        if op == "Cast":
            return self._cast(node, least[0])
        if op in ("Add", "Sum"):
            return sum(least)
        if op in ("Concat", "Min"):
            return min(least)
        if op == "Max":
            return max(least)
        if op == "Where":
            return min(least[1:])
        if op == "Mul":
            same = input_name(node, 0) == input_name(node, 1)
            return 0.0 if same else least[0] * least[1] if min(least) >= 0 else -math.inf
        if op == "Div":
            return BARELY if min(least) > 0 else 0.0 if min(least) >= 0 else -math.inf
        if op == "Sqrt":
            return math.sqrt(max(least[0], 0.0))
        if op == "Pow":
            return self._power(node, least[0])
        if op == "Clip":
            return self._clipped(node, least[0])
        if op == "AveragePool":
            counted = node.attributes.get_int("count_include_pad", 0) and least[0] > 0
            return least[0] / math.prod(node.attributes.get_ints("kernel_shape", ())) if counted else least[0]
        if op == "Pad":
            constant = node.attributes.get_string("mode", "constant") == "constant"
            return min(least[0], self._number(node, 2, "value", 0.0) or 0.0) if constant else least[0]
        return -math.inf

    def _cast(self, node: ir.Node, least: float) -> float:
        """Rounding keeps the order, and may lead to 0; whole numbers wrap around."""
        to = ir.DataType(node.attributes.get_int("to", 0))
        with np.errstate(over="ignore"):
            return float(np.float64(least).astype(to.numpy())) if to in FLOATS else -math.inf

    def _power(self, node: ir.Node, least: float) -> float:
        powers = _powers(self.side, node) or []
        if least >= 0 and powers:
            with np.errstate(over="ignore"):
                return float(np.power(least, powers).min()) if min(powers) >= 0 else 0.0
        return 0.0 if powers and all(p >= 0 and p % 2 == 0 for p in powers) else -math.inf

    def _clipped(self, node: ir.Node, least: float) -> float:
        low, high = self._number(node, 1, "min", None), self._number(node, 2, "max", None)
        if low is not None:
            least = max(least, low)
        return least if high is None else min(least, high)

    def _number(self, node: ir.Node, index: int, key: str, default: float | None) -> float | None:
        stored, name = node.attributes.get(key), input_name(node, index)
        if stored is not None:
            return float(stored.as_float())
        value = self.side.value(name) if name else None
        if name and (value is None or value.size != 1):
            return -math.inf
        return default if value is None else float(value.reshape(-1)[0])
