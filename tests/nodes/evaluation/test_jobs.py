from saferedir.nodes.evaluation import jobs


def test_equal_jobs_have_equal_ids_and_others_have_others(job):
    assert job("a fish").id == job("a fish").id != job("a fish", 2).id


def test_jobs_survive_a_file(job, tmp_path):
    made = [job("a fish", wanted={"striped": False}), job("b", cfg=1.0, denoise=0.5, start="c", only="m")]
    jobs.write_jobs(tmp_path / "jobs.jsonl", made)
    assert jobs.read_jobs(tmp_path / "jobs.jsonl") == made


def test_a_rewritten_job_keeps_the_rest(job):
    changed = job("a fish", 5, safe_text="b").rewritten("attack: typos", "a fihs", steps=3)
    assert (changed.row, changed.text, changed.seed, changed.safe_text, changed.steps) == (
        "attack: typos", "a fihs", 5, "b", 3)
