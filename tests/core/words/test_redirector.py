import pytest
import torch

from saferedir_core import ConfigError, ContextError, PolicyConfig, RedirectionRun, load_redirector, save_redirector
from saferedir_core.words.redirector import WordsConfig, WordsRedirector

LOUD = 6.0


def made(pooled: int = 0, takes_out: bool = False) -> WordsRedirector:
    """Reacts to a token whose first number is LOUD; moves its second one by 3."""
    redirector = WordsRedirector(WordsConfig(8, pooled, rank=1, takes_out=takes_out))
    with torch.no_grad():
        for each in redirector.parameters():
            each.zero_()
        for judge in (redirector.evidence, redirector.word):
            judge.weight[:, 0] = 4.0
            judge.bias.fill_(-4.0 * (LOUD - 2.5))
        for shift in (redirector.word_shift, *([redirector.pooled_shift] if pooled else [])):
            shift.down.bias.fill_(1.0)
            shift.up.weight[1] = 3.0
    return redirector.eval().requires_grad_(False)


@pytest.fixture
def context():
    context = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    context[0, 2, 0] = LOUD
    return context


def test_a_prompt_is_as_unsafe_as_its_most_telling_token(context):
    chances = made().judge_prompt(context)
    assert chances[0] > 0.99 and chances[1] < 0.01
    assert torch.equal(chances, made().judge_prompt(context.half().float(), None)) or chances.dtype == torch.float32


def test_tokens_that_no_mask_shows_are_not_read_and_not_moved(context):
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 2] = False
    assert made().judge_prompt(context, mask)[0] < 0.01
    assert torch.equal(made().redirect_prompt(context, mask), context)


def test_only_the_tokens_that_carry_the_concept_move(context):
    moved = made().redirect_prompt(context)
    changed = (moved != context).any(-1)
    assert changed.nonzero().tolist() == [[0, 2]]
    assert torch.allclose(moved[0, 2] - context[0, 2], torch.tensor([0.0, 3, 0, 0, 0, 0, 0, 0]), atol=1e-6)


def test_a_word_that_is_taken_out_goes_to_the_last_token(context):
    moved = made(takes_out=True).redirect_prompt(context)
    assert torch.allclose(moved[0, 2], context[0, 4] + torch.tensor([0.0, 3, 0, 0, 0, 0, 0, 0]), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_a_run_does_what_the_redirector_says(context, scale):
    redirector, pooled = made(pooled=4), torch.zeros(2, 4)
    run = RedirectionRun(redirector, PolicyConfig(alpha_scale=scale), context, pooled=pooled)
    decision = run.observe(torch.randn(2, 16, 3, 4, 4), 500)    # the latent of a video: nobody reads it
    assert decision.unsafe == (True, False)
    assert torch.allclose(run.redirect(context), redirector.redirect_prompt(context, alpha_scale=scale), atol=1e-5)
    assert torch.equal(run.redirect(context)[1], context[1])
    assert run.redirect_pooled(pooled).tolist() == [[0.0, 3 * scale, 0, 0], [0.0] * 4]


def test_files_give_the_same_bits_and_half_precision_is_not_for_it(context, tmp_path):
    save_redirector(made(), tmp_path / "words.safetensors", {"concept": "loud"})
    for dtype in (torch.float32, torch.float16):
        loaded = load_redirector(tmp_path / "words.safetensors", dtype=dtype)
        assert isinstance(loaded, WordsRedirector) and loaded.dtype == torch.float32
        assert torch.equal(loaded.redirect_prompt(context), made().redirect_prompt(context))


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 8), (0, 5, 8), (2, 0, 8)])
def test_another_shape_is_refused_with_it(shape):
    with pytest.raises(ContextError, match="has shape .*reads \\(N, T, 8\\)"):
        made().judge_prompt(torch.zeros(shape))


def test_a_mask_of_another_shape_or_kind_is_refused(context):
    with pytest.raises(ContextError, match="The mask has shape"):
        made().judge_prompt(context, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ContextError, match="dtype torch.float32"):
        made().judge_prompt(context, torch.ones(2, 5))


def test_sizes_that_are_none_are_refused():
    for settings in ({"prompt_dim": 0}, {"prompt_dim": 8, "rank": 0}, {"prompt_dim": 8, "takes_out": 1}):
        with pytest.raises(ConfigError, match="expected"):
            WordsConfig(**settings)


def test_the_model_is_asked_with_the_prompt_and_the_words_behind_it(context):
    redirector = WordsRedirector(WordsConfig(8, rank=1, said=3))
    redirector.load_state_dict({**made().state_dict(), "said": torch.randn(2, 3, 8).half()})
    told, untold = redirector.eval().requires_grad_(False).asked_with(context)
    assert told.shape == untold.shape == (2, 8, 8) and told.dtype == context.dtype
    for asked, behind in ((told, redirector.said[0]), (untold, redirector.said[1])):
        assert torch.equal(asked[:, :5], context)
        assert all(torch.equal(each, behind.float()) for each in asked[:, 5:])


def test_without_words_the_model_cannot_be_asked(context):
    with pytest.raises(ConfigError, match="Fit it anew"):
        made().asked_with(context)
