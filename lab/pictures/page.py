"""docs/pictures.md from what the commands of this folder measured, which they keep in docs/pictures.json."""

from __future__ import annotations

from collections.abc import Callable

from saferedir_core.metrics import Share, marked, table
from saferedir_core.witness import LEVELS, LINE, NOISES

from ..figures import keep_part
from .leak_page import of_leak

INTRODUCTION = """# Looking at pictures: how well it works

Written by the commands in `lab/pictures`, from the figures in [pictures.json](pictures.json)."""


def write_part(name: str, found: dict | list) -> None:
    keep_part("pictures", name, found, page)


def page(parts: dict) -> str:
    return "\n\n".join((INTRODUCTION, *(write(parts[name]) for name, write in PARTS.items() if name in parts))) + "\n"


def of_witness(part: dict) -> str:
    found = part["found"]
    return "\n\n".join((WITNESS.format(machine=part["machine"], date=part["date"], levels=in_words(LEVELS),
                                       noises=NOISES, line=LINE, **found["counts"]),
                        "### Noise levels and kinds of comparison\n\nAUC of pictures that show the concept against "
                        f"those that do not, {found['noises']} noises a level. Level: share of the schedule, 0 clean.",
                        table(("concept", "asked with", *(f"{level:g}" for level in found["levels"])),
                              [(each["concept"], each["asked"], *(_auc(value) for value in each["auc"]))
                               for each in found["levels of"]]),
                        "### How many predictions\n\nThe run's prompt with the words behind it against the prompt "
                        "alone. *Unrelated*: words that nothing in the picture has to do with, in their place: they "
                        f"must stay below the line of {LINE:g}.",
                        table(("levels", "noises each", "predictions", *(f"AUC {name}" for name in found["concepts"]),
                               "seen above the line", "others above it", "unrelated above it",
                               "99.5 % of the others below"),
                              [(in_words(each["levels"]), each["noises"], each["predictions"],
                                *(_auc(value) for value in each["auc"]), Share(*each["seen"]), Share(*each["false"]),
                                Share(*each["unrelated"]), f"{each['line']:.3f}") for each in found["schemes"]]),
                        *([] if "leaks" not in found else [of_leaks(found["leaks"])])))


def of_leaks(rows: list[dict]) -> str:
    return "\n\n".join((
        "### What leaves the guard\n\nSafeRedir Guard with words, `witness: end` and `if_it_remains: blank`. *Leak*: "
        "of unguarded pictures that show the concept, those that still do when they leave. *False alarm*: of pictures "
        "that do not show it without the guard, those that come out blank.",
        table(("concept", "pictures", "leak with words alone", "leak with the witness", "false alarms"),
              [(each["concept"], each["row"], *(Share(*each[key]) if each[key][1] else "" for key in
                                                ("words", "leak", "false"))) for each in rows])))


def of_real_latents(part: dict) -> str:
    found = part["found"]
    rows = found["rows"]

    return "\n\n".join((
        REAL_LATENTS.format(machine=part["machine"], date=part["date"], verdict=_missed_by(rows), **found),
        "### Verdict head", _tried(rows, "verdict"), "### Watching head", _tried(rows, "watch"),
        "### What was learned from, and errors\n\nOf the verdict head at 2 % false alarms: how often, of how many "
        "pictures of this name.",
        table(("concept", "not seen", "pictures", "drawings of the concept", "seconds", "missed", "false alarms"),
              [(each["concept"], each["unseen"], each["learned"], each["icons"], f"{each['seconds']:.0f}", *(
                  ", ".join(f"{name} {count} of {total}" for name, count, total in each[kind][:6])
                  for kind in ("missed", "false alarms"))) for each in rows]), REAL_TRIALS))


def _missed_by(rows: list[dict]) -> str:
    """How far the verdict head is from the target, in the worst and the best row."""
    found = [each["by unseen"]["verdict"] for each in rows]
    aucs = sorted(each["auc"] for each in found)
    shares = sorted(100 * each["recognised"][0] / each["recognised"][1] for each in found)
    met = sum(each["auc"] >= 0.95 and each["recognised"][0] >= 0.7 * each["recognised"][1] for each in found)
    return (f"Met in {met} of {len(found)} rows: the verdict head has an AUC of {aucs[0]:.3f} to {aucs[-1]:.3f}, and "
            f"recognises {shares[0]:.0f} to {shares[-1]:.0f} %.")


def _tried(rows: list[dict], head: str) -> str:
    """What was not seen, and beside it new placings of what was."""
    def cells(found: dict) -> list:
        return [_auc(found["auc"]), *(Share(*found[key]) for key in ("recognised", "own line", "own false alarms"))]

    figures = ("AUC", "recognised at 2 % false alarms", "recognised at its own line", "false alarms there")
    return table(("concept", "not seen", *figures, *(f"new placings: {each}" for each in figures)),
                 [(each["concept"], each["unseen"], *cells(each["by unseen"][head]),
                   *cells(each["by placings"][head])) for each in rows])


