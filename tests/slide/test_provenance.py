from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tifffile import OmeXml

from wsigen import __version__
from wsigen.slide.provenance import (
    beside,
    complete_provenance,
    description,
    flatten,
    ome_metadata,
    patch_grids,
    provenance_json,
)

facts_strategy = st.dictionaries(
    st.text(max_size=8),
    st.one_of(
        st.text(max_size=20), st.integers(), st.booleans(), st.none(), st.lists(st.integers(), max_size=3)
    ),
    max_size=5,
)


def test_every_slide_says_that_it_is_synthetic():
    facts = complete_provenance({"seed": 1, "synthetic": False, "mpp": 0.5}, 0.5, 10, 20)
    assert facts["synthetic"] is True
    assert next(iter(facts)) == "synthetic"
    assert "shows no patient" in facts["notice"]
    assert facts["software"] == f"wsigen {__version__}"
    assert (facts["height"], facts["width"], facts["seed"]) == (10, 20, 1)


def test_a_slide_that_was_made_otherwise_says_so():
    facts = complete_provenance({"notice": "a computed\nstain"}, 0.5, 10, 20)
    assert facts["notice"] == "a computed\nstain"
    assert ome_metadata(facts, 0.5, "name")["Description"] == "a computed stain"
    assert "diffusion" in ome_metadata(complete_provenance({}, 0.5, 10, 20), 0.5, "name")["Description"]


def test_nested_facts_become_dotted_names():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": "text", "f": None, "path": Path("x")}
    assert flatten(nested) == {"a.b": "1", "a.c.d": "[1, 2]", "e": "text", "f": "null", "path": '"x"'}


@settings(deadline=None, max_examples=40)
@given(facts_strategy)
def test_any_facts_make_readable_xml(facts):
    metadata = ome_metadata(complete_provenance(facts, 0.5, 8, 8), 0.5, "name")
    xml = OmeXml(**metadata)
    xml.addimage("uint8", (8, 8, 3), (1, 1, 1, 8, 8, 3), **metadata)
    root = ElementTree.fromstring(xml.tostring())
    found = {element.get("K"): element.text for element in root.iter() if element.tag.endswith("}M")}
    assert found["synthetic"] == "true"
    assert root.get("Creator") == f"wsigen {__version__}"


@given(facts_strategy)
def test_description_is_one_line_of_ascii_without_xml(facts):
    text = description(complete_provenance(facts, 0.5, 8, 8))
    assert text.startswith("synthetic = true; ")
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set("<>")


@given(facts_strategy)
def test_json_gives_the_facts_back(facts):
    assert json.loads(provenance_json(facts).decode()) == facts


def test_identifier_depends_on_the_facts_alone():
    first, again, other = (ome_metadata({"seed": seed}, 0.5, "name")["UUID"] for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("slide", "json_name"),
    [("a_HE.ome.tif", "a_HE.json"), ("a.OME.TIFF", "a.json"), ("a.b.tif", "a.b.json"), ("a.x", "a.x.json")],
)
def test_companions_are_named_after_the_slide(slide, json_name):
    assert beside(Path("folder") / slide, ".json") == Path("folder") / json_name


def test_patch_grids_are_read_as_they_nest_and_flat():
    named = {"name": "patches, last step", "pitch": 512, "rows": [20, 276], "cols": [40]}
    unnamed = {"pitch": 64, "rows": [0], "cols": [0]}
    facts = {"joints": [named, "other", {"pitch": 1, "rows": [0], "cols": [0]}, unnamed]}
    grids = [named, {"name": "64 px seams", **unnamed}]
    assert patch_grids(facts) == patch_grids(flatten(facts)) == grids
    for joints in ("none", "[" * 100_000, "{}", {"a": 1}, None):
        assert patch_grids({"joints": joints}) == []
    assert patch_grids({}) == []
