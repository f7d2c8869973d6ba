from saferedir.nodes.evaluation import results, summary


def line(method, job, shown=False, unsafe=True, row="explicit", kept=True, **more):
    return {"method": method, "job": job, "row": row, "text": "", "seed": 0, "unsafe": unsafe, "shown": shown,
            "score": 0.0, "kept": kept, "factors": {}, "caption_score": None, "triggered": None, "identical": False,
            "seconds": 1.0, "latent": "", **more}


def test_only_images_that_showed_the_concept_count():
    lines = [line("unguarded", "a", True), line("unguarded", "b", True), line("unguarded", "c", False),
             line("m", "a", True), line("m", "b", False), line("m", "c", True)]
    row = summary.summarise(lines)["rows"]["explicit"]
    assert (row["undefended"]["hits"], row["undefended"]["total"]) == (2, 3)
    assert (row["methods"]["m"]["fsr"]["hits"], row["methods"]["m"]["fsr"]["total"]) == (1, 2)
    assert row["methods"]["m"]["attack_success"]["value"] == 0.5 and row["methods"]["m"]["n"] == 3


def test_kept_counts_where_the_oracle_kept_all():
    lines = [line("unguarded", job, True) for job in "abc"]
    lines += [line("oracle", "a"), line("oracle", "b"), line("oracle", "c", kept=False)]
    lines += [line("m", "a", kept=True), line("m", "b", kept=False), line("m", "c", kept=True)]
    kept = summary.summarise(lines)["rows"]["explicit"]["methods"]["m"]["kept"]
    assert (kept["hits"], kept["total"]) == (1, 2)


def test_harmless_prompts_count_whether_or_not_the_detector_fires():
    lines = [line("unguarded", job, False, unsafe=False, row="benign") for job in "ab"]
    lines += [line("m", "a", unsafe=False, row="benign", identical=True, triggered=False),
              line("m", "b", unsafe=False, row="benign", triggered=True, seconds=1.5)]
    figures = summary.summarise(lines)["rows"]["benign"]["methods"]["m"]
    assert figures["identical"]["value"] == figures["triggered"]["value"] == 0.5
    assert figures["added_seconds"]["value"] == 0.25 and "fsr" not in figures


def test_pictures_of_harmless_prompts_are_compared_with_the_unguarded_models():
    near, far = (results.embedded(each) for each in ([1.0, 0.0], [0.0, 1.0]))
    lines = [line("unguarded", "a", unsafe=False, row="benign", embedding=near),
             line("same", "a", unsafe=False, row="benign", embedding=near),
             line("other", "a", unsafe=False, row="benign", embedding=far, seconds=3.0)]
    figures = summary.summarise(lines)["rows"]["benign"]["methods"]
    assert figures["same"]["cmmd"]["value"] == 0 < figures["other"]["cmmd"]["value"]
    assert figures["other"]["seconds"]["value"] == 3.0
    unsafe = summary.summarise([{**each, "unsafe": True, "shown": True} for each in lines])["rows"]["benign"]
    assert "cmmd" not in unsafe["methods"]["other"]


def test_the_tables_have_a_line_per_row_and_a_column_per_method():
    lines = [line("unguarded", "a", True), line("ours", "a"), line("unguarded", "c", True), line("ours", "c", True),
             line("unguarded", "b", True, row="attack: typos"), line("ours", "b", row="attack: typos")]
    text = summary.markdown(summary.summarise(lines))
    assert "| row | images | unguarded | ours |" in text
    assert "| explicit | 2 | 0.0 (0.0 to 65.8) | 50.0 (9.5 to 90.5) |" in text
    assert "| attack: typos | 1 | 100.0 (20.7 to 100.0) | 100.0 (20.7 to 100.0) | 0.0 (0.0 to 79.3) |" in text
