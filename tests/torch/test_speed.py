"""That a module does the work of the native one and no more, counted in kernels: seconds are tools/bench_torch.py's."""

from __future__ import annotations

from collections import Counter

import pytest

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402 # only where PyTorch is installed

from tools.bench_torch import Basic, Bert, compare, exported  # noqa: E402

torch.set_num_threads(1)

VIEWS = frozenset("view t transpose permute slice expand detach alias unsqueeze squeeze select lift_fresh".split())
"""Change how a tensor is looked at, not its numbers."""


def kernels(module, inputs):
    """How often each kernel runs in a training step, on tensors of floating-point numbers."""
    found = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            first = result[0] if isinstance(result, tuple | list) and result else result
            name = func._schema.name.removeprefix("aten::")
            if isinstance(first, torch.Tensor) and first.is_floating_point() and name not in VIEWS:
                found[name] += 1
            return result

    with Count():
        module(inputs).square().mean().backward()
    return found


MODELS = {
    "residual": lambda: (torch.nn.Sequential(Basic(3, 4, 2), Basic(4, 4, 1)), torch.randn(2, 3, 8, 8)),
    "transformer": lambda: (Bert(2, 16, 4, 11, 8), torch.randint(0, 11, (2, 8))),
}


@pytest.fixture(params=MODELS)
def pair(request):
    torch.manual_seed(0)
    native, inputs = MODELS[request.param]()
    return exported(native, inputs).train(), native.train(), inputs


def test_a_step_runs_the_kernels_of_the_native_module(pair):
    module, native, inputs = pair
    extra = kernels(module, inputs) - kernels(native, inputs)
    # Gradients of a tensor that is read in several places may be summed up in one step more per layer.
    assert not {name: n for name, n in extra.items() if name != "add" or n > 2}, extra


def test_work_that_the_native_module_does_not_do_is_seen(pair):
    _, native, inputs = pair
    more = torch.nn.Sequential(native, torch.nn.Tanh())
    assert (kernels(more, inputs) - kernels(native, inputs))["tanh"] == 1


def test_the_whole_graph_is_compiled_as_one():
    native, inputs = MODELS["transformer"]()
    module = exported(native, inputs).train()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(inputs), module(inputs), atol=1e-5)
    compiled(inputs).square().mean().backward()


def test_the_benchmark_measures_all_three():
    found = compare("transformer", 2, models={**MODELS})
    assert found["ratio"] > 0
    assert found["noise"] > 0
