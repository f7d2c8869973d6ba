"""The diffusion model asked about finished pictures: the demo world's own, and every kind of the host's models."""

from functools import cache

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from test_any_model import KINDS, MODEL_OF, prompt
from tiny_models import POOLED, WIDE, WIDTH, made, sample

import saferedir_core as core
from saferedir.nodes import drawing, types
from saferedir.nodes.demo_world.judge import judge
from saferedir.nodes.guarding import bridge, picture_loop, reaction, witness
from saferedir_core.witness import LEVELS, NOISES
from saferedir_core.words.redirector import WordsConfig, WordsRedirector

STEPS, CFG = 8, 4.0
STRIPED, PLAIN = "a striped red car in a meadow", "a red car in a meadow"
PREDICTIONS = len(LEVELS) * NOISES


@pytest.fixture(scope="module")
def guarded(demo_world, stripes_in_words):
    """guarded(when, if_it_remains="blank"): the demo world's model with a guard from words, and its recorder."""
    def make(when: str, if_it_remains: str = "blank", model=None):
        recorder = types.Recorder()
        how = reaction.Reaction(if_it_remains=if_it_remains, witness=when)
        return bridge.guard_model(model or demo_world[0], stripes_in_words, core.PolicyConfig(), recorder,
                                  reaction=how), recorder
    return make


@pytest.fixture(scope="module")
def draw(demo_world):
    """draw(model, text, seeds, start=None, denoise=1.0): final latents."""
    _, clip, _ = demo_world

    def draw(model, text, seeds=(1, 2, 3, 4), start=None, denoise=1.0):
        return drawing.sample(model, drawing.conditioning(clip, [text] * len(seeds)), drawing.conditioning(clip, [""]),
                              seeds, STEPS, CFG, "euler", "normal", denoise, start, None, (4, 8, 8))
    return draw


@pytest.fixture(scope="module")
def striped(demo_world, draw):
    """Latents of striped cars, unguarded."""
    return draw(demo_world[0], STRIPED)


def striped_by_pixels(vae, latents) -> list[bool]:
    with torch.inference_mode():
        pictures = (255 * vae.decode(latents).float()).clamp(0, 255).byte().numpy()
    return [judge(each).striped for each in pictures]


