"""Whether zeros written into new channels arrive as zeros at their readers, and whether a gradient comes back.

Zero fan-in writes exact zeros and lets the readers be random: every op on the way has to map 0 to 0, and to have a
derivative there, else the new weights never learn.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxgrow.algebra import Term
from onnxgrow.analysis import Analysis, ChannelSet
from onnxgrow.analysis.network import Network, node_key
from onnxgrow.analysis.stream import FLAT
from onnxgrow.rules import Terms

__all__ = ["zero_path_problem", "zero_values"]

KEEPS = frozenset(
    (
        "Asin Asinh Atan Atanh BatchNormalization Cast Celu Dropout Elu Erf Gelu HardSwish Identity LeakyRelu Mish Neg "
        "PRelu Selu Sin Sinh Softsign Swish Tan Tanh "
        "AveragePool GlobalAveragePool GlobalMaxPool MaxPool "
        "Concat DepthToSpace Expand Flatten Gather Pad Reshape Slice SpaceToDepth Split Squeeze Tile Transpose "
        "Unsqueeze Resize Upsample ReduceMean ReduceSum Conv ConvTranspose"
    ).split()
)
"""Ops with f(0) = 0 that pass a gradient at 0, and ops that move or average entries; depthwise convolutions."""

ALL = frozenset("Add Sub Sum Max Min Mean".split())
ANY = frozenset(("Mul",))
FIRST = frozenset(("Div",))


def zero_path_problem(analysis: Analysis, channel_set: ChannelSet) -> str:
    """Why zero fan-in is impossible or pointless for a set; empty when it works."""
    if any(not w.use.in_axes and w.use.data >= 0 for w in channel_set.writers):
        return "a depthwise multiplier writes it: its zeros would also stop the channels it passes on"
    if channel_set.atom in analysis.dims.contracted:
        return "two computed values are multiplied over it: with zeros on both sides neither would learn"
    zero, culprit = _follow(analysis, channel_set)
    for reader in channel_set.readers:
        value = reader.use.node.inputs[reader.use.data]
        name = (value.name if value is not None else None) or ""
        if name not in zero:
            return culprit.get(name, f"zeros do not reach {reader.use.node.op_type} {reader.use.node.name}")
    return ""


def zero_values(analysis: Analysis, channel_set: ChannelSet) -> frozenset[str]:
    """Names of computed values whose new entries of the set are exactly zero under zero fan-in."""
    return frozenset(_follow(analysis, channel_set)[0])


def _follow(analysis: Analysis, channel_set: ChannelSet) -> tuple[set[str], dict[str, str]]:
    """Values that are zero in the set's new channels, and for the others why not."""
    dims, atom = analysis.dims, channel_set.atom
    writers = {w.use.node for w in channel_set.writers}
    zero: set[str] = set()
    culprit: dict[str, str] = {}
    for node in analysis.makers.get(atom, ()):
        outputs = [o.name for o in node.outputs if o.name and _has(dims.values.get(o.name), atom, analysis)]
        carriers = [
            (i, v.name)
            for i, v in enumerate(node.inputs)
            if v is not None and v.name and _has(dims.at((node, i)), atom, analysis)
        ]
        computed = [(i, n) for i, n in carriers if n not in dims.network.derived]
        why = _one_bias(node, [i for i, _ in carriers]) if node in writers else ""
        if node not in writers or computed:
            why = why or _border(node, dims.network)
            why = why or _through(node, computed, len(carriers) - len(computed), zero, culprit)
        # Of other ops than Split further outputs are masks and indices.
        zeros = outputs if node.op_type == "Split" else [o for o in outputs if o == node.outputs[0].name]
        zero.update(() if why else zeros)
        label = f"{node.op_type} {node.name or node_key(node)}"
        culprit.update((o, why or f"{label} makes a mask or indices of zeros") for o in outputs if o not in zero)
    return zero, culprit


def _one_bias(node: ir.Node, carriers: list[int]) -> str:
    """Why a writer's zeros do not make zeros: its bias has no entry per channel, so new channels get the old one."""
    given = node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None
    return f"Gemm {node.name or node_key(node)} has one bias for all channels" if given and 2 not in carriers else ""


def _border(node: ir.Node, network: Network) -> str:
    """Why entries that a node adds around its data are not zero; empty when they are, or when it adds none."""
    value = 0.0
    if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
        value = node.attributes.get_float("value", 0.0)
        given = node.inputs[2] if len(node.inputs) > 2 else None
        if given is not None and given.name:
            known = network.concrete.values.get(given.name) if given.name in network.derived else None
            value = float("nan") if known is None else float(known.reshape(-1)[0])
    elif node.op_type == "Resize":
        value = node.attributes.get_float("extrapolation_value", 0.0)
    return (
        "" if value == 0 else f"{node.op_type} {node.name or node_key(node)} borders its data with values other than 0"
    )


def _has(terms: Terms | None, atom: Term, analysis: Analysis) -> bool:
    return any(atom in analysis.dims.forest.leaves(t) for t in terms or ())


def _through(
    node: ir.Node, computed: list[tuple[int, str]], filled: int, zero: set[str], culprit: dict[str, str]
) -> str:
    """Why new channels are not zero, or dead, behind a node; empty when they are zero and alive.

    ``computed`` are its operands that carry the channels, ``filled`` counts the constant ones, which get neutral
    entries there.
    """
    label = f"{node.op_type} {node.name or node_key(node)}"
    upstream = next((culprit[n] for _, n in computed if n in culprit), "")
    if node.op_type in FLAT:
        return upstream or f"zero fan-in would be exact but dead: {label} passes no gradient at 0"
    if node.op_type == "Concat" and filled:
        return upstream or f"{label} joins constants that have these channels"
    zeros = [i for i, n in computed if n in zero]
    if node.op_type in KEEPS and zeros:
        return "" if len(zeros) == len(computed) else upstream
    if node.op_type in ALL and computed:
        # Constants of a sum get zeros in their new entries; an operand without such channels may be anything.
        operands = len([v for v in node.inputs if v is not None and v.name])
        neutral = filled if node.op_type in ("Add", "Sub", "Sum") else 0
        if len(zeros) == len(computed) == operands - neutral:
            return ""
    if node.op_type in ANY and zeros:
        return ""
    if node.op_type in FIRST and zeros == [0]:
        return ""
    return upstream or f"{label} does not map 0 to 0"
