"""Compares guarded and unguarded images: `python saferedir.py evaluate --model ... --redirector ... --prompts ...`.

    --model demo --redirector models/redirectors/demo_stripes.safetensors --prompts models/pairs/demo_stripes.csv
        --concept stripes --detector demo:stripes --out output/stripes
    --model sd15.safetensors --redirector mine.safetensors --prompts mine.csv --seeds 4
        --detector "clip:openai/clip-vit-base-patch32:a church;a house" --out output/church

Interrupted at any point, the same command goes on where it was.  On several machines: `--shard 0/2` and `--shard 1/2`
make half each; the same command with `--merge FOLDER FOLDER` brings the halves together and draws the conclusions.
In a clone, `python quickstart.py evaluate` also has attacks and other methods (docs/commands.md).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from ..host import prepare
from .arguments import ConsoleProgress, exit_code, say, shard

DEMO = {"steps": 10, "cfg": 4.0, "batch": 25}
CHECKPOINT = {"steps": 20, "cfg": 7.5, "batch": 4}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="saferedir.py evaluate", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="'demo', or a checkpoint file")
    made.add_argument("--redirector", type=Path, nargs="*", default=[], metavar="FILE", help="each is a method")
    made.add_argument("--prompts", type=Path, required=True, help="prompt pairs (.csv, .jsonl)")
    made.add_argument("--concept", default="", help="which of several concepts of the file")
    made.add_argument("--detector", default="none", metavar="SPEC",
                      help="demo:CONCEPT, nudenet, classifier:MODEL:LABEL, clip:MODEL:PHRASE;OTHER or none (none)")
    made.add_argument("--out", type=Path, required=True, help="folder of the results")
    made.add_argument("--seeds", type=positive, default=1, help="images per prompt (1)")
    made.add_argument("--limit", type=positive, help="most prompts of each row")
    made.add_argument("--steps", type=positive, help="schedule steps (demo 10, else 20)")
    made.add_argument("--cfg", type=float, help="guidance (demo 4, else 7.5)")
    made.add_argument("--sampler", default="euler", help="of the host (euler)")
    made.add_argument("--scheduler", default="normal", help="of the host (normal)")
    made.add_argument("--negative", default="", help="negative prompt")
    made.add_argument("--size", type=positive, default=512, help="of the images in pixels, but for the demo (512)")
    made.add_argument("--batch", type=positive, help="images sampled together (demo 25, else 4)")
    made.add_argument("--alpha-scale", type=float, help="of the redirectors (default: what their file recommends)")
    made.add_argument("--threshold", type=float, help="of the redirectors (default: what their file recommends)")
    made.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="make the I-th of N parts, from 0")
    made.add_argument("--merge", type=Path, nargs="*", metavar="FOLDER", help="folders of the parts (default: --out)")
    return made


def positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no count; expected a whole number above 0")


def main(argv: list[str], laboratory=None) -> int:
    """Exit code: 0 done, 1 it could not be done, 130 interrupted.

    laboratory: what a clone adds to this command, see lab/evaluate.py.
    """
    made = parser()
    if laboratory is not None:
        laboratory.add_options(made)
    arguments = made.parse_args(argv)
    if arguments.merge is not None and arguments.shard != (0, 1):
        made.error("--merge takes all parts; it does not go with --shard")
    return exit_code(lambda: run(arguments, laboratory))


def run(arguments, laboratory) -> int:
    prepare()
    study = study_of(arguments, laboratory)
    if arguments.merge is not None:
        say(f"{study.merge(arguments.merge)} results merged into {study.results}")
    else:
        say(f"{len(study.jobs)} images, {len(study.methods)} methods: "
            + ", ".join(method.name for method in study.methods))
        study.evaluate(ConsoleProgress("images", "image"))
        if laboratory is not None:
            laboratory.attack(study, arguments, ConsoleProgress("attacks", "image"))
    if study.shard[1] > 1:
        say(f"written {study.results}; when all parts are there, run the same command with --merge")
        return 0
    text = study.summarise(f"Evaluation of {', '.join(path.stem for path in arguments.redirector) or 'the model'}")
    study.draw()
    print(text)
    say(f"written {arguments.out}")
    return 0


def study_of(arguments, laboratory):
    """The Study that the arguments ask for."""
    from ..evaluation.detectors import detector_of
    from ..evaluation.stage import stage_of
    from ..evaluation.study import Study, jobs_of_file

    jobs = limited(jobs_of_file(arguments.prompts, arguments.seeds, arguments.concept), arguments.limit)
    detector = detector_of(arguments.detector)
    defaults = DEMO if arguments.model == "demo" else CHECKPOINT
    sampling = {"steps": arguments.steps or defaults["steps"],
                "cfg": defaults["cfg"] if arguments.cfg is None else arguments.cfg, "sampler": arguments.sampler,
                "scheduler": arguments.scheduler, "negative": arguments.negative}
    if arguments.model != "demo":
        sampling["size"] = arguments.size
    methods, described = methods_of(arguments)
    if laboratory is not None:
        methods += laboratory.methods(arguments, detector)
    stage = stage_of(arguments.model, **sampling)
    if laboratory is not None:
        stage = laboratory.stage(stage)
    settings = {"model": arguments.model, "detector": arguments.detector, **sampling, "methods": described}
    return Study(stage, methods, jobs, detector, arguments.out.resolve(), settings,
                 arguments.shard, arguments.batch or defaults["batch"])


def limited(jobs: list, most: int | None) -> list:
    """At most so many jobs of each row."""
    return [job for row in dict.fromkeys(job.row for job in jobs)
            for job in [each for each in jobs if each.row == row][:most]]


def methods_of(arguments) -> tuple[list, dict]:
    """The methods, and what the results of each depend on, by name."""
    from ..evaluation import methods

    wanted = {name: getattr(arguments, name) for name in ("alpha_scale", "threshold")
              if getattr(arguments, name) is not None}
    made, described = [methods.Unguarded(), methods.Oracle()], {}
    for file in arguments.redirector:
        guarded = methods.Guarded(file.stem, file)
        guarded.policy = replace(guarded.policy, **wanted)
        made.append(guarded)
        described[file.stem] = {"sha256": guarded.loaded.redirector.sha256, **asdict(guarded.policy)}
    return made, described
