"""The page of the costs: targets with what was measured, misses named, and what is not measured."""

from saferedir.lab.costs import costs_page
from saferedir.lab.costs.timing import Spread


def content(**rows):
    made = costs_page.Content(False)
    for name, every in rows.items():
        made.begin(name, "command", keep=False).extend(map(costs_page.plain, every))
    return made


def told(made):
    return {what: (measured, met) for what, _, measured, met in costs_page.reached(made.figures)}


def test_what_was_to_be_reached_stands_first_and_misses_are_named():
    run = {"model": "SD 1.5, 512 x 512", "batch": 1, "guard": "full"}
    found = told(content(
        run=[{**run, "judged": "harmless", "guarded / unguarded": 1.0011},
             {**run, "judged": "moved at every call", "guarded / unguarded": 1.0051}],
        evaluation=[{"image": "512 x 512", "batch": 1, "judged": "harmless",
                     "times faster than published": Spread(9.9, 9.0, 11.0, 7)},
                    {"image": "1024 x 1024", "batch": 1, "judged": "harmless",
                     "times faster than published": Spread(20.0, 19.0, 21.0, 7)}],
        waits=[{"guard": "full", "judged": "harmless", "host waits per step": 0.0}],
        start=[{"what": "import", "value": Spread(0.2, 0.2, 0.2, 3)}]))
    assert found["guarded / unguarded, SD 1.5, 512 x 512, batch 1, full, harmless"] == ("1.0011", True)
    assert found["guarded / unguarded, SD 1.5, 512 x 512, batch 1, full, moved at every call"] == ("1.0051", False)
    assert found["guarded / unguarded, SDXL, 1024 x 1024, batch 1"] == ("not measured", None)
    assert found["one evaluation against the published policy, 512 x 512, harmless"] == ("9.9", False)
    assert found["one evaluation against the published policy, 1024 x 1024, harmless"] == ("20", True)
    assert found["host waits per step, full, harmless"] == ("0", True)
    assert found["import of the pack"] == ("0.2", False)
    assert found["a full demo concept trained"] == ("not measured", None)


def test_the_page_names_what_was_missed_and_what_was_not_measured():
    text = costs_page.page(content(start=[{"what": "import", "value": Spread(0.2, 0.2, 0.2, 3)}]))
    assert "| import of the pack | <= 0.15 s | 0.2 **missed** |" in text
    assert "| a full demo concept trained | <= 180 s | not measured |" in text


def test_a_figure_taken_alone_leaves_the_others_and_resuming_keeps_rows(tmp_path):
    first = content(start=[{"what": "import", "value": Spread(1.0, 1.0, 1.0, 1)}])
    first.write(tmp_path)
    second = costs_page.Content.earlier(tmp_path, False)
    second.begin("training", "command", keep=False).append({"what": "concept", "value": 100.0})
    assert second.begin("start", "command", keep=True) == first.figures["start"]["rows"]
    second.write(tmp_path)
    text = (tmp_path / "costs.md").read_text(encoding="utf-8")
    assert "| import | 1 (one round) |" in text and "| concept | 100.0 |" in text
    assert second.begin("start", "command", keep=False) == []
    assert costs_page.Content.earlier(tmp_path, True).figures == {}


def test_rows_of_another_machine_are_not_gone_on_with_and_keep_its_name(tmp_path):
    made = content(start=[{"what": "import", "value": 1.0}])
    made.figures["start"]["machine"] = "another one, 64 threads"
    made.write(tmp_path)
    assert "another one, 64 threads" in (tmp_path / "costs.md").read_text(encoding="utf-8")
    assert costs_page.Content.earlier(tmp_path, False).begin("start", "command", keep=True) == []


def test_figures_of_a_gpu_are_said_to_be_missing_and_stand_with_their_misses_when_they_are_there():
    made = costs_page.Content(False)
    assert "| guarded / unguarded on a GPU | <= 1.01 | not measured on a GPU |" in costs_page.page(made)
    made.gpu = {"device": "A Card", "machine": "box", "date": "2026-11-28", "dtype": "float16", "seconds": 300,
                "runs": [{"run": "SDXL", "guard": "full, harmless", "guarded / unguarded": 1.02, "waits": 0.0}],
                "failures": [{"step": "fits", "why": "no time was left"}]}
    text = costs_page.page(made)
    assert "| guarded / unguarded on A Card, SDXL, full, harmless | <= 1.01 | 1.02 **missed** |" in text
    assert "| waits of the guard on A Card, SDXL, full, harmless | 0 | 0.0 |" in text
    assert "| fits | no time was left |" in text and "not measured on a GPU" not in text
