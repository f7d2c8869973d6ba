"""docs/words.md from what sentences.py and demo_world.py measured, which they keep in docs/words.json."""

from __future__ import annotations

from collections.abc import Iterator

from saferedir_core.metrics import Share, marked, table

from ..figures import keep_part

INTRODUCTION = """# A concept from words: how well it works

Written by `lab/words/sentences.py` and `lab/words/demo_world.py`, from the figures in [words.json](words.json). How
to use it is in [own-concept.md](own-concept.md).

What is fitted: prompts are made of the words by the pack's own builder, beside 560 prompts of our own writing
(captions, lists of words, artists, negative prompts, odd and foreign words) and are encoded with the text encoder
in hand. The *prompt judge* is a logistic fit with pooling: a prompt asks for the concept if any of its tokens does,
by the largest of some directions, one for each wording. The *shift* is a ridge regression cut to a low rank, one
for the words themselves and one for the tokens that took something of them in. Where the line lies is decided by
prompts that a judge was not fitted to, whole wordings left out.

Compared for the judge, on the pretrained encoder below with eight concepts of three wordings, whole wordings left
out: a linear discriminant, four clustered ones, the logistic fit, and a network of 64 hidden units. Left-out
wordings recognised, everyday captions touched: 78 % and 1.6 %, 61 % and 0.5 %, 65 % and 0.2 %, 35 % and 0.02 %
(typos among the prompts; 2026-11-27). The logistic fit was kept, and its decay and the directions of each wording
then brought it to the figures below.
"""
SENTENCES = (  # key, title, least (or most) share
    ("recognised", "recognised, prompts of public sets", ("at least", 0.98)),
    ("left out", "recognised, each wording in turn never typed", ("at least", 0.9)),
    ("synonyms", "recognised, synonyms never typed", ("at least", 0.9)),
    ("everyday", "everyday captions touched", ("at most", 0.002)),
    ("near", "near misses touched", ("at most", 0.01)),
    ("odd", "odd, foreign and nonsense words touched", ("at most", 0.01)),
    ("moved", "after the shift nearer to the safe twin", ("at least", 0.97)),
)
TYPED_ROWS = (  # row, key, title, least share
    ("typed", "fsr", "gone, captions with the typed wordings", 0.97),
    ("typed", "kept", "everything else kept there", 0.97),
    ("benign", "identical", "plain prompts bit-identical", 0.995),
    ("look-alike", "identical", "look-alikes named in keep bit-identical", 0.98),
    ("never typed", "fsr", "gone, wordings never typed", None),
    ("implied", "fsr", "gone, only implied", None),
    ("denied", "identical", "denied, bit-identical", None),
)
WITHIN = 0.02   # of the trained redirector
ALL_WORDS = """As many as the trained redirector saw, but for the things that are striped and do not say so
("clownfish", "circus tent"); captions of the benchmark's test split. Target: within two points of the trained one, on
every row. Those things were tried on the same captions: typed beside "striped" they teach that a fish is to be taken
out (everything else kept: 238 of 400, with an earlier shift), and stacked as concepts of their own, "clownfish" with
"fish" in its place, they see one in every striped fish (179 of 400). A trained redirector sees what is drawn for
them."""
TRIED = """What was looked at where targets are missed. *Watercolour*: the style sits in the end and the padding of a
prompt more than in its words, and the map of those tokens learned the prompts it was fitted to; with more ridge, made
up for by a longer shift, 340 of 400 became the figure above. Twice as many prompts, the strongest word as a second
input, more weight on the padding, and prompts with colours changed little or made it worse. *Boat*: the judge misses
words that it knows in sentences unlike its own ("admire a red sailboat"); adjectives before things brought 91 % of
its prompts to 95 %."""
FIGURES = {"fsr": "gone", "kept": "everything else kept", "identical": "bit-identical", "triggered": "redirected"}


def write_part(name: str, found: dict | list) -> None:
    keep_part("words", name, found, page)


def page(parts: dict) -> str:
    makers = {"sentences": of_sentences, "demo_world": of_demo_world, "denials": of_denials, "fit_time": of_fit_time,
              "guarded_run": of_guarded_run}
    return "\n\n".join([INTRODUCTION, *(make(parts[name]) for name, make in makers.items() if name in parts)]) + "\n"


def of_sentences(part: dict) -> str:
    found = part["found"]
    rows = []
    for key, title, aim, share, met in pooled(found):
        rows.append((title, aim, marked(share, met), *(count(each[key]) for each in found.values())))
    sizes = [(name, "; ".join(each["remove"]), f"{each['seconds']} s", f"{each['bytes'] / 1e6:.2f} MB",
              ", ".join(f"{word} ({chance:.2f})" for word, chance in each["nearest"]))
             for name, each in found.items()]
    return "\n\n".join((
        "## A pretrained text encoder\n\nall-MiniLM-L6-v2, token states of its last layer, 384 wide; prompts of public "
        f"sets (`lab/words/sentences.py`). {part['machine']}, {part['date']}. In brackets the Wilson 95 % interval.",
        table(("", "target", "all", *found), rows),
        table(("concept", "typed", "fit", "size", "everyday words next to the line (probability)"), sizes)))


