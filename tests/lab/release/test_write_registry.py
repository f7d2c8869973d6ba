"""models/registry.json says what lies in models/redirectors and what was measured of it."""

from saferedir.lab.pictures.leak_page import AGAIN
from saferedir.lab.release.write_registry import REGISTRY, RESULTS, ROOT, SHIPPED, entries, figure, figures_of
from saferedir_core.bundle import load_redirectors
from saferedir_core.registry import read_registry


def test_the_registry_is_what_the_command_writes_and_has_to_be_written_anew_when_this_fails():
    assert read_registry(REGISTRY) == entries(RESULTS.read_text(encoding="utf-8")), (
        "run: python quickstart.py run lab/release/write_registry.py")


def test_every_shipped_redirector_has_an_entry_with_its_size_and_hash():
    shipped = {path.name for path in SHIPPED.glob("*.safetensors")}
    known = {entry.file: entry for entry in read_registry(REGISTRY).values() if not entry.sources}
    assert shipped == {*known}
    for name, entry in known.items():
        content = (SHIPPED / name).read_bytes()
        assert entry.pin.size == len(content) and entry.pin.sha256
        entry.pin.check(content, name)
        assert [*load_redirectors(SHIPPED / name)] == [entry.name.removeprefix("demo-")]


def test_the_published_checkpoint_is_pinned_by_its_git_blob():
    entry = read_registry(REGISTRY)["nudity-sd1-published"]
    assert entry.pin.git_blob == "8ffe2be3aef64c1bc2aacb6fa28084e8989b3e00"
    assert entry.sources[0].revision == "a920535c56688a0486dac157c71ae5b499efd7d3" and entry.license == "MIT"


def test_figures_are_those_that_were_aimed_at_of_one_concept():
    rows = [{"concept": concept, "row": "benign", "method": AGAIN, "identical": [hits, 200]}
            for concept, hits in (("stripes", 199), ("boat", 190))]
    assert figures_of(rows, "boat") == [
        figure("benign images bit-identical", 95.0, low=91.0, high=97.3, count=200)]
    assert figures_of([], "boat") == []


def test_the_shipped_redirectors_have_figures():
    known = read_registry(REGISTRY)
    assert all(known[f"demo-{name}"].evaluation["figures"] for name in ("stripes", "watercolour", "boat"))
    assert (ROOT / known["demo-boat"].evaluation["from"]).is_file()
