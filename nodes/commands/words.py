"""Makes a redirector of typed words: `python saferedir.py words --clip FILE --remove ... --out ...`.

    --clip clip_l.safetensors --remove "pistol; handgun" --instead "bouquet of flowers" --out pistol.safetensors
    --clip clip_l.safetensors t5xxl_fp16.safetensors --type flux --preset smoking --out smoking.safetensors
    --model sd15.safetensors --remove "in the style of Monet; Monet style" --kind style --out monet.safetensors
    --model demo --remove "striped; with stripes" --out stripes.safetensors

Nothing is sampled and no diffusion model is needed.  What was understood is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saferedir_core.bundle import save_redirector
from saferedir_core.errors import ConfigError
from saferedir_core.words.concept import KINDS

from .arguments import ConsoleProgress, exit_code, require_writable_names, say


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="saferedir.py words", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    encoder = made.add_mutually_exclusive_group(required=True)
    encoder.add_argument("--clip", nargs="+", metavar="FILE", help="text encoder files, or a checkpoint")
    encoder.add_argument("--model", metavar="FILE", help="'demo', or a checkpoint whose text encoder is read")
    made.add_argument("--type", default="stable_diffusion", metavar="TYPE",
                      help="of the text encoder, as in Load CLIP and DualCLIPLoader (stable_diffusion)")
    made.add_argument("--remove", action="append", default=[], metavar="WORDS",
                      help="wordings of what must not appear, with ';' between them; again for more")
    made.add_argument("--instead", default="", metavar="WORDS", help="what is drawn in its place (nothing)")
    made.add_argument("--keep", action="append", default=[], metavar="WORDS",
                      help="look-alikes that must stay, with ';' between them; again for more")
    made.add_argument("--kind", choices=KINDS, default="auto", help="of concept (auto)")
    made.add_argument("--preset", default="none", metavar="NAME", help="a list that is added to the words (none)")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="redirector to write, .safetensors")
    return made


def main(argv: list[str]) -> int:
    """Exit code: 0 done, 1 it could not be done, 130 interrupted."""
    arguments = parser().parse_args(argv)
    return exit_code(lambda: run(arguments), resumes=False)


def run(arguments) -> int:
    from ..host import load_text_encoder, prepare

    prepare()
    from saferedir_core.words.fit import fit_words, report_of

    from ..fitting import presets
    from ..fitting.encoding import encoder_of

    out = arguments.out.resolve()
    require_writable_names(out)
    presets.register_folder()
    if not arguments.remove and arguments.preset == presets.NONE:
        raise ConfigError("Neither --remove nor --preset is given; expected what must not appear. Add --remove "
                          "\"WORDING; WORDING\".")
    concept = presets.concept_of(lines(arguments.remove), arguments.instead, lines(arguments.keep), arguments.kind,
                                 arguments.preset)
    clip = load_text_encoder(arguments.clip or [arguments.model], arguments.type)
    redirector = fit_words(encoder_of(clip), concept, progress=ConsoleProgress("reading prompts", "prompt"))
    save_redirector(redirector, out, redirector.metadata)
    print(report_of(redirector).in_words())
    say(f"written {out}")
    return 0


def lines(given: list[str]) -> str:
    """Wordings of an argument, one a line."""
    return "\n".join(given).replace(";", "\n")