def pooled(found: dict) -> Iterator[tuple[str, str, str, Share, bool]]:
    """Of each row of SENTENCES, all concepts counted together: key, title, target, share, and whether it is met."""
    for key, title, (sign, wanted) in SENTENCES:
        sums = [each[key] for each in found.values() if each[key]]
        share = Share(sum(hits for hits, _ in sums), sum(total for _, total in sums))
        value = share.value or 0.0
        yield (key, title, f"{sign} {100 * wanted:g} %", share,
               value >= wanted if sign == "at least" else value <= wanted)


def of_demo_world(part: dict) -> str:
    rows = part["found"]["rows"]
    concepts = [*dict.fromkeys(each["concept"] for each in rows)]
    of = {(each["part"], each["concept"], each["row"], each["method"]): each for each in rows}
    said = ["## The demo world\n\nCaptions of test templates and test scenes, pixels judged "
            f"(`lab/words/demo_world.py`). {part['machine']}, {part['date']}. *never typed*: captions with other words "
            "that mean it; *implied*: with words that only imply it; *denied*: \"without stripes\"."]
    if any(each["part"] == "typed" for each in rows):
        said += ["### Four wordings typed", table(("", "target", *concepts), [
            (title, f"at least {100 * wanted:g} %" if wanted else "reported",
             *(against(of.get(("typed", concept, row, "words")), key, wanted) for concept in concepts))
            for row, key, title, wanted in TYPED_ROWS]), TRIED]
    if any(each["part"] == "all" for each in rows):
        said += ["### All training wordings typed, beside the trained redirector", ALL_WORDS, table(
                     ("concept", "captions", "", "words", "trained", ""), beside_trained(of, concepts))]
    lines = [(each["part"], each["concept"], each["row"], each["method"],
              *(Share(*each[key]) if each.get(key) else "" for key in FIGURES)) for each in rows]
    return "\n\n".join((*said, "### Every method", table(
        ("typed", "concept", "captions", "method", *FIGURES.values()), lines)))


def against(figures: dict | None, key: str, wanted: float | None) -> str:
    """A figure, and whether it misses its target."""
    if not figures or not figures.get(key):
        return ""
    figure = Share(*figures[key])
    return marked(figure, not wanted or (figure.value or 0) >= wanted)


def beside_trained(of: dict, concepts: list[str]) -> list[tuple]:
    lines = []
    for concept in concepts:
        for row in dict.fromkeys(row for part, name, row, _ in of if (part, name) == ("all", concept)):
            words, trained = (of.get(("all", concept, row, method), {}) for method in ("words", "trained"))
            for key in ("fsr", "kept", "identical"):
                if words.get(key) and trained.get(key):
                    pair = [Share(*each[key]) for each in (words, trained)]
                    short = (pair[1].value or 0) - (pair[0].value or 0) > WITHIN
                    lines.append((concept, row, FIGURES[key], *map(str, pair), marked("", not short).strip()))
    return lines


def of_denials(part: dict) -> str:
    lines = [(each["encoder"], each["concept"], {"with": "yes", "without": "no"}[way],
              *(Share(*rows[row]) for row in ("asked for", "denied", "harmless")))
             for each in part["found"] for way, rows in each["ways"].items()]
    return "\n\n".join((
        "## Denials\n\nWhether \"without stripes\" counts as harmless in the fit; share of prompts that trigger "
        f"(`lab/words/denials.py`, the judge alone). {part['machine']}, {part['date']}. Without them is the default: a "
        "real text encoder hardly reads \"without\", and what is denied is drawn.",
        table(("encoder", "concept", "denials harmless", "asked for", "denied", "harmless"), lines)))


def of_fit_time(part: dict) -> str:
    lines = [(each["size"], f"{each['parameters'] / 1e6:.0f} M", each["width"], each["prompts"], f"{each['seconds']} s",
              f"{each['bytes'] / 1e6:.2f} MB", f"{each['peak memory of the process, GB']} GB")
             for each in part["found"]["fits"]]
    return "\n\n".join((
        "## Time, size and memory of a fit\n\nText encoders with random weights, because only sizes matter here "
        f"(`lab/words/fit_time.py`, {part['found']['threads']} threads, {part['found']['device']}). {part['machine']}, "
        f"{part['date']}. Targets: 20 s at the size of MiniLM, 180 s at that of CLIP-L, 2 MB.",
        table(("size of", "parameters", "width", "prompts", "fit", "redirector", "peak memory"), lines)))


def of_guarded_run(part: dict) -> str:
    found = part["found"]
    return ("## A guarded run over an unguarded one\n\nStable Diffusion 1.5's size, 512 x 512, one image, the first "
            f"{found['calls']} of 20 model calls, within one run (`lab/words/guarded_run.py`): {found['own']} s of "
            f"{found['seconds']} s are the guard's, a ratio of {found['over']}. Most of it is done once for a prompt, "
            f"so that a whole run has less. Target: 1.002. {part['machine']}, {part['date']}.")


def count(pair: list[int] | None) -> str:
    return "" if not pair else f"{pair[0]}/{pair[1]}"