def calls_of(model):
    """A clone of a model, and the numbers of rows of its denoiser's calls."""
    model, rows = model.clone(), []

    def count(executor, x, *args, **kwargs):
        rows.append(len(x))
        return executor(x, *args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", count)
    return model, rows


def test_a_start_image_that_shows_the_concept_does_not_leave(demo_world, guarded, draw, striped):
    model, recorder = guarded("end")
    shows = striped_by_pixels(demo_world[2], draw(demo_world[0], PLAIN, start=striped, denoise=0.3))
    left = draw(model, PLAIN, start=striped, denoise=0.3)
    picture = recorder.runs[-1].report["picture"]
    assert {*shows} == {True, False} and [not each.any() for each in left] == shows
    assert picture["verdict"] == "remains" and picture["concepts"][0]["source"] == "witness"
    assert [each["done"] for each in picture["items"]] == ["blanked" if each else "nothing" for each in shows]


def test_a_harmless_picture_leaves_bit_for_bit(demo_world, guarded, draw):
    model, recorder = guarded("end")
    assert torch.equal(draw(model, PLAIN), draw(demo_world[0], PLAIN))
    assert recorder.runs[-1].report["picture"]["verdict"] == "clean"


def test_an_images_verdict_does_not_depend_on_its_batch(guarded, draw, striped):
    model, recorder = guarded("end", "tell")
    draw(model, PLAIN, start=striped, denoise=0.3)
    together = [each["probability"] for each in recorder.runs[-1].report["picture"]["items"]]
    draw(model, PLAIN, seeds=(1,), start=striped[:1], denoise=0.3)
    alone = recorder.runs[-1].report["picture"]["items"][0]["probability"]
    assert alone == pytest.approx(together[0], abs=1e-3)


@pytest.mark.parametrize(("when", "text", "asked"), [
    ("off", STRIPED, False), ("redirected", PLAIN, False), ("redirected", STRIPED, True), ("end", PLAIN, True)])
def test_the_model_is_asked_when_it_should_be(demo_world, guarded, draw, when, text, asked):
    counted, rows = calls_of(demo_world[0])
    model, recorder = guarded(when, "tell", counted)
    draw(model, text, seeds=(1,))
    assert len(rows) == STEPS + (PREDICTIONS if asked else 0)       # both questions in one call
    assert ("picture" in recorder.runs[-1].report) == asked


def test_a_redirected_run_that_is_clean_leaves(demo_world, guarded, draw):
    model, recorder = guarded("redirected")
    left = draw(model, STRIPED)
    assert recorder.runs[-1].report["picture"]["verdict"] == "clean" and left.any()
    assert not any(striped_by_pixels(demo_world[2], left))


def test_it_is_asked_with_the_runs_prompt_and_the_words_behind_it(demo_world, guarded, draw, stripes_in_words):
    seen, model = [], demo_world[0].clone()

    def record(executor, x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
        seen.append(c_crossattn)
        return executor(x, t, c_concat, c_crossattn, *args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", record)
    draw(guarded("end", "tell", model)[0], PLAIN, seeds=(1,))
    own = drawing.conditioning(demo_world[1], [PLAIN])[0][0]
    told, untold = stripes_in_words.redirector.said.float()
    for asked in seen[STEPS:]:
        assert len(asked) == 2 and all(torch.equal(each[:77], own[0]) for each in asked)
        assert {tuple(each[77:].flatten().tolist()) for each in asked} == {
            tuple(told.flatten().tolist()), tuple(untold.flatten().tolist())}


def test_what_nodes_put_around_the_conds_is_not_asked(demo_world, guarded, draw):
    """One that saves model calls would answer from memory, which it finds by the conds' uuids."""
    model, calls, known = demo_world[0].clone(), [], []

    def note(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        known.append({*transformer_options["uuids"]})
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", note)

    def from_memory(executor, *args):
        calls.append(args)
        return executor(*args)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "memory", from_memory)
    draw(guarded("end", "tell", model)[0], PLAIN, seeds=(1,))
    assert len(calls) == STEPS and len(known) == STEPS + PREDICTIONS
    assert all(one.isdisjoint(other) for at, one in enumerate(known[STEPS:], STEPS) for other in known[:at])


def test_again_draws_it_without_the_concept(demo_world, guarded, draw, striped):
    model, recorder = guarded("end", "again")
    left = draw(model, PLAIN, seeds=(1,), start=striped[:1], denoise=0.3)
    picture = recorder.runs[-1].report["picture"]
    assert len(picture["attempts"]) > 1 and picture["verdict"] == "clean"
    assert left.any() and striped_by_pixels(demo_world[2], left) == [False]


def test_an_interruption_is_the_hosts(monkeypatch, guarded, draw):
    model, _ = guarded("end")

    def interrupted():
        raise comfy.model_management.InterruptProcessingException
    monkeypatch.setattr(witness.comfy.model_management, "throw_exception_if_processing_interrupted", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        draw(model, PLAIN, seeds=(1,))


def test_a_redirector_without_words_to_ask_with_asks_nothing(demo_world, draw):
    bare = WordsRedirector(WordsConfig(128)).eval().requires_grad_(False)
    with torch.no_grad():
        for each in bare.parameters():
            each.zero_()
    bare.evidence.bias.fill_(-5.0)
    loaded, recorder = types.LoadedRedirector.place("old", bare), types.Recorder()
    counted, rows = calls_of(demo_world[0])
    how = reaction.Reaction(witness="end")
    draw(bridge.guard_model(counted, loaded, core.PolicyConfig(), recorder, reaction=how), PLAIN, seeds=(1,))
    assert len(rows) == STEPS and "picture" not in recorder.runs[-1].report
    with pytest.raises(core.ConfigError, match="fitted by SafeRedir Words of this version"):
        picture_loop.require_someone_who_looks([loaded], reaction.Reaction(if_it_remains="blank", witness="end"))


# ------------------------------------------------------------------------------ every kind of model


@pytest.fixture(scope="module")
def models(comfyui):
    make = cache(made)
    return lambda kind: make(MODEL_OF.get(kind, kind))


def words(width: int) -> types.LoadedRedirector:
    """A redirector from words that finds every prompt harmless and has five tokens to ask with."""
    one = WordsRedirector(WordsConfig(width, POOLED, rank=1, said=5))
    with torch.no_grad():
        for each in one.parameters():
            each.zero_()
        for judges in (one.evidence, one.word):
            judges.bias.fill_(-5.0)
        one.said.copy_(torch.randn(one.said.shape, generator=torch.Generator().manual_seed(5)))
    return types.LoadedRedirector.place("words", one.eval().requires_grad_(False))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_model_can_be_asked(models, kind):
    recorder = types.Recorder()
    guarded = bridge.guard_model(models(kind), words(WIDE.get(kind, WIDTH)), core.PolicyConfig(), recorder,
                                 reaction=reaction.Reaction(witness="end"))
    positive, negative = prompt(kind, 1, False), prompt(kind, 2, False)
    if kind == "stable_audio":      # sound is refused, not guessed at
        with pytest.raises(core.SafeRedirError, match="expected pictures"):
            sample(guarded, positive, negative)
        return
    plain = sample(models(kind), positive, negative)
    assert torch.equal(sample(guarded, positive, negative), plain)
    items = recorder.runs[-1].report["picture"]["items"]
    assert len(items) == len(plain) and all(0 <= each["probability"] <= 1 for each in items)
