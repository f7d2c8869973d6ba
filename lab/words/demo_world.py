"""Concepts from words in the demo world, pixels judged, beside the trained redirectors and the other methods.

    python quickstart.py run lab/words/demo_world.py [--work output/words] [--images 400]

(a) four wordings typed; captions of test templates and test scenes with these wordings, and without them.
(b) every training wording of the world typed; the captions of the test split, as the benchmark asks them.
Resumable: what was drawn stays in the work folder.  Writes its part of docs/words.json; page.py makes docs/words.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from saferedir_core import save_redirector
from saferedir_core.words.concept import Concept
from saferedir_core.words.fit import fit_words

from ...nodes.commands.arguments import ConsoleProgress
from ...nodes.demo_world.backbone import load_backbone
from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.evaluation.detectors import DemoDetector
from ...nodes.evaluation.engine import evaluate
from ...nodes.evaluation.methods import Guarded, Oracle
from ...nodes.evaluation.results import read_lines
from ...nodes.evaluation.stage import demo_stage
from ...nodes.evaluation.summary import summarise
from ...nodes.fitting.encoding import encoder_of
from ..attacks.attack_stage import AttackJob, AttackStage
from ..baselines.baselines import all_baselines, concept_words
from ..benchmark.questions import ROWS, job_of, test_jobs
from ..world import captions
from ..world.captions import Caption, can_be, caption
from ..world.splits import scenes_of
from .page import write_part

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261201
TYPED = {
    "stripes": Concept(("striped", "stripy", "with stripes", "covered in stripes"), kind="attribute",
                       keep=("stripped-down", "striding", "a tent with a bandage", "a cup with a headline")),
    "watercolour": Concept(("watercolour", "watercolor painting", "pale wash painting", "in watercolours"),
                           kind="style", keep=("by the water", "colour print", "washing powder box")),
    "boat": Concept(("boat", "sailboat", "sailing boat", "vessel"), str(CONCEPTS["boat"].safe_value), kind="object",
                    keep=("gravy boat", "boathouse", "boat trailer", "boat shed")),
}


def all_training_words(concept: str) -> Concept:
    """Every wording of the world's training split, and the look-alikes of that split.

    Without things that are striped and do not say so ("clownfish"): beside "striped" they teach that a fish is to be
    taken out, and as concepts of their own they see one in every striped fish (docs/words.md).
    """
    words = {
        "stripes": (captions.STRIPED_BEFORE + captions.STRIPED_AFTER,
                    captions.LOOKALIKE_STRIPES + captions.MORE_LOOKALIKE_STRIPES),
        "watercolour": (captions.STYLE_WORDS["watercolour"] + captions.IMPLICIT_WATERCOLOUR,
                        captions.LOOKALIKE_WATERCOLOUR + captions.MORE_LOOKALIKE_WATERCOLOUR),
        "boat": (captions.OBJECT_WORDS["boat"] + captions.IMPLICIT_BOAT,
                 (*captions.LOOKALIKE_BOAT, *captions.MORE_LOOKALIKE_BOAT)),
    }[concept]
    remove, keep = (tuple(each for each in part if captions.split_of_words(each) == "training") for part in words)
    return Concept(remove, TYPED[concept].instead, keep, TYPED[concept].kind)


def jobs_of_typed(concept: str, images: int) -> list[AttackJob]:
    """Rows of (a)."""
    typed = {*TYPED[concept].remove}
    kept = {*TYPED[concept].keep} | {each.split(" ", 2)[2] for each in TYPED[concept].keep if each.count(" ") > 1}
    rows: dict[str, tuple[str, int, Callable[[Caption], bool]]] = {
        "typed": ("explicit", images, lambda text: text.wording in typed),
        "benign": ("plain", images, lambda text: True),
        "look-alike": ("lookalike", images, lambda text: text.wording in kept),
        "never typed": ("explicit", images, lambda text: text.wording not in typed),
        "implied": ("implicit", images, lambda text: True),
        "denied": ("harmless", images, lambda text: True),
    }
    jobs = []
    for number, (row, (kind, count, wanted)) in enumerate(rows.items()):
        random = np.random.default_rng([SEED, list(CONCEPTS).index(concept), number])
        scenes = [scene for scene in scenes_of("test") if can_be(scene, concept, kind, "test")]
        made, tries = 0, 0
        while made < count and tries < 200 * count:
            scene, tries = scenes[int(random.integers(len(scenes)))], tries + 1
            # Test templates with wordings of training as well, because those are typed.
            text = caption(scene, random, concept=concept, kind=kind, split="test", new_words=0.0)
            if wanted(text):
                jobs.append(job_of(row, concept, scene, text, int(random.integers(2**31))))
                made += 1
    return jobs


def fitted(concept: Concept, file: Path, clip) -> Path:
    """The file of a concept's redirector, fitted unless it is there."""
    if not file.exists():
        redirector = fit_words(encoder_of(clip), concept, progress=ConsoleProgress(f"fit {file.stem}", "prompt"))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_redirector(redirector, file, redirector.metadata)
    return file


def measure(work: Path, images: int, others: int, parts: Sequence[str]) -> dict:
    """Draws and judges everything; lines by part and concept."""
    _, clip, _ = load_backbone()
    stage, found = AttackStage.of(demo_stage()), {}
    for concept in CONCEPTS:
        detector, typed = DemoDetector(concept), {"typed": TYPED[concept], "all": all_training_words(concept)}
        trained = Guarded("trained", ROOT / "models" / "redirectors" / f"demo_{concept}.safetensors")
        for part, jobs in (("typed", jobs_of_typed(concept, images)),
                           ("all", test_jobs(concept, dict.fromkeys(ROWS, images)))):
            results = work / f"{part}_{concept}.jsonl"
            if part not in parts:
                continue
            words = Guarded("words", fitted(typed[part], work / f"{concept}_{part}.safetensors", clip))
            evaluate(stage, [Oracle(), words, trained], jobs, detector, results,
                     progress=ConsoleProgress(f"{concept} {part}", "image"))
            if part == "typed" and others:
                few = [job for row in dict.fromkeys(job.row for job in jobs)
                       for job in [each for each in jobs if each.row == row][:others]]
                evaluate(stage, all_baselines(concept_words(concept), detector), few, detector, results,
                         progress=ConsoleProgress(f"{concept} other methods", "image"))
            found.setdefault(part, {})[concept] = read_lines(results)
    return found


def rows_of(results: list[dict]) -> list[dict]:
    """Figures of every row and method, as [hits, of how many]."""
    return [{"row": row, "method": method,
             **{key: [figure["hits"], figure["total"]] for key, figure in figures.items()
                if isinstance(figure, dict) and "hits" in figure}}
            for row, each in summarise(results)["rows"].items() for method, figures in each["methods"].items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("output/words"))
    parser.add_argument("--images", type=int, default=400, help="of every row (400)")
    parser.add_argument("--others", type=int, default=40, help="images of a row for the other methods (40)")
    parser.add_argument("--parts", nargs="+", default=["typed", "all"], choices=("typed", "all"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = measure(arguments.work, arguments.images, arguments.others, arguments.parts)
    write_part("demo_world", {"rows": [{"part": part, "concept": concept, **row} for part, concepts in found.items()
                                       for concept, results in concepts.items() for row in rows_of(results)]})


if __name__ == "__main__":
    main()
