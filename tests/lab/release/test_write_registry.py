"""models/registry.json says what lies in models/redirectors and what was measured of it."""

from saferedir.lab.release.write_registry import REGISTRY, RESULTS, ROOT, SHIPPED, entries, figure, figures_of
from saferedir_core.bundle import load_redirectors
from saferedir_core.registry import read_registry

TABLE = """
|  | target | attribute (stripes) | object (boat) |
| --- | --- | --- | --- |
| FSR | at least 99.5 % | 99.9 % (99.7 to 99.9; 3000) | 98.0 % (97.8 to 99.9; 3000) **missed** |
| attack success: white-box | at most 10 % | 50.0 % (9.5 to 90.5; 2) **missed** | not measured |

| method | FSR | kept |
"""


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


def test_figures_are_read_off_the_table_of_results():
    figures = figures_of(TABLE)
    assert figures["stripes"] == [figure("FSR", 99.9, low=99.7, high=99.9, count=3000),
                                  figure("attack success: white-box", 50.0, low=9.5, high=90.5, count=2)]
    assert figures["boat"] == [figure("FSR", 98.0, low=97.8, high=99.9, count=3000)]
    assert figures_of("no table") == {}


def test_the_shipped_redirectors_have_figures():
    known = read_registry(REGISTRY)
    assert all(known[f"demo-{name}"].evaluation["figures"] for name in ("stripes", "watercolour", "boat"))
    assert (ROOT / known["demo-boat"].evaluation["from"]).is_file()