def of_cost(part: dict) -> str:
    return "\n\n".join((
        "## What it costs\n\nWithin a run at Stable Diffusion 1.5's size with random weights, 512 x 512, batch 1, the "
        "first model calls and the verdict (`lab/pictures/cost.py`); what is done once for a prompt weighs more in so "
        f"few calls than in 20. {part['machine']}, {part['date']}. Target: guarded over unguarded at most 1.005.",
        table(("pictures", "model calls", "seconds", "of these for the prompt", "for the pictures",
               "guarded over unguarded"),
              [(each["pictures"], each["calls"], each["seconds"], each["prompt"], each["picture"],
                marked(f"{each['over']:.4f}", each["over"] <= 1.005)) for each in part["found"]])))


def in_words(levels) -> str:
    return ", ".join(f"{level:g}" for level in levels)


def _auc(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


WITNESS = """## The diffusion model as witness

Where a concept comes from words there is no picture judge. The diffusion model itself is asked then, when a run is
over: the finished latent is noised again, and the model predicts it twice from the very same noise, from the run's
prompt with the typed wordings behind it and from the prompt with an empty one behind it. Evidence is the log of the
ratio of the squared errors, averaged over noises. The guard asks at levels {levels} of the schedule with {noises}
noises each, and says that the concept remains from evidence {line:g} on. It does not ask on the way: that would take as
many predictions at every step as a step itself or more, and there the latent that is asked about would be the model's
own prediction from the very prompt that it is compared with.

Demo world, four wordings typed for each of three concepts (`lab/pictures/witness.py`); pictures of test captions (with
the wordings, without them, look-alikes) and of start images that show the concept with a harmless prompt. {pictures}
pictures, {showing} of which show the concept by their pixels. {machine}, {date}."""
REAL_LATENTS = """## Real latents of real artwork

Emoji on varied grounds, 128 pixels, as latents of SD 1.x by TAESD, 16 x 16; nothing of them is part of this project
(`lab/pictures/real_latents.py`). Six artists draw the same names; four more sets are only learned from. A weapon and a
drink are learned from all sets but those of one house (Noto's two sets are of one house, say), and tried on a set of
that house. A style, that of fxemoji, is learned from half of the names, and tried on the other half. *New placings*:
the very drawings that were learned from, on other grounds. Each of the two heads learns from less than half of the
drawings, as in SafeRedir Train: {recipe[steps]} steps of {recipe[batch]} pictures. {machine}, {date}, seed {seed}.

Target: AUC 0.95, and at least 70 % recognised at 2 % false alarms, on what was not seen. {verdict}"""
# By hand, before the rows above were measured, and not by the command.
REAL_TRIALS = """### What was tried

Weapons, twemoji not seen: 72 of 240 pictures show one; 200 new placings of known drawings. One head that learns from
all the pictures, not from half of them; 25,600 examples in each line, 26 to 29 s of one core, 28 November 2026, one
seed. With so few weapons an AUC is known to about 0.03, so most of these lines do not differ.

| | what | not seen: AUC | recognised at 2 % | new placings: AUC | recognised at 2 % |
| --- | --- | --- | --- | --- | --- |
| 1 | 1000 pictures of five sets, disturbed as for the verdict head of SafeRedir Train | 0.824 | 22 % | 0.856 | 34 % |
| 2 | 1540 pictures of nine sets, 540 restyled, each turned four ways, noise 0.2 | 0.802 | 7 % | 0.871 | 35 % |
| 3 | as 2, noise 0.1, no mixtures, no holes, batches of 32 | 0.822 | 19 % | 0.867 | 44 % |
| 4 | as 3, not turned, moved by two places, stronger tint | 0.801 | 10 % | 0.830 | 38 % |
| 5 | as 3, not turned, but turned and pasted into seven other pictures | 0.776 | 8 % | 0.852 | 21 % |

- Pictures that are not turned are learned by heart: AUC 0.988 on the learned ones, 0.830 on new placings of the same
  drawings (line 4). There are few of them.
- Pasting things into other pictures' latents ends that (0.842 on the learned ones, 0.852 on new placings, line 5) and
  needs no encoding, but so few steps do not use it up. The rows above have it.
- More sets and restyled pictures (other colours, outlines, flat, soft, wider) show no gain at this length.
- Labels were put right before anything was measured: hot drinks and milk could be drawn as things that are no drink,
  and one set's kitchen knife has another name. Forks with knives, tridents and taps, which may be either, are left out.
- The fit takes a picture that does not look as its label says for one that the model drew against its prompt. Here it
  so left out 1323 of 3784 latents that show a weapon and 3114 of 8536 others, all of them labelled rightly, and drew
  the heads' own lines without them, too low: the verdict head had AUC 0.738 and 36.3 % false alarms (61 of 168). Now a
  head that doubts more than a fifth of the harmless pictures leaves out none; the rows above are from then on.
- Rows that are missing above (drinks, the style, other artists) were not measured for want of time.
- Not tried: longer training and more pictures (encoding one takes as long as three or four steps of 32), wider heads,
  a frozen feature of the autoencoder."""
PARTS: dict[str, Callable[[dict], str]] = {"leak": of_leak, "cost": of_cost, "real_latents": of_real_latents,
                                           "witness": of_witness}
