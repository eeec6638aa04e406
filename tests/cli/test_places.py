"""What a widening writes, where, and what it never replaces."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx
import pytest
from command_line import listing, parsed

from onnxgrow.cli.places import check_folder, is_same
from onnxgrow.errors import EnvironmentFault


def test_default_output_lies_beside_the_model(folder, onnxgrow):
    (folder / "sub").mkdir()
    onnx.save(parsed(), folder / "sub" / "net.v2.onnx")
    assert onnxgrow("widen", "sub/net.v2.onnx").code == 0
    assert sorted(listing(folder)) == ["sub", "sub/net.v2.grown.onnx", "sub/net.v2.onnx"]


def test_existing_output_needs_force(mlp, folder, onnxgrow):
    (folder / "out.onnx").write_text("precious")
    before = listing(folder)
    outcome = onnxgrow("widen", mlp, "-o", "out.onnx")
    assert outcome.code == 2
    assert "--force" in outcome.error
    assert listing(folder) == before
    assert onnxgrow("widen", mlp, "-o", "out.onnx", "--force").code == 0
    onnx.checker.check_model(onnx.load("out.onnx"))
    assert listing(folder)["mlp.onnx"] == before["mlp.onnx"]


def test_in_place_replaces_the_model(mlp, folder, onnxgrow):
    assert onnxgrow("widen", mlp, "--in-place", "--to", "12").code == 0
    assert sorted(listing(folder)) == ["mlp.onnx"]
    assert list(onnx.load(mlp).graph.initializer[0].dims) == [12, 4]


@pytest.mark.parametrize("mapped", [False, True])
def test_in_place_works_on_weights_that_are_mapped_from_the_same_file(mapped, folder, onnxgrow, monkeypatch):
    if mapped:
        monkeypatch.setattr("onnxgrow.io.inline.LEAST_FILE", 0)
        monkeypatch.setattr("onnxgrow.io.inline.LEAST_TENSOR", 16)
    model = parsed()
    onnx.save(model, "net.onnx")
    onnx.save(model, "original.onnx")
    assert onnxgrow("widen", "net.onnx", "--in-place", "--to", "12").code == 0
    assert onnxgrow("verify", "original.onnx", "net.onnx").code == 0
    onnxgrow("widen", "original.onnx", "--to", "12", "-o", "net2.onnx")
    assert (folder / "net.onnx").read_bytes() == (folder / "net2.onnx").read_bytes()


def test_in_place_follows_a_link_and_keeps_it(mlp, folder, onnxgrow):
    (folder / "link.onnx").symlink_to("mlp.onnx")
    assert onnxgrow("widen", "link.onnx", "--in-place", "--to", "12").code == 0
    assert (folder / "link.onnx").is_symlink()
    assert list(onnx.load(mlp).graph.initializer[0].dims) == [12, 4]


@pytest.mark.parametrize("make", [os.symlink, os.link], ids=["symbolic link", "hard link"])
def test_output_that_leads_to_the_model_is_refused(make, mlp, folder, onnxgrow):
    make("mlp.onnx", "other.onnx")
    before = listing(folder)
    outcome = onnxgrow("widen", mlp, "-o", "other.onnx", "--force")
    assert outcome.code == 2
    assert "the model itself" in outcome.error
    assert listing(folder) == before


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_files_that_the_model_is_made_of_are_never_replaced(option, folder, onnxgrow):
    onnx.save(parsed(), folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    before = listing(folder)
    outcome = onnxgrow("widen", "m.onnx", option, "m.bin", "--force")
    assert outcome.code == 2
    assert listing(folder) == before


def test_external_data_goes_beside_the_output(mlp, folder, onnxgrow):
    assert onnxgrow("widen", mlp, "-o", "out.onnx", "--to", "200", "--external-data").code == 0
    files = sorted(listing(folder))
    assert [f.split("-")[0] for f in files] == ["mlp.onnx", "out", "out.onnx"]
    assert onnxgrow("verify", mlp, "out.onnx").code == 0


def test_report_replaces_a_report_but_nothing_else(mlp, folder, onnxgrow):
    (folder / "notes.txt").write_text("dear diary")
    before = listing(folder)
    outcome = onnxgrow("widen", mlp, "--report", "notes.txt")
    assert outcome.code == 2
    assert "no report" in outcome.error
    assert listing(folder) == before
    (folder / "r.json").write_text('{"old": true}')
    assert onnxgrow("widen", mlp, "--report", "r.json").code == 0
    assert json.loads((folder / "r.json").read_text())["verdict"] == "equivalent"


def test_dry_run_writes_nothing_but_the_report(mlp, folder, onnxgrow):
    before = listing(folder)
    outcome = onnxgrow("widen", mlp, "--dry-run")
    assert outcome.code == 0
    assert "nothing was written" in outcome.err
    assert listing(folder) == before
    assert onnxgrow("widen", mlp, "--dry-run", "--report", "plan.json").code == 0
    assert sorted(listing(folder)) == ["mlp.onnx", "plan.json"]
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["plan"]["sets"] == [{"name": "h", "old": 8, "new": 16}]
    assert plan["verdict"] is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions mean nothing to root")
def test_read_only_folder_is_refused_before_the_work(mlp, folder, onnxgrow):
    (folder / "locked").mkdir(mode=0o500)
    outcome = onnxgrow("widen", mlp, "-o", "locked/out.onnx")
    assert outcome.code == 5
    assert outcome.error.startswith("ENVIRONMENT: ")


def test_folder_that_denies_writing_is_an_environment_fault(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(EnvironmentFault):
        check_folder(folder / "out.onnx")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("a", "a", True),
        ("a", "./a", True),
        ("a", "b", False),
        ("link", "a", True),
        ("gone", "gone", True),
        ("gone", "a", False),
    ],
)
def test_is_same_sees_through_links_and_spellings(a, b, same, folder):
    for name in "ab":
        (folder / name).touch()
    (folder / "link").symlink_to("a")
    assert is_same(Path(a), Path(b)) is same
