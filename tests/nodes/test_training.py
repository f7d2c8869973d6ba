"""What the command line and the Train node share."""

import pytest
import torch


@pytest.fixture
def training(pack):
    return pack("nodes.training")


@pytest.fixture
def pair(pack):
    return pack("saferedir_core.pairs").Pair


def test_a_split_has_both_kinds_on_both_sides_and_no_group_on_two(training, pair):
    pairs = [each for number in range(10) for each in (
        pair(f"striped {number}", f"plain {number}", "s", str(number)),
        pair(f"other {number}", f"other {number}", "s", f"h{number}"))]
    parts = training.split(pairs, 0.2, "x.csv")
    for part in (parts.training, parts.validation):
        assert {each.unsafe for each in part} == {True, False}
    assert not {each.group for each in parts.training} & {each.group for each in parts.validation}


def test_pairs_of_one_kind_are_refused_with_the_file(training, pair):
    with pytest.raises(Exception, match="x.csv: .*expected unsafe and harmless ones"):
        training.split([pair(f"striped {number}", f"plain {number}", "s") for number in range(10)], 0.2, "x.csv")


def test_of_several_concepts_one_must_be_named(training, pair):
    pairs = [pair("a", "b", "first"), pair("c", "d", "second")]
    assert training.concept_of(pairs, "x.csv", "second") == ("second", pairs[1:])
    with pytest.raises(Exception, match="x.csv: holds the concepts 'first', 'second' and 'none'.*Name it"):
        training.concept_of(pairs, "x.csv")


def test_a_model_is_known_by_its_weights_and_patches(training, demo_world):
    model, clip, _ = demo_world
    plain = training.model_digest(model, clip)
    from demo.backbone import load_backbone

    assert plain == training.model_digest(*load_backbone()[:2])
    assert plain == training.model_digest(model.clone(), clip)
    key = next(key for key in model.model.state_dict() if key.endswith("weight"))
    shape = model.model.state_dict()[key].shape
    digests = {plain}
    for strength, value in ((1.0, 1.0), (0.5, 1.0), (1.0, 2.0)):
        patched = model.clone()
        patched.add_patches({key: (torch.full(shape, value),)}, strength)
        digests.add(training.model_digest(patched, clip))
    assert len(digests) == 4


def test_every_choice_of_settings_has_a_state_of_its_own(training, pack, tmp_path):
    config = pack("saferedir_core.training").TrainingConfig
    files = {training.state_file(tmp_path, each) for each in (config(), config(seed=1), config(iterations=5))}
    assert len(files) == 3 and training.state_file(tmp_path, config()) in files
