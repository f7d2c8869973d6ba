"""What a fit promises, on the tests' own encoder; how well it does on real ones is measured, see docs/words.md."""

import json
from types import SimpleNamespace

import pytest
import torch

from saferedir_core import Concept, ConfigError, fit_words, load_redirector, save_redirector
from saferedir_core.words.fit import LARGEST_FILE, LARGEST_SAID, MOST_DIRECTIONS, VERSION, rank_for, report_of, said_of

PISTOL = {"remove": ("pistol", "handgun", "revolver"), "instead": "camera", "keep": ("hair dryer",)}


def chances(redirector, encode, texts):
    found = encode(texts)
    return redirector.judge_prompt(found.context, found.mask)


def test_prompts_with_the_words_are_unsafe_and_others_are_not(fitted, encode):
    redirector = fitted(**PISTOL)
    assert (chances(redirector, encode, ["a pistol in the fog", "the handgun, close view", "a revolver"]) >= 0.5).all()
    assert (chances(redirector, encode, ["a camera in the fog", "a bowl of soup", "two herons at dusk"]) < 0.5).all()


def test_what_is_kept_stays(fitted, encode):
    assert (chances(fitted(**PISTOL), encode, ["a hair dryer in a garden", "the hair dryer"]) < 0.5).all()


def test_the_shift_leads_to_the_safe_neighbour(fitted, encode):
    found, safe = encode(["a pistol beside a lake"]), encode(["a camera beside a lake"])
    moved = fitted(**PISTOL).redirect_prompt(found.context)
    before, after = ((each - safe.context).norm(dim=-1)[0] for each in (found.context, moved))
    assert after[1] < 0.6 * before[1] and after.sum() < before.sum()
    unchanged = encode(["a bowl of soup"]).context
    moves = (fitted(**PISTOL).redirect_prompt(unchanged) != unchanged).any(-1).float().mean()
    assert moves < 0.1


def test_the_report_counts_prompts_that_the_judge_had_not_seen(fitted):
    report = report_of(fitted(**PISTOL))
    assert report.held_out > 0.85 and report.unseen > 0.5 and report.everyday < 0.05 and report.moved > 0.6
    assert {"hair dryer", "camera"} == {*report.kept} and 0 < len(report.nearest) <= 6
    assert "Recognises" in report.in_words() and report_of(fitted(remove=("pistol",))).unseen is None


def test_the_concept_travels_in_the_file(fitted):
    said = json.loads(fitted(**PISTOL).metadata["words"])
    assert tuple(said["remove"]) == PISTOL["remove"] and said["instead"] == "camera" and said["version"] == VERSION
    assert fitted(**PISTOL).metadata["concept"] == "pistol"


def test_the_same_words_give_the_same_bits_and_leave_the_generator_alone(encode, fitted):
    state = torch.random.get_rng_state()
    again = fit_words(encode, Concept(**PISTOL))
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in fitted(**PISTOL).state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_it_works_where_a_host_runs_nodes(encode):
    with torch.inference_mode():
        redirector = fit_words(encode, Concept(("pistol",)))
    assert not any(each.is_inference() for each in redirector.parameters()) and not redirector.training


def test_progress_ends_where_it_said(encode):
    heard = []
    fit_words(encode, Concept(("pistol",)), progress=lambda done, total: heard.append((done, total)))
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1][0] == heard[-1][1] == max(total for _, total in heard)


def test_an_encoder_that_says_the_same_of_all_prompts_cannot_tell():
    def encode(texts):
        shape = (len(texts), 4)
        return SimpleNamespace(context=torch.ones(*shape, 16), mask=torch.ones(shape, dtype=torch.bool),
                               tokens=torch.ones(shape, dtype=torch.long), pooled=None)

    with pytest.raises(ConfigError, match="'pistol' and .* cannot be told apart by this text encoder"):
        fit_words(encode, Concept(("pistol",)))


@pytest.mark.parametrize(("width", "pooled"), [(128, 0), (768, 768), (2048, 1280), (4096, 768), (4096, 2048)])
def test_a_file_is_at_most_two_megabytes(width, pooled):
    rank = rank_for(width, torch.zeros(1, pooled) if pooled else None)
    weights = 4 * (rank * (5 * width + 2 * pooled + 3) + (MOST_DIRECTIONS + 1) * (width + 1))
    assert weights + LARGEST_SAID <= LARGEST_FILE and rank >= 8


def test_the_wordings_are_kept_as_the_encoder_reads_them_without_padding(encode, fitted, tmp_path):
    redirector, count = fitted(**PISTOL), len(PISTOL["remove"])
    assert redirector.said.shape == (2, count + 1, 96) and redirector.said.dtype == torch.float16
    told, untold = encode([", ".join(PISTOL["remove"]), ""]).context
    assert torch.equal(redirector.said[0], told[:count + 1].half())
    assert torch.equal(redirector.said[1], untold[:1].half().expand(count + 1, -1))     # filled up with its last token
    save_redirector(redirector, tmp_path / "pistol.safetensors", redirector.metadata)
    read = load_redirector(tmp_path / "pistol.safetensors")
    assert read.said.dtype == torch.float16 and torch.equal(read.said, redirector.said)


def test_of_wide_prompts_so_many_wordings_are_kept_as_fit(encode):
    def wide(texts):
        found = encode(texts)
        found.context = found.context.repeat(1, 1, 100)         # 9,600 wide: 7 tokens fit
        return found
    said = said_of(wide, Concept(("pistol", "handgun", "revolver", "air rifle", "machine gun", "carbine", "musket")))
    assert said is not None and said.shape == (2, 6, 9600)      # the first four, and the end


def test_where_not_even_one_wording_fits_none_is_kept(encode):
    def wide(texts):
        found = encode(texts)
        found.context = found.context.repeat(1, 1, 2000)
        return found
    assert said_of(wide, Concept(("pistol", "handgun"))) is None
