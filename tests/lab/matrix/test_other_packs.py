"""What the page about other packs is made of: the host's log of a start, and which nodes are put into graphs."""

import pytest

from saferedir.lab.matrix import other_packs
from saferedir.lab.matrix.runner import GUARDED, NOT_HERE, REFUSED, Row

LOG = """Cannot import /tmp/base/custom_nodes/broken module for custom nodes: No module named 'cv2'

Import times for custom nodes:
   0.3 seconds: /tmp/base/custom_nodes/saferedir
   1.2 seconds (IMPORT FAILED): /tmp/base/custom_nodes/broken
   0.0 seconds: C:\\base\\custom_nodes\\other
"""


def node(pack: str, takes: dict, gives: tuple) -> dict:
    required = {name: (kind, {}) for name, kind in takes.items()}
    return {"python_module": f"custom_nodes.{pack}", "input": {"required": required}, "output": gives}


ABOUT = {
    "Patch": node("other", {"model": "MODEL"}, ("MODEL",)),
    "Sample": node("other", {"model": "MODEL", "positive": "CONDITIONING", "latent": "LATENT"}, ("LATENT",)),
    "Shows": node("other", {"model": "MODEL"}, ("STRING",)),
    "Foreign": node("another", {"model": "MODEL"}, ("MODEL",)),
}


def test_a_start_is_read_from_the_hosts_log():
    found = other_packs.started(LOG, dict.fromkeys(("saferedir", "broken", "other", "absent"), "1.2"), ABOUT)
    assert [(each.folder, each.nodes, each.seconds, each.failed) for each in found] == [
        ("saferedir", 0, 0.3, ""), ("broken", 0, 1.2, "No module named 'cv2'"), ("other", 3, 0.0, ""),
        ("absent", 0, None, "")]


def test_each_node_of_the_pack_that_is_sampled_with_is_a_case_and_no_other_packs():
    cases = other_packs.cases_of(other_packs.Pack("other"), ABOUT)
    assert [case.path for case in cases] == ["Patch, guard first", "Patch, guard last", "Sample"]
    assert {case.group for case in cases} == {"other"}


def test_the_page_has_the_start_every_row_and_the_sentence_of_what_was_refused():
    rows = [Row("other", "Patch, guard last", "prompt", GUARDED, (4, 0), 4, ("redirected", "safe"), True, 4),
            Row("other", "Sample", "prompt", REFUSED, (4, 0), 4, detail="Guard: a prompt was not judged."),
            Row("other", "Shows", "prompt", NOT_HERE, detail="needs a file")]
    starts = other_packs.started(LOG, {"saferedir": "0.1.0", "other": ""}, ABOUT)
    text = other_packs.page("0.1.0", starts, rows, ["gone"], {"alone": 9.0, "all": 21.4}, waiting=0)
    assert "| saferedir | 0.1.0 | 0 | 0.3 |  |" in text
    assert "9 s with SafeRedir alone, 21 s with all" in text and "Not there, and so not tried: gone." in text
    assert "| Patch, guard last | prompt | yes | 4 -> 0 of 4 | 4 of 4 | yes |" in text
    assert "| other | Sample | refused | Guard: a prompt was not judged. |" in text
    assert "| other | Shows | needs a file |" in text


def test_a_folder_without_packs_is_told(tmp_path, capsys):
    assert other_packs.main([str(tmp_path)]) == 2
    assert "holds none of ComfyUI-Impact-Pack" in capsys.readouterr().out


@pytest.mark.parametrize("pack", other_packs.PACKS, ids=lambda pack: pack.folder)
def test_a_pack_is_run_or_it_is_said_why_not(pack):
    assert [*pack.typical(ABOUT)] or pack.needs
