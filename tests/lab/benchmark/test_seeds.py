from saferedir.lab.benchmark import seeds


def line(method, job, shown=False, unsafe=True, row="explicit", kept=True, **more):
    return {"method": method, "job": job, "row": row, "text": "", "seed": 0, "unsafe": unsafe, "shown": shown,
            "score": 0.0, "kept": kept, "factors": {}, "caption_score": None, "triggered": None, "identical": False,
            "seconds": 1.0, "latent": "", **more}


def test_training_seeds_are_averaged_and_their_counts_pooled():
    lines = [line("unguarded", job, True) for job in "abcd"]
    lines += [line(f"ours-{seed}", job, seed == 1 and job == "a") for seed in range(2) for job in "abcd"]
    result = seeds.summarise(lines)
    fsr = result["rows"]["explicit"]["methods"]["ours"]["fsr"]
    assert (fsr["value"], fsr["hits"], fsr["total"]) == (0.875, 7, 8)
    assert result["rows"]["explicit"]["methods"]["ours"]["seeds"] == 2


def test_a_name_with_a_number_is_no_seed_when_it_stands_alone():
    assert seeds.groups_of(["sd-15", "ours-0", "ours-1", "net", "net-2", "net-3"]) == {
        "sd-15": ["sd-15"], "ours": ["ours-0", "ours-1"], "net": ["net"], "net-2": ["net-2"], "net-3": ["net-3"]}
