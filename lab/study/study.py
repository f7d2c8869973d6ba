"""The table of the paper on a real model: FSR, attack success, CSDR, CMMD and time of each method.

    python quickstart.py run lab/study/study.py --model sd15 --preset vangogh --detector
        "clip:openai/clip-vit-large-patch14:a painting by Van Gogh;a painting by someone else" --out output/vangogh
    python quickstart.py run lab/study/study.py --model sd14 --preset nudity --detector nudenet --price 2.5
        --prepare --out output/nudity
    python quickstart.py run lab/study/study.py --model my.safetensors --remove "church; chapel" --instead house
        --sets "church; coco-10k" --detector classifier:microsoft/resnet-50:church --out output/church

It downloads the model and the prompt sets, makes the redirectors that are missing, draws some images of every method
with them, says from these how long the rest takes, and draws the rest.  Interrupted at any point, the same command goes
on where it was.  On several machines: `--prepare` on one of them and copy its folder's `redirectors` and `pins.json` to
the others; then `--shard 0/2` and `--shard 1/2` there, and on the first `--merge FOLDER FOLDER`.  docs/study.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from saferedir_core.errors import ConfigError
from saferedir_core.words.concept import KINDS, Concept

from ...nodes.commands.arguments import ConsoleProgress, exit_code, say, shard
from ...nodes.commands.evaluate import limited, positive
from ...nodes.commands.words import lines
from ...nodes.host import prepare

CLIP = "openai/clip-vit-large-patch14-336"  # that of CMMD's paper


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="study.py", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="sd14, sd15, sdxl, flux-schnell, z-image-turbo, demo, a "
                                                     "checkpoint file, or DENOISER;TEXT ENCODER;VAE;TYPE")
    made.add_argument("--preset", default="none", metavar="NAME", help="a list of models/words, added to the words")
    made.add_argument("--remove", action="append", default=[], metavar="WORDS", help="wordings, ';' between them")
    made.add_argument("--instead", default="", metavar="WORDS", help="what is drawn in its place (nothing)")
    made.add_argument("--keep", action="append", default=[], metavar="WORDS", help="look-alikes, ';' between them")
    made.add_argument("--kind", choices=KINDS, default="auto", help="of concept (auto)")
    made.add_argument("--sets", metavar="A;B", help="prompt sets by name (those of the preset, and coco-10k)")
    made.add_argument("--sets-file", type=Path, metavar="FILE", help="more prompt sets, see prompt_sets.json")
    made.add_argument("--pairs", type=Path, metavar="FILE", help="prompt pairs beside them (.csv, .jsonl), for CSDR")
    made.add_argument("--methods", metavar="A;B", help="some of the methods (all that the model takes)")
    made.add_argument("--detector", required=True, metavar="SPEC",
                      help="nudenet, classifier:MODEL:LABEL, clip:MODEL:PHRASE;OTHER, demo:CONCEPT or none")
    made.add_argument("--clip", default=CLIP, metavar="MODEL", help=f"for CSDR and CMMD, or none ({CLIP})")
    made.add_argument("--out", type=Path, required=True, help="folder of the results")
    made.add_argument("--seeds", type=positive, default=1, help="images per prompt (1)")
    made.add_argument("--limit", type=positive, help="most images of each set")
    made.add_argument("--batch", type=positive, help="images sampled together (the model's)")
    for name, kind in (("steps", positive), ("size", positive), ("cfg", float), ("sampler", str), ("scheduler", str)):
        made.add_argument(f"--{name}", type=kind, help="of the sampler (the model's)")
    made.add_argument("--price", type=float, metavar="MONEY", help="of an hour on this machine, for the estimate")
    made.add_argument("--prepare", action="store_true", help="download, make the redirectors, say what it takes, stop")
    made.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="make the I-th of N parts, from 0")
    made.add_argument("--merge", type=Path, nargs="*", metavar="FOLDER", help="folders of the parts (default: --out)")
    return made


def main(argv: list[str]) -> int:
    """Exit code: 0 done, 1 it could not be done, 130 interrupted."""
    made = parser()
    arguments = made.parse_args(argv)
    if arguments.merge is not None and arguments.shard != (0, 1):
        made.error("--merge takes all parts; it does not go with --shard")
    return exit_code(lambda: run(arguments))


def run(arguments) -> int:
    prepare()
    from .estimate import measured

    study, left_out = study_of(arguments)
    if not study.jobs:
        raise ConfigError("The study has no prompts; expected some. Name prompt sets with --sets, or pairs with "
                          "--pairs.")
    for name, reason in left_out.items():
        say(f"left out: {name}, because {reason}")
    if arguments.merge is not None:
        say(f"{merged(study, arguments.merge)} results merged into {study.results}")
    else:
        say(f"{len(study.jobs)} images of {len(study.methods)} methods each: "
            + ", ".join(method.name for method in study.methods))
        estimate = measured(study)
        say(estimate.in_words(arguments.price))
        if arguments.prepare:
            return 0
        study.evaluate(ConsoleProgress("images", "image"))
    if study.shard[1] > 1:
        say(f"written {study.results}; when all parts are there, run the same command with --merge")
        return 0
    print(written(study, left_out))
    study.draw()
    say(f"written {arguments.out}")
    return 0


def study_of(arguments):
    """The Study that the arguments ask for, and the methods that are left out with the reason of each."""
    from ...nodes.evaluation.stage import stage_of
    from ...nodes.evaluation.study import Study
    from ...nodes.fitting import presets
    from ...nodes.weights import catalogue
    from ..attacks.attack_stage import AttackStage
    from .downloads import Downloads
    from .methods import METHODS, Wanted, chosen
    from .models import obtained

    presets.register_folder()
    catalogue.register_folder()
    concept, preset = concept_of(arguments)
    out, downloads = arguments.out.resolve(), Downloads(arguments.out.resolve())
    jobs, sets = jobs_of(arguments, preset, downloads)
    detector = detector_of(arguments)
    files, model, digests = obtained(arguments.model, downloads)
    sampling = {name: usual if getattr(arguments, name) is None else getattr(arguments, name)
                for name, usual in model.sampling.items()}
    if arguments.model == "demo":
        sampling.pop("size")
    stage = AttackStage.of(stage_of(files, **sampling))
    trajectory = {"width": 8 * stage.latent_shape[2], "height": 8 * stage.latent_shape[1], "cfg": sampling["cfg"],
                  "steps": min(12, sampling["steps"]), "batch": arguments.batch or model.batch}
    names = [*map(str.strip, arguments.methods.split(";"))] if arguments.methods else METHODS
    found = chosen(names, stage, Wanted(concept, preset, out, trajectory))
    settings = {"model": arguments.model, "sha256": digests, "name": preset or concept.name,
                "concept": vars(concept), "sets": sets, "detector": arguments.detector, "clip": arguments.clip,
                **sampling, "methods": found.described}
    return Study(stage, found.methods, jobs, detector, out, json.loads(json.dumps(settings)), arguments.shard,
                 arguments.batch or model.batch), found.left_out


def concept_of(arguments) -> tuple[Concept, str]:
    """What must not be drawn, and the name of its preset or ""."""
    from ...nodes.fitting import presets

    if not arguments.remove and arguments.preset == presets.NONE:
        raise ConfigError("Neither --remove nor --preset is given; expected what must not appear. Add --remove "
                          "\"WORDING; WORDING\".")
    return presets.concept_of(lines(arguments.remove), arguments.instead, lines(arguments.keep), arguments.kind,
                              arguments.preset), "" if arguments.preset == presets.NONE else arguments.preset


def jobs_of(arguments, preset: str, downloads) -> tuple[list, dict]:
    """The jobs of the sets and pairs, and of each set its hash and how many of its prompts were left out."""
    from ...nodes.evaluation.study import jobs_of_file
    from .prompt_sets import read_sets

    known = read_sets() | (read_sets(arguments.sets_file) if arguments.sets_file else {})
    names = ([each.strip() for each in arguments.sets.split(";") if each.strip()] if arguments.sets is not None else
             [*(name for name, each in known.items() if each.concept == preset != ""), "coco-10k"])
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"No prompt set is named {unknown[0]!r}; expected some of {'; '.join(known)}. Correct "
                          "--sets, or describe it in a --sets-file.")
    jobs, told = jobs_of_file(arguments.pairs, arguments.seeds) if arguments.pairs else [], {}
    for name in names:
        path = downloads.table(known[name].source, known[name].sha256)
        made, left_out = known[name].jobs(path.read_bytes(), arguments.seeds)
        told[name] = {"from": str(known[name].source), "sha256": downloads.pins[str(known[name].source)]["sha256"],
                      "left_out": left_out}
        say(f"{name}: {len(made)} images, {left_out} prompts left out that mention minors or may")
        jobs += made
    return limited(jobs, arguments.limit), told


def detector_of(arguments):
    """What looks for the concept, with CLIP beside it unless there is none."""
    from ...nodes.evaluation import detectors

    found = detectors.detector_of(arguments.detector)
    if arguments.clip == "none":
        return found
    try:
        return detectors.WithClip(found, arguments.clip)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The CLIP {arguments.clip!r} cannot be loaded ({error}); expected a repository or a folder "
                          "of the transformers library, or none. Correct --clip.") from error


def merged(study, folders: list[Path]) -> int:
    """Brings the parts together; ConfigError when one of them is of other settings."""
    from ...nodes.evaluation.study import remember_settings

    for folder in folders:
        file = folder / "settings.json"
        if file.is_file():
            remember_settings(study.out / "settings.json", json.loads(file.read_text(encoding="utf-8")))
    return study.merge(folders)


def written(study, left_out: dict[str, str]) -> str:
    """Writes the summary and the table of the paper, summary.md with it at its head; returns that table."""
    from ...nodes.evaluation.results import write
    from .page import paper_table

    text = study.summarise(f"{study.settings['model']}: {study.settings['name']}")
    told = paper_table(json.loads((study.out / "summary.json").read_text(encoding="utf-8")))
    told += "".join(f"\n\nLeft out: {name}, because {reason}." for name, reason in left_out.items())
    head, _, rest = text.partition("\n\n")
    write(study.out / "summary.md", f"{head}\n\n{told}\n\n{rest}")
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
