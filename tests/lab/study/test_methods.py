from types import SimpleNamespace

import pytest

from saferedir.lab.study.methods import METHODS, PICTURES, PUBLISHED, WORDS, Wanted, chosen, make_words, why_not
from saferedir.nodes.evaluation.stage import Job, demo_stage
from saferedir_core import Concept, ConfigError
from saferedir_core.bundle import load_redirectors
from saferedir_core.picture.fit import PictureFit

CONCEPT = Concept(("striped", "stripy", "with stripes", "covered in stripes"), kind="attribute")


@pytest.fixture(scope="module")
def stage(comfyui):
    from saferedir.lab.attacks.attack_stage import AttackStage
    from saferedir.nodes.weights import catalogue

    catalogue.register_folder()
    return AttackStage.of(demo_stage(steps=2))


@pytest.fixture
def wanted(tmp_path):
    return Wanted(CONCEPT, "", tmp_path, {"width": 64, "height": 64, "steps": 2, "cfg": 4.0, "batch": 50},
                  PictureFit(steps=2))


def test_the_oracle_and_the_unguarded_model_are_always_there(stage, wanted):
    found = chosen(["negative prompt"], stage, wanted)
    assert [each.name for each in found.methods] == ["unguarded", "oracle", "negative prompt"]
    assert found.described == {"negative prompt": {"phrases": [*CONCEPT.remove], "safe": ""}} and not found.left_out


def test_a_method_that_a_model_cannot_take_is_left_out_with_the_reason(stage, wanted):
    assert "none is published for these words" in why_not(PUBLISHED, stage, wanted)
    assert "reads no negative prompt" in why_not("negative prompt", stage.with_settings(cfg=1), wanted)
    long = SimpleNamespace(tokenize=stage.clip.tokenize, encode_from_tokens=lambda tokens: stage.clip.
                           encode_from_tokens(tokens).repeat(1, 4, 1))
    assert "in chunks of 77" in why_not("SAFREE", stage.with_settings(clip=long), wanted)
    assert [why_not(name, stage, wanted) for name in METHODS if name != PUBLISHED] == [""] * (len(METHODS) - 1)


def test_the_published_network_is_for_one_kind_of_model_and_its_width(stage, wanted):
    nudity = Wanted(CONCEPT, "nudity", wanted.out, wanted.trajectory)
    assert why_not(PUBLISHED, stage, nudity) == "it is for Stable Diffusion 1.x"


def test_an_unknown_method_is_refused(stage, wanted):
    with pytest.raises(ConfigError, match="No method is named 'magic'; expected some of unguarded; negative prompt"):
        chosen(["magic"], stage, wanted)


@pytest.mark.slow
def test_the_redirectors_are_made_once_and_the_one_with_pictures_from_the_one_without(stage, wanted):
    make_words(stage, wanted)
    before = wanted.file(WORDS).read_bytes()
    found = chosen([WORDS, PICTURES], stage, wanted)
    assert [each.name for each in found.methods] == ["unguarded", "oracle", WORDS, PICTURES]
    assert wanted.file(WORDS).read_bytes() == before
    (made,) = load_redirectors(wanted.file(PICTURES)).values()
    assert made.picture is not None and made.metadata["command"] == "lab/study/study.py"
    again = chosen([PICTURES], stage, wanted)
    assert again.described[PICTURES] == found.described[PICTURES]
    batch = again.methods[-1].change(stage.batch_of([Job("row", "a striped red fish", 1, True)]), stage)
    assert stage.render(batch).isfinite().all()
