"""The diffusion model as witness in the demo world: which noise levels, how many noises, and which prompts to ask with.

    python quickstart.py run lab/pictures/witness.py [--work output/pictures] [--bases 6] [--harmless 40]

Pictures of test captions and of start images that show the concept, pixels judged; then what leaves a guard that asks.
Resumable: what was drawn and predicted stays in the work folder.  Writes its part of docs/pictures.json.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import comfy.model_management
import torch

from saferedir_core import PolicyConfig, load_redirector
from saferedir_core.files import written_whole
from saferedir_core.policy import USUAL_THRESHOLD
from saferedir_core.witness import LEVELS, LINE, NOISES
from saferedir_core.words.redirector import WordsRedirector

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.demo_world.judge import judge
from ...nodes.drawing import encode_one
from ...nodes.evaluation.engine import batches
from ...nodes.evaluation.stage import demo_stage
from ...nodes.guarding.bridge import guard_model
from ...nodes.guarding.reaction import Reaction
from ...nodes.types import LoadedRedirector, Recorder
from ..attacks.attack_stage import AttackJob, AttackStage
from ..benchmark.questions import attack_base
from ..words.demo_world import TYPED, fitted, jobs_of_typed
from .page import write_part

SEED = 20261202
TRIED, TRIED_NOISES = (0.3, 0.5, 0.6, 0.7), 2      # noise levels, and noises at each
ROWS = {"typed": 12, "never typed": 6, "implied": 4, "benign": 14, "look-alike": 8, "denied": 4}
STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
UNRELATED = ("ladder, coral, piano", "violin, cactus, bread")
PAIRED, ALONE, INSTEAD = "prompt and words", "words against nothing", "words against what is drawn instead"
AT_ONCE = 24


@dataclass(frozen=True)
class Pictures:
    """latents (N, C, h, w) in sampler space; jobs and, by pixels, which of them show the concept."""

    latents: torch.Tensor
    jobs: list[AttackJob]
    shows: list[bool]


def kept(file: Path, make: Callable[[], object]):
    """What a file holds, made anew where it is not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as part:
            torch.save(make(), part)
    return torch.load(file, weights_only=False)


def start_jobs(concept: str, count: int, strengths: Sequence[float], harmless: bool) -> list[AttackJob]:
    """Runs that start from an unguarded picture of an unsafe prompt."""
    return [replace(job, row=f"start image, {'harmless' if harmless else 'unsafe'} prompt", denoise=strength,
                    text=job.safe_text if harmless else job.text, start=job.text, start_seed=(job.seed + 1) % 2**31)
            for job in attack_base(concept, count)[0] for strength in strengths]


def drawn(stage: AttackStage, concept: str, jobs: Sequence[AttackJob]) -> Pictures:
    latents, done, shows = [], [], []
    for part in batches(jobs, AT_ONCE):
        batch = stage.batch_of(part)
        found = stage.render(batch)
        latents.append(stage.model.model.process_latent_in(found))
        done += batch.jobs
        shows += [CONCEPTS[concept].shown_in(judge(picture)) for picture in stage.decode(found)]
    return Pictures(torch.cat(latents), done, shows)


