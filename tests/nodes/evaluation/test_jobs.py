def test_equal_jobs_have_equal_ids_and_others_have_others(job):
    assert job("a fish").id == job("a fish").id != job("a fish", 2).id


def test_the_id_is_that_of_0_1_0(job):
    assert job("a fish").id == "d430c90b68090caa"
