"""The command that writes docs/costs.md."""

import json

from saferedir.lab.costs import bench


def test_it_writes_after_every_row_and_goes_on_where_it_was_ended(tmp_path, monkeypatch):
    taken = []

    def ended_at(number):
        def row(at):
            if at == number:
                raise KeyboardInterrupt
            taken.append(at)
            return {"value": at}
        return {"start": lambda plan: [({"what": f"thing {at}"}, lambda at=at: row(at)) for at in range(3)]}

    command = ["--quick", "--only", "start", "--out", str(tmp_path)]
    monkeypatch.setattr(bench, "FIGURES", ended_at(1))
    try:
        bench.main(command)
    except KeyboardInterrupt:
        pass
    kept = json.loads((tmp_path / "costs.json").read_text(encoding="utf-8"))["figures"]["start"]["rows"]
    assert [each["value"] for each in kept] == [0]
    monkeypatch.setattr(bench, "FIGURES", ended_at(None))
    assert bench.main([*command, "--resume"]) == 0
    assert taken == [0, 1, 2]
    assert bench.main(command) == 0
    assert taken == [0, 1, 2, 0, 1, 2]
    assert "| thing 2 | 2 |" in (tmp_path / "costs.md").read_text(encoding="utf-8")


def test_figures_of_a_gpu_come_onto_the_page_and_nothing_is_measured(tmp_path):
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"device": "A Card", "machine": "box", "date": "2026-11-28", "dtype": "float16",
                                "seconds": 300, "training": [{"steps": 20}]}), encoding="utf-8")
    assert bench.main(["--quick", "--only", "--gpu", str(file), "--out", str(tmp_path)]) == 0
    assert "A Card, box, 2026-11-28" in (tmp_path / "costs.md").read_text(encoding="utf-8")
