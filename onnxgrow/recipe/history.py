"""Verification over several growths: the models between are made again, and every growth is proved.

A growth map says what was asked for and is the same on every machine, so the model that one growth made can be made
again from the one before. How it was made proves nothing and needs no trust: the verifier proves each pair of models by
itself, and the last pair ends in the file that is verified.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnxgrow.errors import BadInputError, GrowError
from onnxgrow.growth_map import METADATA_KEY, GrowthMap
from onnxgrow.io import Loaded, model_digest
from onnxgrow.passes.base import Proof
from onnxgrow.recipe.steps import STEPS, arguments_of
from onnxgrow.verify.chain import Link, conclude, end_to_end, unproved
from onnxgrow.verify.judge import verify
from onnxgrow.verify.report import Report, TierResult, Verdict

__all__ = ["verify_history"]


class _LostError(Exception):
    """A model between cannot be made again."""


def verify_history(
    original: Loaded, result: Loaded, growth_map: GrowthMap, proof: Proof, outputs: Collection[str] = ()
) -> Report | None:
    """Prove a model against one that it was grown from several growths ago.

    Args:
        original: That model; its digest is looked for in the growth maps of ``result``.
        result: The grown model.
        growth_map: Its growth map.
        proof: How to verify.
        outputs: Graph outputs that may have grown.

    Returns:
        The report; None where no earlier growth started from ``original``. ``unproved``, with what running both models
        found, where a model between cannot be made again.

    Raises:
        BadInputError: The history is malformed.
        GrowError: As :func:`onnxgrow.verify.judge.verify`.
    """
    digest = model_digest(original.model)
    maps = _maps(growth_map)
    starts = [i for i, m in enumerate(maps[:-1]) if m.original == digest]
    if not starts or growth_map.original == digest:
        return None
    maps = maps[starts[-1] :]
    links: list[Link] = []
    model = original.model
    for number, made in enumerate(maps, 1):
        label = f"growth {number} ({made.recipe.get('pass', 'unknown')})"
        is_last = number == len(maps)
        step_proof = proof.within(f"growth {number} of {len(maps)}")
        try:
            after = result.model if is_last else _again(model, made, maps[number].original, step_proof)
        except _LostError as e:
            return unproved(_ends(original, result, maps, proof), f"the result of {label} cannot be made again: {e}")
        report = verify(
            model,
            after,
            original_path=original.path if number == 1 else None,
            grown_path=result.path if is_last else None,
            inputs=proof.inputs,
            input_shapes=proof.input_shapes,
            provider=proof.provider,
            outputs=outputs,
            progress=step_proof.progress,
        )
        links.append(Link(label, made, report))
        if report.verdict in (Verdict.NOT_EQUIVALENT, Verdict.UNPROVED):
            break
        model = after
    return conclude(links, _ends(original, result, maps, proof), proof.max_change)


def _maps(growth_map: GrowthMap) -> list[GrowthMap]:
    """All growth maps, the oldest first, each with the history that it had."""
    history = growth_map.history
    try:
        earlier = [GrowthMap.from_json({**h, "history": list(history[:i])}) for i, h in enumerate(history)]
    except ValueError as e:
        raise BadInputError("growth map", f"its history: {e}", "the metadata of the grown model was edited") from e
    return [*earlier, growth_map]


def _again(model: ir.Model, made: GrowthMap, digest: str, proof: Proof) -> ir.Model:
    """What a growth made of ``model``: the very model that the next growth started from."""
    try:
        kind, arguments = arguments_of(made.recipe, made.seed)
    except (KeyError, TypeError, ValueError):
        known = ", ".join(STEPS)
        raise _LostError(f"it is a pass of its own, and only {known} can be done again") from None
    try:
        step = kind.make(arguments)
        step.proof = proof
        again = step.grow(model).model
    except TypeError:
        raise _LostError("it was asked for in a way that this version does not know") from None
    except GrowError as e:
        raise _LostError(f"{e.subject}: {e.reason}") from e
    again.metadata_props[METADATA_KEY] = made.dumps()
    if model_digest(again) != digest:
        raise _LostError("it comes out different: it was trained in between, or made with other --inputs or versions")
    return again


def _ends(original: Loaded, result: Loaded, maps: Sequence[GrowthMap], proof: Proof) -> tuple[TierResult, TierResult]:
    proof.say("comparing the result with the original")
    return end_to_end(
        original.model,
        result.model,
        maps,
        original_path=original.path,
        result_path=result.path,
        inputs=proof.inputs,
        input_shapes=proof.input_shapes,
        provider=proof.provider,
        progress=proof.progress,
    )
