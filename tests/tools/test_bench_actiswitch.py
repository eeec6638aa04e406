"""The benchmark of ActiSwitches: it measures what it says, on networks that fold back to what they were."""

from __future__ import annotations

import pytest

from onnxgrow.passes import AddActiSwitch, Fold
from tools.bench_actiswitch import NETWORKS, main, measure, network


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_fold_back_to_their_own_nodes(name: str) -> None:
    plain = network(name)
    switched = AddActiSwitch().grow(plain).model
    folded = Fold().grow(switched).model
    ops = [[n.op_type for n in model.graph] for model in (plain, switched, folded)]
    assert len(ops[1]) > len(ops[0])
    assert ops[2] == ops[0]


def test_every_model_has_a_time() -> None:
    model = network("MLP")
    times = measure([model, model], NETWORKS["MLP"][1], 2)
    assert len(times) == 2
    assert min(times) > 0


def test_it_prints_a_line_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repeats", "1"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["network", *NETWORKS]
