"""Check which parameter axes change together against an independent oracle: Torch-Pruning's dependency graph.

    pip install --no-deps torch-pruning==1.6.1     # into the environment of tools/make_exports.py
    python -m tools.coupling_oracle [--only GLOB]... [--write | --check]

Torch-Pruning (https://arxiv.org/abs/2301.12900) finds the groups from the autograd graph of the module, we find them
from its ONNX export: nothing is shared. Each network is exported with its parameter names; for every input and output
axis of every convolution, linear and embedding layer both are asked which indices of which parameters change with it.

Prints a table and the differences; ``--write`` puts the result into ``docs/coupling.md``. Exit code 1 when a
difference has no explanation, nothing was compared, or with ``--check`` the document says something else: then an
explained difference came, went or changed its kind, and has to be looked at.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onnxgrow.analysis import Network, analyse
from onnxgrow.concrete import concretize
from onnxgrow.io import load
from tools.coupling import Answer, Axis, Coupling, compare
from tools.coupling_report import Result, passed, render
from tools.exports.case import Case, randomise
from tools.make_exports import SEED, _torchvision_operators, export

__all__ = ["ask", "examine", "main"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "coupling.md"
PACKAGES = ("torch-pruning", "torch", "timm", "transformers")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)


def _axes(step: Any, names: dict[int, str]) -> list[Axis]:
    """Axes of parameters that one step of a pruning group shrinks."""
    module, is_out = step.target.module, step.handler.__name__ == "prune_out_channels"
    if isinstance(module, nn.Parameter):
        return [(names[id(module)], step.target.pruning_dim % module.ndim)]
    if isinstance(module, NORMS):
        return [(names[id(p)], p.ndim - 1) for p in module.parameters(recurse=False)]
    if isinstance(module, nn.Embedding):
        return [(names[id(module.weight)], 1)]
    if not isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        return []
    turned = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
    depthwise = not isinstance(module, nn.Linear) and module.groups == module.out_channels > 1
    if not is_out and not depthwise:
        return [(names[id(module.weight)], 0 if turned else 1)]
    bias = [] if module.bias is None else [(names[id(module.bias)], 0)]
    return [(names[id(module.weight)], 1 if turned else 0), *bias]


def ask(case: Case) -> Iterator[Answer]:
    """Torch-Pruning's answers for all layers of a network."""
    import torch_pruning

    names = _canonical(case.module)
    graph = torch_pruning.DependencyGraph().build_dependency(
        case.module, tuple(case.inputs.values()), forward_fn=lambda module, x: module(*x), verbose=False
    )
    labels = {module: name for name, module in case.module.named_modules()}
    for module in sorted((m for m in graph.module2node if m in labels), key=labels.__getitem__):
        if not isinstance(module, (*CONVOLUTIONS, nn.Linear, nn.Embedding)):
            continue
        pruner = graph.get_pruner_of_module(module)
        sides = {"out": (pruner.prune_out_channels, pruner.get_out_channels(module))}
        if not isinstance(module, nn.Embedding):
            sides["in"] = (pruner.prune_in_channels, pruner.get_in_channels(module))
        for side, (function, size) in sides.items():
            group = graph.get_pruning_group(module, function, list(range(size)))
            reach: dict[Axis, frozenset[int]] = {}
            for step, places in group:
                for axis in _axes(step, names):
                    reach[axis] = reach.get(axis, frozenset()) | frozenset(places)
            yield Answer(f"{labels[module]} ({side})", tuple(_axes(group[0][0], names)), reach)


def _canonical(module: nn.Module) -> dict[int, str]:
    """``id`` of each parameter → the first of its names."""
    names: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), name)
    return names


def examine(name: str, case: Case, folder: Path) -> Result:
    """Export one network, ask both, compare."""
    randomise(case.module)
    case.module.eval()
    path = folder / f"{name}.onnx"
    export(case, "kept", path)
    shapes = {key: tuple(value.shape) for key, value in case.inputs.items()}
    model = load(path).model
    concrete = concretize(model, shapes)
    names = _canonical(case.module)
    aliases = {n: names[id(p)] for n, p in case.module.named_parameters(remove_duplicate=False)}
    trained = [names[id(p)] for p in case.module.parameters() if p.requires_grad]
    ours = Coupling(analyse(Network(model, concrete, concrete)), aliases, trained)
    answers = [a for a in ask(case) if a.root[0] in ours.terms]
    sizes = ours.sizes()
    pairs = sum(len({*ours.reach(a.root), *(x for x in a.reach if x in sizes)}) for a in answers)
    frozen = sum(all(atom.frozen for atom in ours.atoms(a.root)) for a in answers)
    return Result(name, len(ours.terms), len(answers), pairs, frozen, tuple(compare(answers, ours)))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Check channel sets against Torch-Pruning's dependency graph.")
    parser.add_argument("--only", action="append", metavar="GLOB", help="networks by name")
    parser.add_argument("--write", action="store_true", help="write docs/coupling.md")
    parser.add_argument("--check", action="store_true", help="fail when docs/coupling.md says something else")
    args = parser.parse_args(argv)
    if args.only and (args.write or args.check):
        parser.error("the document is about all networks: leave --only out")
    warnings.filterwarnings("ignore")
    library = _torchvision_operators()
    from tools.coupling_networks import NETWORKS

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in NETWORKS.items():
            if args.only and not any(fnmatchcase(name, pattern) for pattern in args.only):
                continue
            torch.manual_seed(SEED)
            result = examine(name, make(), Path(folder))
            results.append(result)
            print(
                f"{name}: {result.roots} roots, {result.pairs} pairs, {len(result.differences)} differ", file=sys.stderr
            )
            for d in result.unexplained[:10]:
                print(f"  {d.label}: {d.axis[0]} axis {d.axis[1]}: {d.kind}", file=sys.stderr)
    del library
    text = render(results, [f"{p} {version(p)}" for p in PACKAGES])
    print(text)
    if args.write:
        DOCUMENT.write_text(text, encoding="utf-8")
    if args.check and text != DOCUMENT.read_text(encoding="utf-8"):
        print(f"{DOCUMENT.name} says something else: look at what changed, then --write", file=sys.stderr)
        return 1
    return 0 if passed(results) else 1


if __name__ == "__main__":
    sys.exit(main())
