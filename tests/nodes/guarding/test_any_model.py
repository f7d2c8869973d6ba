"""A redirector from words guards models of every kind: image, video and edit models in the host's own sampler."""

from functools import cache

import comfy.model_base
import comfy.supported_models
import pytest
import torch
from tiny_models import (
    BATCH,
    OTHERS,
    POOLED,
    STEPS,
    TINY,
    UNET,
    WIDE,
    WIDTH,
    conditioning,
    made,
    rows_of,
    sample,
    tiny,
    watched,
)

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge, conds, enforce, reaction, text_inputs
from saferedir_core.words.redirector import WordsConfig, WordsRedirector

EVERY = {**TINY, **OTHERS}
LOUD = 10.0  # the first number of a token that carries the concept; others have at most 5 there
# Of each kind, what its text encoder leaves in a conditioning besides the tokens and the pooled vector.
BESIDE = {
    "hidream": lambda: {"conditioning_llama3": torch.randn(1, 2, 7, 12)},
    "ltx": lambda: {"attention_mask": torch.tensor([[1] * 20 + [0] * 4]), "frame_rate": 24},
    "qwen": lambda: {"attention_mask": torch.ones(1, 12, dtype=torch.long)},
    "qwen_edit": lambda: {"reference_latents": [torch.randn(1, 16, 1, 4, 4)]},
    "flux_edit": lambda: {"reference_latents": [torch.randn(1, 16, 4, 4)]},
    "hunyuan_dit": lambda: {"conditioning_mt5xl": torch.randn(1, 10, 16),
                            "attention_mask": torch.ones(1, 20, dtype=torch.long),
                            "attention_mask_mt5xl": torch.ones(1, 10, dtype=torch.long)},
    "hunyuan_image": lambda: {"conditioning_byt5small": torch.randn(1, 6, 1472)},
    "omnigen2": lambda: {"attention_mask": torch.ones(1, 20, dtype=torch.long)},
    "lumina2": lambda: {"pooled_output": None, "attention_mask": torch.ones(1, 15, dtype=torch.long)},
    "zimage": lambda: {"pooled_output": None},
}
MODEL_OF = {"qwen_edit": "qwen", "flux_edit": "flux"}
KINDS = [kind for kind in (*EVERY, *MODEL_OF)  # that this release of the host has
         if hasattr(comfy.supported_models, EVERY[MODEL_OF.get(kind, kind)][0])]
WHERE = {"cascade": ("clip_text", "clip_text_pooled")}
POOLED_READ = ("sdxl", "refiner", "sd3", "flux", "flux_edit", "hidream", "hunyuan", "kandinsky5", "cascade")
CARRIER = 3  # the token of an unsafe prompt that carries the concept


@pytest.fixture(scope="module")
def models(comfyui):
    make = cache(made)
    return lambda kind: make(MODEL_OF.get(kind, kind))


def words(width: int = WIDTH, pooled: int = POOLED) -> types.LoadedRedirector:
    """A redirector that reacts to one thing: a token whose first number is LOUD.  It moves the second one."""
    made = WordsRedirector(WordsConfig(width, pooled, rank=1))
    with torch.no_grad():
        for each in made.parameters():
            each.zero_()
        for judge in (made.evidence, made.word):
            judge.weight[:, 0] = 4.0
            judge.bias.fill_(-4.0 * (LOUD - 2.5))
        for shift in (made.word_shift, *([made.pooled_shift] if pooled else [])):
            shift.down.bias.fill_(1.0)
            shift.up.weight[1] = 3.0
    return types.LoadedRedirector.place("words", made.eval().requires_grad_(False))


def prompt(kind: str, seed: int, unsafe: bool) -> list:
    [[context, options]] = conditioning(EVERY[MODEL_OF.get(kind, kind)][2], seed, WIDE.get(kind, WIDTH))
    if unsafe:
        context[:, CARRIER, 0] = LOUD
    torch.manual_seed(seed)
    return [[context, {**options, **BESIDE.get(kind, dict)()}]]


def guarded(model, loaded=None, on_error="stop", mode="guard"):
    recorder = types.Recorder()
    return bridge.guard_model(model, loaded or words(), core.PolicyConfig(mode=mode), recorder,
                              reaction=reaction.Reaction(on_error)), recorder


