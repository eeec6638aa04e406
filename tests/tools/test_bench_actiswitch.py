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


def test_every_model_runs_once_a_round() -> None:
    model = network("MLP")
    seconds = measure([model, model, model], NETWORKS["MLP"][1], 2, sessions=2)
    assert seconds.shape == (3, 4)
    assert seconds.min() > 0


def test_it_prints_a_line_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "1", "--sessions", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["network", *NETWORKS]
    assert all(float(ratio) > 0 for line in lines[1:] for ratio in line[1:])
