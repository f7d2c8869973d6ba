"""What the shipped presets are worth on a pretrained text encoder: writes [measured] into models/words/*.ini.

    python quickstart.py run lab/words/presets.py [--encoder FOLDER]

Encoder and everyday captions are those of sentences.py, without the captions that hold a wording of the preset.
"""

from __future__ import annotations

import argparse
import re
from datetime import date
from pathlib import Path

import torch

from saferedir_core.files import write_whole
from saferedir_core.metrics import share
from saferedir_core.policy import USUAL_THRESHOLD
from saferedir_core.words.concept import holds
from saferedir_core.words.fit import fit_words, report_of

from ...nodes.fitting.presets import IGNORED, SHIPPED, read_preset
from .sentences import encoder, folder_of, lines

MEASURED = re.compile(rf"\n*^(# Written by [^\n]*\n)?\[{IGNORED}\].*\Z", re.DOTALL | re.MULTILINE)


def figures(redirector, captions, known) -> dict[str, str]:
    """known: whether each caption holds no wording.  Figures in words, by key."""
    report = report_of(redirector)
    touched = share((redirector.judge_prompt(captions.context, captions.mask) >= USUAL_THRESHOLD)[known].tolist())
    made = {"encoder": "all-MiniLM-L6-v2", "date": str(date.today()),
            "recognised": f"{report.held_out:.1%} of prompts of its own that it was not fitted to",
            "everyday": f"{touched.value:.2%} of captions touched ({touched.hits} of {touched.total})",
            "moved": f"{report.moved:.1%} nearer to the prompt without it",
            "nearest": ", ".join(f"{word} ({value:.2f})" for word, value in report.nearest)}
    if report.unseen is not None:
        made["unseen"] = f"{report.unseen:.1%} with a wording left out of the fit"
    return {key: text.replace("%", " %") for key, text in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="folder of the encoder (default: that of the package)")
    encode = encoder(folder_of(parser.parse_args().encoder))
    texts = lines("coco_a")
    captions = encode(texts)
    for file in sorted(SHIPPED.glob("*.ini")):
        concept = read_preset(file).concept
        known = torch.tensor([not any(holds(text, core) for core in concept.cores) for text in texts])
        found = figures(fit_words(encode, concept), captions, known)
        section = "\n".join(f"{key} = {text}" for key, text in found.items())
        content = MEASURED.sub("", file.read_text("utf-8")).rstrip()
        write_whole(file, f"{content}\n\n# Written by lab/words/presets.py.\n[{IGNORED}]\n{section}\n")
        read_preset(file)
        print(file.stem, found, flush=True)


if __name__ == "__main__":
    main()