def shown(model, positive, negative, **how):
    """The picture, and what the denoiser was given."""
    model, seen = watched(model)
    return sample(model, positive, negative, **how), seen


@pytest.mark.parametrize("cfg", [4.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_harmless_run_is_bit_identical(models, kind, cfg):
    positive, negative = prompt(kind, 1, False), prompt(kind, 2, False)
    model, recorder = guarded(models(kind), words(WIDE.get(kind, WIDTH)))
    expected = sample(models(kind), positive, negative, cfg=cfg)
    assert torch.equal(sample(model, positive, negative, cfg=cfg), expected) and expected.isfinite().all()
    decisions = recorder.runs[-1].report["decisions"]
    assert len(decisions) == STEPS and 900 <= decisions[0]["timestep"] <= 1000


@pytest.mark.parametrize("cfg", [4.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_unsafe_prompt_arrives_moved_and_nothing_else_does(models, kind, cfg):
    positive, negative = prompt(kind, 1, True), prompt(kind, 2, False)
    model, recorder = guarded(models(kind), words(WIDE.get(kind, WIDTH)))
    result, seen = shown(model, positive, negative, cfg=cfg)
    plain, before = shown(models(kind), positive, negative, cfg=cfg)
    assert recorder.runs[-1].report["status"] == "redirected" and not torch.equal(result, plain)
    name, pooled = WHERE.get(kind, ("c_crossattn", "y"))
    original, arrived = next(rows_of(before, 0, name)), [*rows_of(seen, 0, name)]
    assert arrived and all(each.shape == original.shape for each in arrived)
    moved = (arrived[0] != original).any(-1)
    assert moved.sum() == 1 and all(torch.equal(each, arrived[0]) for each in arrived)  # the token that carries it
    assert torch.equal(original[moved][0, 2:], arrived[0][moved][0, 2:])                # and there what is to be moved
    if kind in POOLED_READ:
        vector, arrived = next(rows_of(before, 0, pooled)), [*rows_of(seen, 0, pooled)]
        assert all((each != vector).sum() == 1 for each in arrived)
    if cfg != 1.0:
        for other in (name, *((pooled,) if kind in POOLED_READ else ())):
            assert all(torch.equal(*each) for each in zip(rows_of(seen, 1, other), rows_of(before, 1, other)))


@pytest.mark.parametrize("kind, name, second", [
    ("hidream", "conditioning_llama3", "encoder_hidden_states_llama3"),
    ("hunyuan_dit", "conditioning_mt5xl", "encoder_hidden_states_t5"),
    ("hunyuan_image", "conditioning_byt5small", "txt_byt5")])
def test_what_a_second_encoder_made_is_emptied_where_its_prompt_is_redirected(models, kind, name, second):
    positive, negative = prompt(kind, 1, True), prompt(kind, 2, False)
    model, _ = guarded(models(kind))
    _, seen = shown(model, positive, negative)
    assert [each.any() for each in rows_of(seen, 0, second)] == [False] * STEPS * BATCH
    assert all(torch.equal(each, negative[0][1][name][0]) for each in rows_of(seen, 1, second))


def test_only_the_images_whose_prompt_is_redirected_lose_it(models):
    """Two images of one run, of which one has the unsafe prompt."""
    unsafe, harmless, negative = prompt("hidream", 1, True), prompt("hidream", 1, False), prompt("hidream", 2, False)
    both = [[torch.cat([unsafe[0][0], harmless[0][0]]), unsafe[0][1]]]
    model, _ = guarded(models("hidream"))
    _, seen = shown(model, both, negative)
    rows = [*rows_of(seen, 0, "encoder_hidden_states_llama3")]
    assert [bool(each.any()) for each in rows] == [False, True] * STEPS
    assert all(torch.equal(each, harmless[0][0][0]) for each in [*rows_of(seen, 0)][1::2])


def test_conditioning_empties_it_as_well_and_both_together_redirect_once(models):
    positive, negative = prompt("hidream", 1, True), prompt("hidream", 2, False)
    loaded = words()
    baked = bridge.redirect_conditioning(positive, loaded.redirectors, core.PolicyConfig())
    assert not baked[0][1]["conditioning_llama3"].any() and positive[0][1]["conditioning_llama3"].any()
    alone = sample(guarded(models("hidream"), loaded)[0], positive, negative)
    assert torch.equal(sample(guarded(models("hidream"), loaded)[0], baked, negative), alone)
    assert torch.equal(sample(models("hidream"), baked, negative), alone)
    safe = bridge.redirect_conditioning(negative, loaded.redirectors, core.PolicyConfig())
    assert safe[0][0] is negative[0][0]
    assert safe[0][1]["conditioning_llama3"] is negative[0][1]["conditioning_llama3"]


@pytest.mark.parametrize("kind", ["sdxl", "flux2", "wan", "qwen"])
def test_conditioning_and_guard_together_redirect_once(models, kind):
    loaded, positive, negative = words(), prompt(kind, 1, True), prompt(kind, 2, False)
    baked = bridge.redirect_conditioning(positive, loaded.redirectors, core.PolicyConfig())
    assert not torch.equal(baked[0][0], positive[0][0])
    model, recorder = guarded(models(kind), loaded)
    assert torch.equal(sample(model, baked, negative), sample(model, positive, negative))
    assert recorder.runs[0].report["status"] == "redirected"


def test_prompts_of_other_lengths_on_one_side_are_judged_each(models):
    positive = [*prompt("wan", 1, False), *prompt("ltx", 2, True)]
    positive[1][1].clear()
    model, recorder = guarded(models("wan"))
    _, seen = shown(model, positive, prompt("wan", 3, False))
    assert recorder.runs[-1].report["status"] == "redirected"
    assert len(recorder.runs[-1].report["other_conditionings"]) == 1
    lengths = {len(each) for each in rows_of(seen, 0)}
    assert lengths == {EVERY["wan"][2], EVERY["ltx"][2]}


def test_a_prompt_that_only_a_mask_hides_is_judged_where_the_model_reads_it(models):
    mask = torch.ones(1, 15, dtype=torch.long)
    mask[:, CARRIER] = 0
    positive = prompt("lumina2", 1, True)
    positive[0][1]["attention_mask"] = mask
    model, recorder = guarded(models("lumina2"))
    sample(model, positive, prompt("lumina2", 2, False))
    assert recorder.runs[-1].report["status"] == "redirected"


@pytest.mark.parametrize("dtype, status", [(torch.long, "safe"), (torch.float32, "redirected"),
                                           (torch.bool, "redirected")])
def test_padding_is_not_judged_where_the_model_does_not_read_it(models, dtype, status):
    mask = torch.ones(1, 12, dtype=dtype)
    mask[:, CARRIER] = 0
    positive = prompt("qwen", 1, True)
    positive[0][1]["attention_mask"] = mask
    model, recorder = guarded(models("qwen"))
    sample(model, positive, prompt("qwen", 2, False))
    assert recorder.runs[-1].report["status"] == status


def test_two_prompts_of_one_content_with_other_masks_are_two(models):
    hidden = torch.ones(1, 12, dtype=torch.long)
    hidden[:, CARRIER] = 0
    first, second = prompt("qwen", 1, True), prompt("qwen", 1, True)
    first[0][1]["attention_mask"] = hidden
    model, recorder = guarded(models("qwen"))
    sample(model, [*first, *second], prompt("qwen", 2, False))
    assert recorder.runs[-1].report["status"] == "redirected"


def test_tokens_that_the_host_appends_are_not_read_as_text():
    context = torch.ones(2, 5, WIDTH)
    context[:, 0] = 0
    assert conds.text_mask(context, None, 2).tolist() == [[False, True, True, False, False]] * 2
    assert conds.text_mask(context * 0, None, 0).all()  # of a prompt that is nothing else, all is read


# ------------------------------------------------------------------------------------------ what is refused

REFUSED = [name for name, each in text_inputs.TABLE.items() if each.refused and hasattr(comfy.model_base, name)]


@pytest.mark.parametrize("name", REFUSED)
def test_classes_that_cannot_be_guarded_are_refused_by_name(name):
    model = object.__new__(getattr(comfy.model_base, name))
    holder = type("Holder", (), {"model": model})()
    with pytest.raises(core.ContextError) as error:
        bridge.guard_model(holder, words(), core.PolicyConfig(), types.Recorder())
    entry = text_inputs.TABLE[name]
    assert name in str(error.value) and entry.models in str(error.value) and entry.refused in str(error.value)
    assert "Expected a model that reads" in str(error.value)


def test_a_prompt_of_another_width_is_refused(models):
    with pytest.raises(core.ContextError, match="16 wide .* made for 8; .*a CLIP of this model in SafeRedir Words"):
        guarded(models("flux"), words(8))
    model, _ = guarded(models("wan"), words(8))  # whose config does not tell
    with pytest.raises(core.SafeRedirError, match="16 wide and the redirector 8.*a CLIP of this model in SafeRedir W"):
        sample(model, prompt("wan", 1, False), prompt("wan", 2, False))


@pytest.mark.parametrize("pooled, said", [(0, "24 numbers, .* reads none"), (8, "24 numbers, .* reads 8")])
def test_a_pooled_vector_that_nobody_judges_is_refused(models, pooled, said):
    loaded = words(pooled=pooled)
    with pytest.raises(core.SafeRedirError, match=said):
        sample(guarded(models("hidream"), loaded)[0], prompt("hidream", 1, False), prompt("hidream", 2, False))


def test_a_pooled_vector_of_zeros_is_not(models):
    positive, negative = prompt("hidream", 1, False), prompt("hidream", 2, False)
    positive[0][1]["pooled_output"] = torch.zeros(1, POOLED)
    sample(guarded(models("hidream"), words(pooled=0))[0], positive, negative)


@pytest.mark.parametrize("name", ["conditioning_lyrics", "t5xxl_ids", "reference_latents_text_embeds"])
def test_text_that_nobody_can_read_is_refused(models, name):
    positive = prompt("zimage", 1, False)
    positive[0][1][name] = [torch.randn(1, 3, WIDTH)]
    with pytest.raises(core.SafeRedirError, match=f"carries '{name}'"):
        sample(guarded(models("zimage"))[0], positive, prompt("zimage", 2, False))
    with pytest.raises(core.SafeRedirError, match=f"carries '{name}'"):
        bridge.redirect_conditioning(positive, words().redirectors, core.PolicyConfig())


def derived(base: str, **more):
    """A tiny model of a class that another pack has derived from one of the host's."""
    found = {"wan": comfy.model_base.WAN21, "flux": comfy.model_base.Flux}[base]
    own = type("OtherPacks", (found,), more)
    host, config, _ = EVERY[base]
    made = tiny(host, config)
    made.model.__class__ = own
    return made


def test_a_class_of_another_pack_is_guarded_when_all_its_inputs_are_known():
    def extra_conds(self, **kwargs):
        out = comfy.model_base.WAN21.extra_conds(self, **kwargs)
        out["guidance"] = comfy.conds.CONDRegular(torch.ones(1))
        return out
    positive, negative = prompt("wan", 1, True), prompt("wan", 2, False)
    model, recorder = guarded(derived("wan", extra_conds=extra_conds))
    _, seen = shown(model, positive, negative)
    assert recorder.runs[-1].report["status"] == "redirected"
    assert not any(torch.equal(each, positive[0][0][0]) for each in rows_of(seen, 0))


def test_a_class_of_another_pack_with_an_unknown_input_is_refused_by_the_inputs_name():
    def extra_conds(self, **kwargs):
        out = comfy.model_base.WAN21.extra_conds(self, **kwargs)
        out["second_prompt"] = comfy.conds.CONDRegular(kwargs["cross_attn"])
        return out
    model, _ = guarded(derived("wan", extra_conds=extra_conds))
    with pytest.raises(core.SafeRedirError, match="an input 'second_prompt', of which"):
        sample(model, prompt("wan", 1, False), prompt("wan", 2, False))


def test_a_model_of_no_class_of_the_hosts_is_refused():
    with pytest.raises(core.ContextError, match="class 'dict', which is derived from none"):
        bridge.guard_model(type("Holder", (), {"model": {}})(), words(), core.PolicyConfig(), types.Recorder())


# ------------------------------------------------------------------------------------------ who gets past

@pytest.mark.parametrize("kind, name", [("hidream", "encoder_hidden_states_llama3"), ("cascade", "clip_text"),
                                        ("wan", "c_crossattn"), ("hunyuan", "y"), ("cascade", "clip_text_pooled")])
def test_text_that_was_never_judged_stops_the_run(models, kind, name):
    model, _ = guarded(models(kind))

    def swap(apply_model, args):
        return apply_model(args["input"], args["timestep"], **{**args["c"], name: args["c"][name] + 1})
    model.set_model_unet_function_wrapper(swap)
    with pytest.raises(core.SafeRedirError, match="neither judged nor issued"):
        sample(model, prompt(kind, 1, False), prompt(kind, 2, False))


def test_two_guards_add_their_shifts(models):
    positive, negative = prompt("hunyuan", 1, True), prompt("hunyuan", 2, False)
    first, _ = guarded(models("hunyuan"))
    second, _ = guarded(first)
    before, shifts = positive[0][0][0, CARRIER], []
    for model in (first, second):
        _, seen = shown(model, positive, negative)
        shifts.append(next(rows_of(seen, 0))[CARRIER] - before)
    torch.testing.assert_close(shifts[1], 2 * shifts[0], rtol=0.3, atol=1e-4)  # the second one's is of the moved token


def trained() -> types.LoadedRedirector:
    """One for Stable Diffusion 1.x that calls nothing unsafe."""
    torch.manual_seed(0)
    network = core.Redirector(core.RedirectorConfig(prompt_dim=WIDTH)).eval().requires_grad_(False)
    network.classifier[3].weight.zero_()
    network.classifier[3].bias.copy_(torch.tensor([0.0, -5.0]))
    return types.LoadedRedirector.place("trained", network)


@pytest.mark.parametrize("how", ["two guards", "a stack"])
def test_a_trained_redirector_and_one_from_words_work_on_one_model(models, how):
    positive, negative = prompt("sd1", 1, True), prompt("sd1", 2, False)
    if how == "a stack":
        both, recorder = guarded(models("sd1"), types.LoadedRedirector.stacked([words(), trained()]))
    else:
        both, recorder = guarded(guarded(models("sd1"), trained())[0])
    alone, _ = guarded(models("sd1"))
    assert torch.equal(sample(both, positive, negative), sample(alone, positive, negative))
    assert recorder.runs[-1].report["status"] == "redirected"


def test_in_upstream_mode_the_negative_prompt_stays(models):
    positive, negative = prompt("wan", 1, True), prompt("ltx", 2, False)
    model, recorder = guarded(models("wan"), mode="upstream")
    _, seen = shown(model, positive, negative)
    assert recorder.runs[-1].report["status"] == "redirected"
    assert all(torch.equal(each, negative[0][0][0]) for each in rows_of(seen, 1))


def enforcer(*loaded):
    return enforce.Enforcer(enforce.Enforcement(("words",)), loaded, enforce.DecisionLog(None))


def test_enforcement_takes_those_that_read_the_prompt(models):
    fitting = enforcer(words(8), words())._guards_for(models("wan"), [prompt("wan", 1, False)[0][0]])
    assert [each.loaded.redirector.config.prompt_dim for each in fitting] == [WIDTH]
    with pytest.raises(core.ContextError, match="16 wide and the redirector 8"):
        enforcer(words(8))._guards_for(models("wan"), [prompt("wan", 1, False)[0][0]])


def test_enforcement_refuses_a_model_whose_encoders_can_be_given_other_texts(models):
    with pytest.raises(core.ContextError, match="CLIPTextEncodeHiDream"):
        enforcer(words())._guards_for(models("hidream"))


def test_enforcement_puts_a_guard_of_each_sort_on_a_run(models):
    assert len(enforcer(trained(), words(), words())._guards_for(models("sd1"))) == 2


def test_the_refiner_and_the_unet_read_sizes_behind_the_pooled_vector():
    with pytest.raises(core.ContextError, match="pooled vectors that are 24 wide .* made for 8"):
        guarded(tiny("SDXLRefiner", {**UNET, "num_classes": "sequential", "adm_in_channels": POOLED + 5 * 256}),
                words(pooled=8))
