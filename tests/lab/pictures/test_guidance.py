"""Guidances with the concept's words in the negative prompt."""

import pytest
import torch

from saferedir.lab.attacks.attack_stage import AttackStage
from saferedir.lab.pictures import leak
from saferedir.lab.pictures.guidance import DRAWN, GUIDANCES
from saferedir.nodes.demo_world.judge import judge


@pytest.mark.parametrize("name", GUIDANCES)
def test_only_the_one_that_is_meant_to_draws_the_negative_prompt(stage, name):
    stage, (wording, jobs) = AttackStage.of(stage), next(iter(leak.by_wording("stripes", 4, name).items()))
    guided = GUIDANCES[name](stage, wording)
    with torch.no_grad():
        plain, found = (each.render(each.batch_of(jobs)) for each in (stage, guided))
        striped = [judge(each).striped for each in guided.decode(found)]
    assert not torch.equal(found, plain)
    assert all(striped) if name == DRAWN else not any(striped)