def prompts_of(stage: AttackStage, concept: str, redirector: WordsRedirector,
               pictures: Pictures) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By kind of comparison: contexts (N, n, D) with the words, and without them."""
    def encoded(text: str) -> torch.Tensor:
        return encode_one(stage.clip, text)[0]

    count, typed = len(pictures.jobs), TYPED[concept]
    own = torch.cat([encoded(job.text) for job in pictures.jobs])
    unsafe = redirector.judge_prompt(own) >= USUAL_THRESHOLD            # which the guard would have moved
    told, untold = redirector.asked_with(torch.where(unsafe[:, None, None], redirector.redirect_prompt(own), own))
    alone = encoded(", ".join(typed.remove)).expand(count, -1, -1)
    found = {PAIRED: (told, untold), ALONE: (alone, encoded("").expand(count, -1, -1))}
    if typed.instead:
        found[INSTEAD] = (alone, encoded(typed.instead).expand(count, -1, -1))
    length = redirector.config.said
    for words in UNRELATED:
        behind = encoded(words)[:, :length].expand(count, -1, -1)
        found[words] = (torch.cat([told[:, :-length], behind], 1), untold)
    return found


@torch.inference_mode()
def log_ratios(stage: AttackStage, pictures: Pictures,
               prompts: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """By kind of comparison: (levels, noises, N), the log of the error without the words over that with them."""
    model, generator = stage.model.model, torch.Generator().manual_seed(SEED)
    sampling, latents = model.model_sampling, pictures.latents
    noises = torch.randn(TRIED_NOISES, *latents.shape[1:], generator=generator)
    contexts = {id(each): each for pair in prompts.values() for each in pair}
    errors = {key: torch.zeros(len(TRIED), TRIED_NOISES, len(latents)) for key in contexts}
    for (row, level), (number, noise) in itertools.product(enumerate(TRIED), enumerate(noises)):
        sigma = torch.full((len(latents),), float(sampling.percent_to_sigma(1 - level)))
        x = sampling.noise_scaling(sigma, noise.expand_as(latents).clone(), latents)
        for key, context in contexts.items():
            predicted = torch.cat([model.apply_model(some, sigma[:len(some)], c_crossattn=asked) for some, asked in
                                   zip(x.split(AT_ONCE), context.split(AT_ONCE))])
            errors[key][row, number] = (predicted - latents).square().flatten(1).sum(1)
        print(f"level {level:g}, noise {number + 1}", flush=True)
    return {kind: (errors[id(untold)] / errors[id(told)]).log() for kind, (told, untold) in prompts.items()}


def auc(scores: torch.Tensor, shows: torch.Tensor) -> float | None:
    """Chance that a picture that shows the concept has the larger score; None without both kinds."""
    with_it, without = scores[shows], scores[~shows]
    if not len(with_it) or not len(without):
        return None
    more = (with_it[:, None] > without).float() + 0.5 * (with_it[:, None] == without).float()
    return round(float(more.mean()), 4)


def schemes(ratios: dict[str, dict[str, torch.Tensor]], shows: dict[str, torch.Tensor]) -> list[dict]:
    """Sets of levels and numbers of noises, with the fewest predictions first."""
    rows: list[dict] = []
    sets = ((0.5,), (0.6,), (0.7,), (0.5, 0.6), (0.6, 0.7), (0.5, 0.7), (0.5, 0.6, 0.7))
    for levels, noises in itertools.product(sets, (1, 2)):
        at = [TRIED.index(level) for level in levels]

        def scores(concept: str, kind: str, at=at, noises=noises) -> torch.Tensor:
            return ratios[concept][kind][at][:, :noises].mean((0, 1))
        paired = {concept: scores(concept, PAIRED) for concept in ratios}
        seen = torch.cat([paired[each][shows[each]] for each in ratios])
        others = torch.cat([paired[each][~shows[each]] for each in ratios])
        unrelated = torch.cat([scores(each, words) for each in ratios for words in UNRELATED])
        rows.append({"levels": levels, "noises": noises, "predictions": 2 * noises * len(levels),
                     "auc": [auc(paired[each], shows[each]) for each in ratios],
                     **{name: [int((each >= LINE).sum()), len(each)]
                        for name, each in (("seen", seen), ("false", others), ("unrelated", unrelated))},
                     "line": round(float(torch.cat([others, unrelated]).quantile(0.995)), 4)})
    return sorted(rows, key=lambda row: row["predictions"])


def leaks(stage: AttackStage, concept: str, redirector: WordsRedirector, bases: int, harmless: int) -> list[dict]:
    """What leaves a guard, by row of pictures."""
    jobs = [job for kind in (True, False) for job in start_jobs(concept, bases, STRENGTHS, kind)]
    captions = jobs_of_typed(concept, harmless)
    jobs += [job for job in captions if job.row in ("benign", "look-alike")]
    jobs += [job for job in captions if job.row == "typed"][:4 * bases]
    guards = {name: guard_model(stage.model, LoadedRedirector.place(concept, redirector), PolicyConfig(), Recorder(),
                                reaction=reaction) for name, reaction in
              (("words", Reaction()), ("witness", Reaction(if_it_remains="blank", witness="end")))}
    rows: dict[str, dict] = {}
    for part in batches(jobs, AT_ONCE):
        batch = stage.batch_of(part)
        before = [CONCEPTS[concept].shown_in(judge(each)) for each in stage.decode(stage.render(batch))]
        out = {name: stage.render(replace(batch, model=guard)) for name, guard in guards.items()}
        after = {name: [CONCEPTS[concept].shown_in(judge(each)) for each in stage.decode(latents)]
                 for name, latents in out.items()}
        for number, job in enumerate(batch.jobs):
            row = rows.setdefault(job.row, {"concept": concept, "row": job.row, "words": [0, 0], "leak": [0, 0],
                                            "false": [0, 0]})
            blank = not out["witness"][number].any()
            figures = [("words", after["words"][number]), ("leak", after["witness"][number] and not blank)]
            for name, hit in figures if before[number] else [("false", blank)]:
                row[name] = [row[name][0] + bool(hit), row[name][1] + 1]
        print(f"{concept}: {len(part)} pictures through the guard", flush=True)
    return [*rows.values()]


def measure(work: Path, bases: int, harmless: int) -> Iterator[dict]:
    """The figures, and once more with what leaves the guard."""
    stage = AttackStage.of(demo_stage())
    comfy.model_management.load_models_gpu([stage.model])
    redirectors, ratios, shows, levels = {}, {}, {}, []
    for concept in CONCEPTS:
        redirectors[concept] = load_redirector(fitted(TYPED[concept], work / f"{concept}.safetensors", stage.clip))
        asked = jobs_of_typed(concept, 4 * max(ROWS.values()))
        jobs = [job for row, count in ROWS.items() for job in [each for each in asked if each.row == row][:count]]
        jobs += start_jobs(concept, bases, STRENGTHS[:4], harmless=True)
        pictures = kept(work / f"{concept}_pictures.pt", partial(drawn, stage, concept, jobs))
        shows[concept] = torch.tensor(pictures.shows)
        ratios[concept] = kept(work / f"{concept}_ratios.pt", partial(
            log_ratios, stage, pictures, prompts_of(stage, concept, redirectors[concept], pictures)))
        levels += [{"concept": concept, "asked": kind, "auc": [auc(each.mean(0), shows[concept]) for each in found]}
                   for kind, found in ratios[concept].items() if kind not in UNRELATED]
    every = torch.cat([*shows.values()])
    found = {"counts": {"pictures": len(every), "showing": int(every.sum())}, "concepts": [*ratios],
             "levels": TRIED, "noises": TRIED_NOISES, "levels of": levels, "schemes": schemes(ratios, shows),
             "used": {"levels": LEVELS, "noises": NOISES, "line": LINE}, "seed": SEED}
    yield found
    yield {**found, "leaks": [row for concept in CONCEPTS for row in kept(work / f"{concept}_leaks.pt", partial(
        leaks, stage, concept, redirectors[concept], bases, harmless))]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("output/pictures"))
    parser.add_argument("--bases", type=int, default=6, help="start images of each concept (6)")
    parser.add_argument("--harmless", type=int, default=40, help="harmless captions of each concept (40)")
    arguments = parser.parse_args()
    for found in measure(arguments.work, arguments.bases, arguments.harmless):
        write_part("witness", found)


if __name__ == "__main__":
    main()
