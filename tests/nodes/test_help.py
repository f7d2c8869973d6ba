"""Every node explains itself: a tooltip on each input and output, and a help page that names them all."""

import asyncio
from pathlib import Path

import pytest

from saferedir.nodes.extension import SafeRedirExtension
from saferedir.nodes.weights import catalogue

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"


@pytest.fixture(scope="module")
def schemas():
    extension = SafeRedirExtension()
    asyncio.run(extension.on_load())
    return {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in asyncio.run(extension.get_node_list()))}


def test_every_node_has_a_help_page_and_every_page_a_node(schemas):
    assert {page.stem for page in DOCS.glob("*.md")} == set(schemas)


def test_a_help_page_has_the_nodes_name_every_input_and_every_output(schemas):
    for node_id, schema in schemas.items():
        page = (DOCS / f"{node_id}.md").read_text(encoding="ascii")
        assert page.startswith(f"# {schema.display_name}\n")
        assert len(page.split()) > 80
        for slot in schema.inputs:
            assert f"\n| {slot.id} |" in page, (node_id, slot.id)
        for slot in schema.outputs:
            assert f"\n| {slot.display_name} |" in page or f"| {slot.io_type} |" in page, (node_id, slot.io_type)


def test_a_help_page_says_what_the_tooltips_say(schemas):
    for node_id, schema in schemas.items():
        page = (DOCS / f"{node_id}.md").read_text(encoding="ascii").replace("`", "")
        for slot in (*schema.inputs, *schema.outputs):
            assert slot.tooltip and f"| {slot.tooltip} |" in page, (node_id, slot.tooltip)


def test_the_loaders_page_tells_where_the_published_checkpoint_is():
    entry = catalogue.registry()["nudity-sd1-published"]
    page, source = (DOCS / "SafeRedirLoader.md").read_text(encoding="ascii"), entry.sources[0]
    assert all(text in page for text in (source.repo_id, source.filename, source.revision, entry.file))
