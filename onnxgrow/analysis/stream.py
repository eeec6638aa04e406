"""What is found out about one residual stream: the facts of values, the changes of constants, and why it cannot grow.

Which ops pass on what a stream holds is said here, too, for all that follows one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import onnx_ir as ir

from onnxgrow.analysis.network import Site
from onnxgrow.rules import Reason

__all__ = ["FLAT", "Impossible", "Residual", "State", "Written"]

HALF = Fraction(1, 2)
NONE = ""
"""The fact of a value that does not carry the atom."""

PASSES = frozenset("Cast Dropout Identity Neg".split())
MOVES = frozenset("Expand Flatten Gather Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split())
SUMS = frozenset("Add Mean Sub Sum".split())
PRODUCTS = frozenset("Gemm MatMul".split())
"""Linear ops whose weight can take back a factor on what it multiplies."""
LINEAR = frozenset("Conv ConvTranspose Einsum Gather GatherND Gemm MatMul".split())
"""Ops whose constant can make new outputs that combine the old ones."""
FLAT = frozenset("Abs Ceil Clip Floor Relu Round Shrink Sign Sqrt ThresholdedRelu".split())
"""Ops with f(0) = 0 whose derivative at 0 is 0, infinite or undefined: frameworks return no useful gradient."""
KEEPS_ZERO = frozenset(
    "Asin Asinh Atan Celu Elu Erf Gelu HardSwish LeakyRelu Mish Selu Sin Sinh Softsign Swish Tan Tanh".split()
)
"""Functions with f(0) = 0 that pass a gradient there."""
NORMALISING = frozenset("BatchNormalization InstanceNormalization".split())
"""Ops that turn new channels of zeros into zeros: new entries of their shift are 0."""
UNSAID = FLAT | frozenset(
    "Concat GatherElements GatherND GlobalLpPool GlobalMaxPool InstanceNormalization LpPool Max MaxPool Min "
    "ReduceL1 ReduceL2 ReduceMax ReduceMin ReduceSumSquare".split()
)
"""Ops that may give zeros for zeros, though no fact of their output says so."""
SILENT = (UNSAID | KEEPS_ZERO | NORMALISING | PASSES | MOVES | SUMS) | frozenset(
    "AveragePool GlobalAveragePool Mul ReduceMean ReduceSum".split()
)
"""Ops that may pass on zeros of which no fact says that they are any."""


class Impossible(Exception):
    """The mode does not work; the text says why, ``label`` where."""

    def __init__(self, node: ir.Node, why: str) -> None:
        super().__init__(why)
        self.label = f"{node.op_type} {node.name or next((o.name for o in node.outputs if o.name), '')}"


@dataclass(frozen=True)
class Written:
    """A constant whose new entries along ``axis`` combine its old ones there; ``weights`` names the constant (or
    nothing) that weighs them: the scale of a layer, which lies between the writer and the stream.
    """

    axis: int
    weights: str = ""


@dataclass
class Residual:
    """One way in which an atom can grow although statistics are taken over it.

    Attributes:
        mode: ``mean``, ``zero`` or ``copy``.
        facts: Value → fact of its new entries along the atom: where that is one axis by itself, or, for copies, a part
            of one or of several axes.
        exponents: Value → e, where its old entries become η**e times the original's (e ≠ 0).
        written: Constants, where they are first read, whose new entries along an axis combine the old ones as the
            mode says.
        scaled: Constants, where they are first read, all of whose old entries are multiplied by η**e.
        epsilons: Nodes whose ``epsilon`` is multiplied by η, with what it is where they do not state it.
        free: Weights, at the op that uses them, that read new channels which are all zero, so that they may hold
            anything there.
        statistics: Where statistics are taken over it: why it grows in such ways only.
    """

    mode: str
    facts: dict[str, str] = field(default_factory=dict)
    exponents: dict[str, Fraction] = field(default_factory=dict)
    written: dict[Site, Written] = field(default_factory=dict)
    scaled: dict[Site, Fraction] = field(default_factory=dict)
    epsilons: dict[ir.Node, float] = field(default_factory=dict)
    free: set[Site] = field(default_factory=set)
    statistics: tuple[Reason, ...] = ()


State = tuple[str, Fraction]
ZERO_EXPONENT = Fraction(0)
