"""`evaluate` with what the laboratory has: other methods beside the redirectors, and attacks.

    python quickstart.py evaluate --model demo --baselines --attacks prompt ...
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from saferedir_core.errors import ConfigError
from saferedir_core.policy import resolved

from ..nodes.commands import evaluate as command
from ..nodes.evaluation.engine import evaluate
from ..nodes.evaluation.methods import Guarded
from ..nodes.evaluation.stage import Stage
from ..nodes.evaluation.study import Study
from .attacks import ATTACKS, Setting, Vocabulary, attack_jobs, demo_vocabulary, vocabulary_of, wording_of
from .attacks.attack_stage import AttackStage
from .baselines.baselines import ConceptWords, all_baselines, concept_words


class Laboratory:
    """What the command asks a clone for."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--baselines", action="store_true", help="the training-free methods beside them")
        parser.add_argument("--phrases", default="", metavar="A;B", help="wordings of the concept, for the baselines")
        parser.add_argument("--attacks", default="", metavar="A;B", help="attacks by name, or 'prompt' for those that "
                            "only rewrite it, or 'all' (slow: some train)")
        parser.add_argument("--attack-count", type=command.positive, default=8,
                            help="unsafe prompts each attack starts from (8)")

    def stage(self, stage: Stage) -> AttackStage:
        return AttackStage.of(stage)

    def methods(self, arguments, detector) -> list:
        names_of(arguments.attacks)  # before anything is made
        if not arguments.baselines:
            return []
        words = (ConceptWords(arguments.concept or "concept", tuple(arguments.phrases.split(";")))
                 if arguments.phrases else concept_words(arguments.concept))
        return all_baselines(words, detector)

    def attack(self, study: Study, arguments, progress) -> None:
        names = names_of(arguments.attacks)
        if names:
            vocabulary = (demo_vocabulary(arguments.concept) if arguments.model == "demo" and arguments.concept
                          else vocabulary_of(study.jobs))
            attack(study, names, vocabulary, arguments.attack_count, progress=progress)


def main(argv: list[str]) -> int:
    """Exit code as of the pack's own command."""
    return command.main(argv, Laboratory())


def names_of(given: str) -> list[str]:
    """Names of the attacks asked for, "A;B"; ConfigError for an unknown one."""
    groups = {"all": [*ATTACKS], "prompt": [name for name, each in ATTACKS.items() if not each.needs]}
    names = [name for each in map(str.strip, given.split(";")) if each
             for name in groups.get(each, [each])]
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        raise ConfigError(f"No attack is named {unknown[0]!r}; expected 'all', 'prompt' or some of: "
                          f"{'; '.join(ATTACKS)}.")
    return names


def attack(study: Study, names: list[str], vocabulary: Vocabulary, count: int, seed: int = 0,
           progress: Callable[[int, int], None] | None = None) -> int:
    """Attacks a study's guarded methods, and everything else with what is made for the undefended model; lines added.

    names       of `attacks.ATTACKS`
    count       unsafe prompts that each attack starts from, the first ones that have a wording of their own
    ConfigError when no unsafe prompt says what the safe one leaves out.
    """
    bases = [(job, wording) for job in study.jobs if job.unsafe and job.safe_text and not job.only
             and (wording := wording_of(job.text, job.safe_text))][:count]
    if not bases:
        raise ConfigError("No unsafe prompt has words that its safe prompt lacks; expected some, for the attacks "
                          "change those words. Give prompt pairs with --prompts.")
    base_jobs, wordings = map(list, zip(*bases))
    added = 0
    for name in names:
        for setting in settings_of(study, name, vocabulary, seed):
            jobs = attack_jobs(name, base_jobs, wordings, setting)
            added += evaluate(study.stage, study.methods, jobs, study.detector, study.results, study.shard,
                              study.batch, progress)
    return added


def settings_of(study: Study, name: str, vocabulary: Vocabulary, seed: int) -> list[Setting]:
    """What the attacker has: once for all methods, or once for each guard that is attacked through."""
    def shown(pictures, jobs) -> list[float]:
        return [seen.score for seen in study.detector.detect(pictures, jobs)]

    setting = Setting(seed, vocabulary, study.stage, shown, folder=study.out / "attacks")
    if "redirector" not in ATTACKS[name].needs:
        return [setting]
    return [replace(setting, redirector=guard.loaded.redirector, method=guard.name,
                    threshold=resolved(guard.policy, guard.loaded.redirector.metadata).threshold)
            for guard in study.methods if isinstance(guard, Guarded)]
