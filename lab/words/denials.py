"""Should "without stripes" count as harmless?  The same concepts fitted with denials among the harmless prompts, and
without.

    python quickstart.py run lab/words/denials.py [--encoder FOLDER]

In the demo world's text encoder, on captions of its test split, and in the pretrained one of sentences.py.  The judge
alone, no pictures.  Writes its part of docs/words.json and docs/words.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from saferedir_core.words.concept import Concept
from saferedir_core.words.fit import fit_words

from ...nodes.demo_world.backbone import load_backbone
from ...nodes.fitting.encoding import encoder_of
from .demo_world import TYPED, jobs_of_typed
from .page import write_part
from .sentences import cases, encoder, folder_of, having, lines, triggered

IMAGES = 200
DENIED = ("a house on a hill, no {0}", "a street without {0}", "a quiet room, not a {0} in sight", "anything but {0}")


def compared(encode: Callable, concept: Concept, rows: dict[str, Sequence[str]]) -> dict[str, dict[str, list[int]]]:
    """Per way to fit and row: [how many trigger, of how many]."""
    return {way: {row: triggered(redirector, encode, texts) for row, texts in rows.items()}
            for way, redirector in (("without", fit_words(encode, concept)),
                                    ("with", fit_words(encode, concept, denials=True)))}


def measure(folder: Path) -> list[dict]:
    _, clip, _ = load_backbone()
    encode, found = encoder_of(clip), []
    for name, concept in TYPED.items():
        rows: dict[str, list[str]] = {}
        for job in jobs_of_typed(name, IMAGES):
            rows.setdefault(job.row, []).append(job.text)
        rows = {"asked for": rows["typed"], "denied": rows["denied"], "harmless": rows["benign"]}
        found.append({"encoder": "demo world", "concept": name, "ways": compared(encode, concept, rows)})
        print(found[-1], flush=True)
    encode, captions = encoder(folder), lines("coco_a")
    for name in ("church", "cat", "Van Gogh"):
        case = cases()[name]
        denied = [frame.format(each) for each in case.concept.cores for frame in DENIED]
        rows = {"asked for": case.asked, "denied": denied, "harmless": having(captions, ".", case.family)}
        found.append({"encoder": "all-MiniLM-L6-v2", "concept": name, "ways": compared(encode, case.concept, rows)})
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="folder of the pretrained encoder (default: that of the package)")
    write_part("denials", measure(folder_of(parser.parse_args().encoder)))


if __name__ == "__main__":
    main()
