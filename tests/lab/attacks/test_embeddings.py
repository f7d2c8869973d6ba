"""Token vectors learned on the undefended model and through the guard."""

import pytest
import torch

from saferedir.lab import attacks
from saferedir.lab.attacks import embeddings, gradients


@pytest.fixture
def setting(stage, redirector, tmp_path):
    budget = gradients.TrainingBudget(2, 2, 4)
    return attacks.Setting(0, attacks.demo_vocabulary("stripes"), stage, lambda pictures, jobs: [1.0] * len(jobs),
                           redirector, 0.5, "guard", tmp_path,
                           {"textual inversion": budget, "white-box embedding": budget})


def test_inversion_stands_in_the_prompts_and_can_be_sampled(setting, base_jobs):
    jobs, wordings = base_jobs("stripes", 2)
    found = embeddings.textual_inversion(jobs, wordings, setting)
    vectors = setting.stage.embeddings[found[0].embeddings]
    assert vectors.shape == (embeddings.VECTORS, 128) and vectors.isfinite().all()
    for job, base, wording in zip(found, jobs, wordings):
        assert "EMBEDDING" in job.text and job.text.replace("EMBEDDING", wording) == base.text
    assert setting.stage.render(setting.stage.batch_of(found)).isfinite().all()


def test_a_stopped_run_goes_on_from_its_file(setting, base_jobs, monkeypatch):
    jobs, wordings = base_jobs("stripes", 2)
    first = embeddings.textual_inversion(jobs, wordings, setting)
    vectors = setting.stage.embeddings.pop(first[0].embeddings)
    monkeypatch.setattr(embeddings, "learn_vectors", None)  # would fail if it were called
    assert embeddings.textual_inversion(jobs, wordings, setting) == first
    assert torch.equal(setting.stage.embeddings[first[0].embeddings], vectors)


def test_learning_is_the_same_for_the_same_seed_and_leaves_the_models_as_they_are(setting, base_jobs):
    unet = setting.stage.model.model.diffusion_model
    before = gradients.fingerprint(unet)
    jobs, _ = base_jobs("stripes", 2)
    texts = ["a red EMBEDDING fish", "a EMBEDDING cup"]
    budget = setting.budgets["textual inversion"]
    first, again = (embeddings.learn_vectors("t", jobs, texts, setting, budget, "striped") for _ in range(2))
    assert torch.equal(first, again)
    assert gradients.fingerprint(unet) == before
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_the_white_box_embedding_is_made_for_one_guard(setting, base_jobs):
    jobs, wordings = base_jobs("stripes", 2)
    found = embeddings.white_box_embedding(jobs, wordings, setting)
    assert {job.only for job in found} == {"guard"}
    assert found[0].embeddings in setting.stage.embeddings


def test_a_penalty_moves_the_vectors(setting, base_jobs):
    jobs, _ = base_jobs("stripes", 1)
    budget = setting.budgets["textual inversion"]
    plain, pushed = (embeddings.learn_vectors("t", jobs, ["a EMBEDDING cup"], setting, budget, "striped", penalty)
                     for penalty in (None, lambda context, batch: 1e3 * context.square().mean()))
    assert not torch.equal(plain, pushed)
