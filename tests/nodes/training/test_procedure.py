"""What the command line and the Train node share."""

import pytest
import torch

from saferedir.nodes.training import procedure
from saferedir_core.errors import ConfigError, PairsError
from saferedir_core.pairs import Pair
from saferedir_core.training import TrainingConfig


def test_a_split_has_both_kinds_on_both_sides_and_no_group_on_two():
    pairs = [each for number in range(10) for each in (
        Pair(f"striped {number}", f"plain {number}", "s", str(number)),
        Pair(f"other {number}", f"other {number}", "s", f"h{number}"))]
    parts = procedure.split(pairs, 0.2, "x.csv")
    for part in (parts["training"], parts["validation"]):
        assert {each.unsafe for each in part} == {True, False}
    assert not {each.group for each in parts["training"]} & {each.group for each in parts["validation"]}


def test_pairs_of_one_kind_are_refused_with_the_file():
    with pytest.raises(PairsError, match="x.csv: .*expected unsafe and harmless ones"):
        procedure.split([Pair(f"striped {number}", f"plain {number}", "s") for number in range(10)], 0.2, "x.csv")


def test_of_several_concepts_one_must_be_named():
    pairs = [Pair("a", "b", "first"), Pair("c", "d", "second")]
    assert procedure.concept_of(pairs, "x.csv", "second") == ("second", pairs[1:])
    with pytest.raises(ConfigError, match="x.csv: holds the concepts 'first', 'second' and 'none'.*Name it"):
        procedure.concept_of(pairs, "x.csv")


def test_a_model_is_known_by_its_weights_and_patches(demo_world):
    model, clip, _ = demo_world
    plain = procedure.model_digest(model, clip)
    from saferedir.nodes.demo_world.backbone import load_backbone

    assert plain == procedure.model_digest(*load_backbone()[:2])
    assert plain == procedure.model_digest(model.clone(), clip)
    key = next(key for key in model.model.state_dict() if key.endswith("weight"))
    shape = model.model.state_dict()[key].shape
    digests = {plain}
    for strength, value in ((1.0, 1.0), (0.5, 1.0), (1.0, 2.0)):
        patched = model.clone()
        patched.add_patches({key: (torch.full(shape, value),)}, strength)
        digests.add(procedure.model_digest(patched, clip))
    assert len(digests) == 4


def test_every_choice_of_settings_has_a_state_of_its_own(tmp_path):
    config = TrainingConfig
    files = {procedure.state_file(tmp_path, each) for each in (config(), config(seed=1), config(iterations=5))}
    assert len(files) == 3 and procedure.state_file(tmp_path, config()) in files
