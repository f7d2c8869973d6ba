"""Every baseline on the demo world: a few images, few steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saferedir.lab.baselines import arithmetic, baselines
from saferedir.lab.baselines.baselines import ConceptWords
from saferedir.nodes.evaluation import detectors
from saferedir_core.errors import ConfigError

REDIRECTOR = Path(__file__).resolve().parents[3] / "models" / "redirectors" / "demo_stripes.safetensors"
UNSAFE, HARMLESS = "a striped red fish in the snow", "a red house at night"
LONG = HARMLESS + ", a picture" * 50 + ", " + UNSAFE  # the concept lies behind token 77


@pytest.fixture(scope="module")
def short(stage):
    """A stage of its own settings: three steps."""
    return stage.with_settings(steps=3, cfg=4.0)


@pytest.fixture(scope="module")
def words():
    return baselines.concept_words("stripes")


@pytest.fixture(scope="module")
def detector():
    return detectors.DemoDetector("stripes")


@pytest.fixture
def mixed(short, job):
    """An unsafe and a harmless job."""
    return short.batch_of([job(UNSAFE), job(HARMLESS, seed=2, unsafe=False)])


def latents_of(stage, method, batch):
    return stage.render(method.change(batch, stage))


@pytest.mark.parametrize("name", ["stripes", "watercolour", "boat"])
def test_methods_are_told_training_wordings_only(name):
    from saferedir.lab.world.captions import split_of_words

    words = baselines.concept_words(name)
    assert len(words.phrases) > 8
    assert {split_of_words(phrase) for phrase in words.phrases} == {"training"}
    assert words.safe == ("car" if name == "boat" else "")


def test_an_unknown_concept_is_refused():
    with pytest.raises(ConfigError, match="no demo concept 'spots'; expected one of stripes, watercolour, boat"):
        baselines.concept_words("spots")


@pytest.mark.parametrize("fields", [
    {}, {"join": "combine", "second": HARMLESS}, {"join": "concat", "second": HARMLESS},
    {"join": "average", "second": LONG, "strength": 0.5}], ids=["plain", "combine", "concat", "average"])
def test_every_baseline_makes_every_kind_of_batch_and_changes_nothing_given(short, job, words, detector, fields):
    batch = short.batch_of([job(UNSAFE, **fields), job(LONG, seed=2, **fields)])
    before = [context.clone() for context, _ in batch.positive]
    keys = [sorted(options) for _, options in batch.positive]
    for method in baselines.all_baselines(words, detector):
        changed = method.change(batch, short)
        pictures, triggered = method.finish(short.decode(short.render(changed)), changed, short)
        assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == np.uint8, method.name
        assert triggered is None or len(triggered) == 2, method.name
        assert len(changed.positive) == len(batch.positive), method.name
    assert all(torch.equal(context, old) for (context, _), old in zip(batch.positive, before))
    assert [sorted(options) for _, options in batch.positive] == keys


def test_the_settings_of_a_calibrated_concept_are_used(detector):
    for concept, settings in baselines.DEMO_SETTINGS.items():
        words = baselines.concept_words(concept)
        methods = {method.name: method for method in baselines.all_baselines(words, detector)}
        assert len(methods) == 7
        for name, chosen in settings.items():
            assert all(getattr(methods[name], key) == value for key, value in chosen.items())


@pytest.mark.parametrize("kind", ["CalibratedSubtraction", "PadReplacement"])
def test_where_the_gate_stays_shut_nothing_changes(short, words, mixed, kind):
    name = "gate" if kind == "PadReplacement" else "offset"
    method = getattr(baselines, kind)(words, **{name: 0.999})
    assert method.change(mixed, short) is mixed
    assert method.finish(np.zeros((2, 64, 64, 3), np.uint8), mixed, short)[1] == [False, False]


@pytest.mark.parametrize("kind", ["CalibratedSubtraction", "PadReplacement"])
def test_the_gate_opens_for_the_unsafe_item_and_leaves_its_neighbour_bit_for_bit(short, words, mixed, kind):
    method = getattr(baselines, kind)(words)
    pair, ends = baselines.contrast(short.clip, words), baselines.ends_of(mixed, 0, short, 1)
    pooled = baselines.pooled_of(mixed.positive[0][0], ends) - pair.neutral
    unsafe, harmless = torch.nn.functional.cosine_similarity(pooled, pair.direction[None]).tolist()
    assert unsafe > harmless
    name = "gate" if kind == "PadReplacement" else "offset"
    method = replace(method, **{name: (unsafe + harmless) / 2})
    changed = method.change(mixed, short)
    assert method.finish(np.zeros((2, 64, 64, 3), np.uint8), changed, short)[1] == [True, False]
    assert not torch.equal(changed.positive[0][0][0], mixed.positive[0][0][0])
    assert torch.equal(changed.positive[0][0][1], mixed.positive[0][0][1])
    assert torch.equal(short.render(changed)[1], short.render(mixed)[1])


def test_padding_replaces_the_concept_behind_token_77(short, job, words):
    batch = short.batch_of([job(LONG)])
    method = baselines.PadReplacement(words, gate=-1)
    changed, near = method.change(batch, short), arithmetic.words_near
    (before, _), (after, _) = batch.positive[0], changed.positive[0]
    assert before.shape == after.shape and before.shape[1] > 77
    ends = baselines.ends_of(batch, 0, short, before.shape[1] // 77)
    places = near(before.reshape(-1, 77, before.shape[-1]), method.concept(short)[0], ends, method.threshold)
    replaced = after.reshape(-1, 77, before.shape[-1])
    assert places[1:].any()
    for chunk, place in places.nonzero():
        assert torch.equal(replaced[chunk, place], replaced[chunk, -1])


def test_phrases_that_say_nothing_are_refused(short, mixed):
    nothing = ConceptWords("nothing", ("with", "a"))
    with pytest.raises(ConfigError, match="None of the phrases of 'nothing'"):
        baselines.PadReplacement(nothing, neutral=0.01).change(mixed, short)


def test_the_negative_prompt_does_nothing_at_cfg_1(short, job, words):
    batch = short.batch_of([job(UNSAFE, cfg=1.0)])
    assert torch.equal(latents_of(short, baselines.NegativePrompt(words), batch), short.render(batch))
    batch = short.batch_of([job(UNSAFE)])
    assert not torch.equal(latents_of(short, baselines.NegativePrompt(words), batch), short.render(batch))


def test_sld_acts_at_cfg_1_and_keeps_no_momentum_from_run_to_run(short, job, words):
    batch = short.batch_of([job(UNSAFE, cfg=1.0)])
    changed = baselines.SLD(words, "max").change(batch, short)
    first = short.render(changed)
    assert not torch.equal(first, short.render(batch))
    assert torch.equal(first, short.render(changed))


def test_sld_without_scale_is_plain_guidance(short, mixed, words, monkeypatch):
    maths = arithmetic
    monkeypatch.setitem(maths.PRESETS, "none", maths.SafetyGuidance(0.0, 0.0, 0.0, 0.0, 0.0))
    torch.testing.assert_close(latents_of(short, baselines.SLD(words, "none"), mixed), short.render(mixed),
                               rtol=1e-3, atol=1e-3)


def test_an_unknown_preset_is_refused(words):
    with pytest.raises(ConfigError, match="SLD.preset is 'extreme'; expected one of weak, medium, strong, max"):
        baselines.SLD(words, "extreme")


def test_one_item_of_a_batch_is_treated_as_it_would_be_alone(short, job, words):
    jobs = [job(UNSAFE), job(HARMLESS, seed=2)]
    together = baselines.OrthogonalProjection(words).change(short.batch_of(jobs), short).positive[0]
    for index, each in enumerate(jobs):
        alone = baselines.OrthogonalProjection(words).change(short.batch_of([each]), short).positive[0]
        torch.testing.assert_close(together[0][index], alone[0][0], rtol=1e-4, atol=1e-4)


def test_rejection_blackens_what_the_detector_sees(mixed, short):
    seen = detectors.Seen

    class Fires:
        def detect(self, pictures, jobs):
            return [seen(job.unsafe, 1.0) for job in jobs]

    pictures = np.full((2, 64, 64, 3), 7, np.uint8)
    delivered, fired = baselines.RejectFinalImage(Fires()).finish(pictures, mixed, short)
    assert fired == [True, False]
    assert not delivered[0].any() and (delivered[1] == 7).all() and (pictures == 7).all()


def test_upstream_runs_the_published_mode(short, mixed):
    method = baselines.Upstream("published", REDIRECTOR, alpha_scale=1.5, interval=2)
    assert (method.policy.mode, method.policy.alpha_scale, method.policy.interval) == ("upstream", 1.5, 2)
    changed = method.change(mixed, short)
    _, triggered = method.finish(short.decode(short.render(changed)), changed, short)
    assert len(triggered) == 2


def test_a_variant_of_a_method_does_not_take_over_what_the_other_made_of_the_words(short, words):
    method = baselines.OrthogonalProjection(words)
    projection = method.concept(short)
    assert not torch.equal(replace(method, rank=1).concept(short), projection)


def test_projection_of_what_follows_reaches_the_padding(short, job, words):
    batch = short.batch_of([job(UNSAFE)])
    (plain, _), = batch.positive
    for following in (False, True):
        (projected, _), = baselines.OrthogonalProjection(words, following=following).change(batch, short).positive
        assert torch.equal(projected[:, 0], plain[:, 0])
        assert torch.equal(projected[:, 40:], plain[:, 40:]) is not following
