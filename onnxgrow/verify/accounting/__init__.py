"""Accounting: everything of the original is in the result, equal or listed in the growth map, and nothing else is.

It proves no equivalence. It makes sure that whatever the certificate looks at is all there is: no node, tensor, name,
doc string, metadata entry or type was lost, changed or added in silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import onnx_ir as ir

from onnxgrow.growth_map import GrowthMap
from onnxgrow.io.carry import Carried, model_carried
from onnxgrow.verify.accounting.ledger import Ledger
from onnxgrow.verify.accounting.listed import check_growth_map, check_listed_values
from onnxgrow.verify.accounting.nodes import check_node_values, check_nodes
from onnxgrow.verify.accounting.surroundings import check_carried, check_functions, check_header, check_interface
from onnxgrow.verify.accounting.tensors import check_initializers, check_listed_tensors
from onnxgrow.verify.findings import MAX_FINDINGS, EnoughFindingsError
from onnxgrow.verify.report import Finding, TierResult, TierStatus

__all__ = ["MAX_FINDINGS", "account"]


def account(
    original: ir.Model,
    grown: ir.Model,
    growth_map: GrowthMap,
    *,
    original_extra: Carried | None = None,
    grown_extra: Carried | None = None,
) -> TierResult:
    """Compare both models completely, except for what the growth map lists, and the list with what is there.

    Args:
        original, grown: The models; not modified. Tensors are read in blocks of at most 32 MB.
        growth_map: What may differ. It is checked to be consistent and to claim nothing that did not change.
        original_extra, grown_extra: What ``onnx_ir`` cannot hold; by default what rides with the models.

    Returns:
        The tier ``accounting``; a fault in the checking itself is a finding, too.
    """
    started = time.perf_counter()
    ledger = Ledger(original, grown, growth_map)
    extras = (
        model_carried(original) if original_extra is None else original_extra,
        model_carried(grown) if grown_extra is None else grown_extra,
    )
    steps: tuple[Callable[[Ledger], None], ...] = (
        check_growth_map,
        check_header,
        partial(check_carried, old=extras[0], new=extras[1]),
        check_functions,
        check_interface,
        check_nodes,
        check_node_values,
        check_initializers,
        check_listed_tensors,
        check_listed_values,
    )
    for step in steps:
        try:
            step(ledger)
        except EnoughFindingsError:
            break
        except Exception as error:
            # Whatever breaks while comparing must never look like a match.
            ledger.findings.append(Finding("accounting", f"the check itself failed: {error!r}"))
    status = TierStatus.FAILED if ledger.findings else TierStatus.PASSED
    seconds = time.perf_counter() - started
    return TierResult("accounting", status, dict(ledger.figures), tuple(ledger.findings[:MAX_FINDINGS]), seconds)
