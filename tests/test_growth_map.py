"""The growth map: what it says of indices, that it survives JSON, and that malformed data never gets in."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxgrow.axis_map import AxisMap, Segment
from onnxgrow.growth_map import METADATA_KEY, GrowthMap, NodeChange, SetGrowth, TensorGrowth, ValueGrowth

SCHEMA = json.loads(files("onnxgrow").joinpath("growth_map.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

names = st.text(max_size=6)
digests = st.sampled_from(["", "0" * 64, "0123456789abcdef" * 4])
finite = st.floats(allow_nan=False, allow_infinity=False)
lengths = st.integers(1, 5)


@st.composite
def axis_maps(draw: st.DrawFn) -> AxisMap:
    """Old runs in any order (channel shuffles permute) with new runs of every fact between them."""
    sizes = draw(st.lists(lengths, max_size=4))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    segments = [Segment(n, start) for n, start in zip(sizes, starts, strict=True)]
    segments += [
        Segment(n, fact=f) for n, f in draw(st.lists(st.tuples(lengths, st.sampled_from(["any", "zero", "mean"]))))
    ]
    if sizes:
        sources = st.integers(0, sum(sizes) - 1)
        segments += [
            Segment(min(n, sum(sizes) - i), fact="copy", source=i, share=a)
            for n, i, a in draw(st.lists(st.tuples(lengths, sources, finite)))
        ]
    return AxisMap(tuple(draw(st.permutations(segments))))


axes = st.dictionaries(st.integers(0, 11), axis_maps(), max_size=2)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | names,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(names, children, max_size=3),
    max_leaves=5,
)
records = st.dictionaries(names, json_values, max_size=3)
texts = st.lists(names, max_size=3).map(tuple)
growth_maps = st.builds(
    GrowthMap,
    original=digests,
    generation=st.integers(0, 9),
    seed=st.integers(),
    exact=st.booleans(),
    sets=st.lists(
        st.builds(
            SetGrowth,
            names,
            st.integers(0, 99),
            st.integers(0, 99),
            texts,
            texts,
            st.sampled_from(["zero-fan-out", "zero-fan-in", "near-zero", "net2wider"]),
        ),
        max_size=2,
    ).map(tuple),
    values=st.dictionaries(names, st.builds(ValueGrowth, axes, names), max_size=3),
    tensors=st.dictionaries(names, st.builds(TensorGrowth, axes, names, names, finite, digests), max_size=3),
    nodes=st.dictionaries(
        names,
        st.builds(
            NodeChange,
            st.dictionaries(names, st.tuples(json_values, json_values), max_size=2),
            st.dictionaries(st.integers(0, 11), st.tuples(names, names), max_size=2),
        ),
        max_size=2,
    ),
    inserted=texts,
    removed=texts,
    recipe=records,
    versions=st.dictionaries(names, names, max_size=2),
    history=st.lists(records, max_size=2).map(tuple),
)


def sample() -> dict[str, Any]:
    """JSON data that uses every part of the format."""
    grown = AxisMap(
        (Segment(2, 1), Segment(3, fact="any"), Segment(1, 0), Segment(1, fact="copy", source=2, share=0.5))
    )
    return GrowthMap(
        original="0" * 64,
        sets=(SetGrowth("w", 3, 7, ("w",), ("v",)),),
        values={"x": ValueGrowth({1: grown}, of="y")},
        tensors={"w": TensorGrowth({0: grown}, of="u", formula="mean", factor=0.5, sha256="f" * 64)},
        nodes={"x": NodeChange({"group": (3, 7)}, {1: ("u", "w")})},
        inserted=("a",),
        removed=("b",),
        recipe={"seed": 1},
        versions={"onnxgrow": "0.1.0"},
        history=({"generation": 0},),
    ).to_json()


class TestAxisMap:
    @given(axis_maps())
    def test_sizes_count_the_entries(self, m: AxisMap) -> None:
        source = m.source()
        assert m.new_size == source.size == len(m.facts())
        assert m.old_size == np.count_nonzero(source >= 0)

    @given(axis_maps())
    def test_positions_invert_source(self, m: AxisMap) -> None:
        assert m.problems() == ""
        np.testing.assert_array_equal(m.source()[m.positions()], np.arange(m.old_size))

    @given(axis_maps())
    def test_only_new_entries_have_facts(self, m: AxisMap) -> None:
        assert [bool(fact) for fact in m.facts()] == (m.source() < 0).tolist()

    @given(axis_maps())
    def test_from_source_keeps_every_index(self, m: AxisMap) -> None:
        encoded = AxisMap.from_source(m.source(), fact="zero")
        np.testing.assert_array_equal(encoded.source(), m.source())
        assert set(encoded.facts()) <= {"", "zero"}
        assert len(encoded.segments) <= len(m.segments)

    @given(axis_maps())
    def test_copying_keeps_every_index_and_every_copy(self, m: AxisMap) -> None:
        encoded = AxisMap.copying(m.source(), m.copied())
        np.testing.assert_array_equal(encoded.source(), m.source())
        np.testing.assert_array_equal(encoded.copied(), m.copied())
        assert encoded.problems() == ""
        assert len(encoded.segments) <= len(m.segments)

    def test_copies_of_a_run_in_order_are_one_segment(self) -> None:
        """Of all channels repeated twice, and of one channel whose copies read different shares."""
        twice = AxisMap.copying([0, 1, 2, -1, -1, -1], [0, 1, 2, 0, 1, 2])
        assert twice.to_json() == [[0, 3], ["copy", 3, 0, 0.0]]
        shares = AxisMap.copying([0, 1, -1, -1, -1], [0, 1, 0, 1, -1], [1, 1, 0.5, 0.25, 1])
        assert shares.to_json() == [[0, 2], ["copy", 1, 0, 0.5], ["copy", 1, 1, 0.25], ["any", 1]]
        assert twice.copied().tolist() == [-1, -1, -1, 0, 1, 2]

    @given(st.integers(0, 50))
    def test_identity_is_the_map_of_arange(self, size: int) -> None:
        identity = AxisMap.identity(size)
        assert identity == AxisMap.from_source(np.arange(size))
        assert identity.is_identity
        assert identity.new_size == identity.old_size == size

    @given(axis_maps())
    def test_is_identity_means_nothing_moved(self, m: AxisMap) -> None:
        assert m.is_identity == (m.source().tolist() == list(range(m.new_size)))

    @given(axis_maps())
    def test_json_keeps_it(self, m: AxisMap) -> None:
        assert AxisMap.from_json(json.loads(json.dumps(m.to_json()))) == m

    def test_a_run_is_one_segment(self) -> None:
        assert AxisMap.from_source([0, 1, -1, -1, 2, 4, 3]).to_json() == [
            *([0, 2], ["any", 2], [2, 1], [4, 1], [3, 1]),
        ]

    @pytest.mark.parametrize(
        ("segments", "problem"),
        [
            ((Segment(0, 0),), "no length"),
            ((Segment(2, 0), Segment(-1, fact="any")), "no length"),
            ((Segment(2, 1),), "exactly once"),
            ((Segment(2, 0), Segment(2, 1)), "exactly once"),
            ((Segment(1, 0), Segment(1, 0)), "exactly once"),
            ((Segment(1, 0), Segment(1)), "unknown fact ''"),
            ((Segment(1, 0), Segment(1, fact="one")), "unknown fact 'one'"),
            ((Segment(1, 0), Segment(1, fact="copy", source=1)), "index 1, which does not exist"),
            ((Segment(1, 0), Segment(1, fact="copy")), "index -1, which does not exist"),
            ((Segment(2, 0), Segment(2, fact="copy", source=1)), "index 2, which does not exist"),
            ((Segment(1, 0), Segment(1, fact="copy", source=0, share=float("nan"))), "not finite"),
        ],
    )
    def test_problems_names_what_is_wrong(self, segments: tuple[Segment, ...], problem: str) -> None:
        assert problem in AxisMap(segments).problems()
        with pytest.raises(ValueError, match=problem):
            AxisMap.from_json(AxisMap(segments).to_json())

    def test_a_claim_of_absurd_size_is_judged_without_memory(self) -> None:
        assert AxisMap((Segment(2**62, 0), Segment(2**62, fact="any"))).problems() == ""


class TestGrowthMap:
    @settings(max_examples=50)
    @given(growth_maps)
    def test_json_keeps_it(self, m: GrowthMap) -> None:
        assert GrowthMap.loads(m.dumps()) == m

    @settings(max_examples=50)
    @given(growth_maps)
    def test_json_follows_the_schema(self, m: GrowthMap) -> None:
        VALIDATOR.validate(json.loads(m.dumps()))

    @settings(max_examples=50)
    @given(growth_maps)
    def test_the_same_map_gives_the_same_text_in_whatever_order_it_was_made(self, m: GrowthMap) -> None:
        turned = GrowthMap(
            **{
                **vars(m),
                "values": dict(reversed(list(m.values.items()))),
                "tensors": {
                    k: TensorGrowth(**{**vars(t), "axes": dict(reversed(list(t.axes.items())))})
                    for k, t in reversed(list(m.tensors.items()))
                },
                "nodes": dict(reversed(list(m.nodes.items()))),
            }
        )
        assert turned.dumps() == m.dumps()

    def test_equal_axis_maps_are_stored_once(self) -> None:
        grown = AxisMap.from_source([0, 1, -1])
        m = GrowthMap(values={"x": ValueGrowth({1: grown}), "y": ValueGrowth({1: AxisMap(grown.segments)})})
        assert len(m.to_json()["maps"]) == 1

    def test_a_model_without_one_has_none(self) -> None:
        assert GrowthMap.of_model({}) is None

    def test_a_model_keeps_it_in_its_metadata(self) -> None:
        m = GrowthMap.from_json(sample())
        assert GrowthMap.of_model({METADATA_KEY: m.dumps()}) == m

    def test_with_digests_fills_in_only_what_is_named(self) -> None:
        m = GrowthMap(tensors={"a": TensorGrowth(sha256="old"), "b": TensorGrowth(factor=2.0)})
        assert m.with_digests({"b": "new", "c": "none"}).tensors == {
            "a": TensorGrowth(sha256="old"),
            "b": TensorGrowth(factor=2.0, sha256="new"),
        }


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """A fault: another value somewhere in the data."""

    def apply(data: dict[str, Any]) -> None:
        spot: Any = data
        for step in path[:-1]:
            spot = spot[step]
        spot[path[-1]] = value

    return apply


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    """A fault: something left out."""

    def apply(data: dict[str, Any]) -> None:
        spot: Any = data
        for step in path[:-1]:
            spot = spot[step]
        del spot[path[-1]]

    return apply


FAULTS = {
    "another format": put("format", value="onnxgrow.other"),
    "a later version": put("version", value=2),
    "a version as text": put("version", value="1"),
    "true as version": put("version", value=True),
    "an unknown key": put("colour", value="red"),
    "no maps": drop("maps"),
    "no history": drop("history"),
    "a text as flag": put("exact", value="false"),
    "a number as flag": put("exact", value=0),
    "a broken number": put("generation", value=1.5),
    "a negative generation": put("generation", value=-1),
    "a text as number": put("seed", value="1"),
    "null as digest": put("original", value=None),
    "a set that is a list": put("sets", 0, value=["w", 3, 7]),
    "a set without name": drop("sets", 0, "name"),
    "a set with more": put("sets", 0, "size", value=1),
    "writers as one text": put("sets", 0, "writers", value="w"),
    "a reader that is no text": put("sets", 0, "readers", value=[1]),
    "a size as text": put("sets", 0, "old", value="3"),
    "maps as object": put("maps", value={}),
    "an empty segment": put("maps", 0, value=[[]]),
    "a text as segment": put("maps", 0, value=["ab"]),
    "a segment too short": put("maps", 0, value=[[0]]),
    "a segment too long": put("maps", 0, value=[[0, 1, 2]]),
    "a segment of no length": put("maps", 0, value=[[0, 0]]),
    "a length as float": put("maps", 0, value=[[0, 1.0]]),
    "a negative start": put("maps", 0, value=[[-1, 1]]),
    "an unknown fact": put("maps", 0, value=[[0, 1], ["one", 1]]),
    "a copy without share": put("maps", 0, value=[[0, 1], ["copy", 1, 0]]),
    "a copy of what is not there": put("maps", 0, value=[[0, 1], ["copy", 1, 1, 1.0]]),
    "an infinite share": put("maps", 0, value=[[0, 1], ["copy", 1, 0, float("inf")]]),
    "an old index left out": put("maps", 0, value=[[1, 1]]),
    "an old index kept twice": put("maps", 0, value=[[0, 2], [1, 2]]),
    "values as list": put("values", value=[]),
    "a value without axes": drop("values", "x", "axes"),
    "axes as list": put("values", "x", "axes", value=[0]),
    "a negative axis": put("values", "x", "axes", value={"-1": 0}),
    "an axis with a leading zero": put("values", "x", "axes", value={"01": 0}),
    "an axis that is no number": put("values", "x", "axes", value={"²": 0}),
    "a map counted from the end": put("values", "x", "axes", value={"1": -1}),
    "a map that is not there": put("values", "x", "axes", value={"1": 1}),
    "a name that is null": put("values", "x", "of", value=None),
    "a value with more": put("values", "x", "shape", value=[1]),
    "a factor as text": put("tensors", "w", "factor", value="0.5"),
    "a factor that is no number": put("tensors", "w", "factor", value=float("nan")),
    "a factor beyond float": put("tensors", "w", "factor", value=10**400),
    "true as factor": put("tensors", "w", "factor", value=True),
    "a digest as number": put("tensors", "w", "sha256", value=0),
    "a formula as list": put("tensors", "w", "formula", value=["mean"]),
    "a tensor with more": put("tensors", "w", "dtype", value="float"),
    "half an attribute change": put("nodes", "x", "attributes", value={"group": [3]}),
    "a text as attribute change": put("nodes", "x", "attributes", value={"group": "37"}),
    "half an input change": put("nodes", "x", "inputs", value={"1": ["u"]}),
    "null as input name": put("nodes", "x", "inputs", value={"1": [None, "w"]}),
    "a node with more": put("nodes", "x", "outputs", value={}),
    "one text as inserted nodes": put("inserted", value="ab"),
    "a number as removed node": put("removed", value=[1]),
    "a recipe as text": put("recipe", value="widen"),
    "a version that is no text": put("versions", value={"onnxgrow": 1}),
    "a history of texts": put("history", value=["first"]),
}


class TestMalformedData:
    def test_the_sample_itself_is_well_formed(self) -> None:
        VALIDATOR.validate(sample())
        assert GrowthMap.from_json(sample()).to_json() == sample()

    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
    def test_it_is_refused(self, fault: Callable[[dict[str, Any]], None]) -> None:
        data = copy.deepcopy(sample())
        fault(data)
        with pytest.raises(ValueError, match=r"malformed growth map: ."):
            GrowthMap.from_json(data)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "null",
            "[]",
            '"format"',
            "[" * 100_000,
            '{"a":' * 100_000,
            json.dumps(sample()).replace('"seed": 0', '"seed": NaN'),
            json.dumps(sample()).replace('"seed": 0', '"seed": 0, "seed": 1'),
            json.dumps(sample()).replace('"seed": 0', '"seed": ' + "9" * 5000),
        ],
        ids=["empty", "cut off", "null", "list", "text", "deep list", "deep object", "NaN", "twice", "huge"],
    )
    def test_text_that_is_no_growth_map_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"malformed growth map: ."):
            GrowthMap.loads(text)

    @given(json_values)
    def test_any_data_gives_a_value_error_and_no_other(self, data: Any) -> None:
        with pytest.raises(ValueError, match=r"malformed growth map: ."):
            GrowthMap.loads(json.dumps(data))

    @given(st.sampled_from(sorted(sample())), json_values)
    def test_any_data_in_any_place_is_read_as_the_schema_reads_it_or_refused(self, key: str, value: Any) -> None:
        data = {**sample(), key: value}
        try:
            m = GrowthMap.from_json(data)
        except ValueError:
            return
        assert m.to_json() == GrowthMap.from_json(m.to_json()).to_json()
        if key not in ("original", "sets"):  # of these the reader checks the types only
            VALIDATOR.validate(data)


class TestSchema:
    def test_the_example_in_the_documentation_is_a_growth_map(self) -> None:
        page = (Path(__file__).parents[1] / "docs" / "growth-map.md").read_text(encoding="utf-8")
        (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
        VALIDATOR.validate(json.loads(example))
        assert GrowthMap.loads(example).to_json() == json.loads(example)

    def test_the_documentation_names_every_key(self) -> None:
        page = (Path(__file__).parents[1] / "docs" / "growth-map.md").read_text(encoding="utf-8")
        described = [SCHEMA, *SCHEMA["$defs"].values()]
        keys = {key for d in described for key in d.get("properties", {})}
        assert {key for key in keys if f"`{key}`" not in page} == set()

    def test_it_is_a_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def test_every_object_of_the_format_is_closed(self) -> None:
        described = [SCHEMA, *SCHEMA["$defs"].values()]
        assert all(d["additionalProperties"] is False for d in described if "properties" in d)

    @pytest.mark.parametrize(
        "fault",
        [
            FAULTS[name]
            for name in (
                "another format",
                "a later version",
                "an unknown key",
                "no maps",
                "a text as flag",
                "a negative start",
                "an unknown fact",
                "a copy without share",
                "a segment too long",
                "an axis with a leading zero",
                "a map counted from the end",
                "half an attribute change",
                "a tensor with more",
            )
        ],
    )
    def test_it_refuses_faults(self, fault: Callable[[dict[str, Any]], None]) -> None:
        data = sample()
        fault(data)
        assert not VALIDATOR.is_valid(data)
