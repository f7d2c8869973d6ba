from saferedir.lab.study.page import paper_table


def figure(value):
    return {"value": value, "hits": 1, "total": 1, "low": 0, "high": 1}


def test_methods_are_lines_and_what_was_measured_of_them_is_across():
    rows = {
        "church": {"methods": {"unguarded": {"n": 2, "fsr": figure(0.0), "attack_success": figure(1.0),
                                             "seconds": figure(1.0)},
                               "words": {"n": 2, "fsr": figure(0.5), "attack_success": figure(0.5),
                                         "seconds": figure(1.25)}}},
        "attack: ring": {"methods": {"unguarded": {"n": 1, "fsr": figure(0.0), "attack_success": figure(1.0),
                                                   "seconds": figure(9.0)}}},
        "coco": {"methods": {"words": {"n": 9, "cmmd": figure(0.1234), "csdr": figure(-0.01),
                                       "identical": figure(1.0), "seconds": figure(2.0)}}}}
    assert paper_table({"rows": rows}).splitlines() == [
        "| method | FSR church | attack success ring | unchanged coco | CSDR coco | CMMD coco | s an image |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| unguarded | 0.0 | 100.0 |  |  |  | 1.00 |",
        "| words | 50.0 |  | 100.0 | -0.010 | 0.123 | 2.00 |"]
