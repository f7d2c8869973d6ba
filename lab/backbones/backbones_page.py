"""docs/backbones.md, from what `backbones.py` left of its measurements."""

from __future__ import annotations

import json
from pathlib import Path

from saferedir_core.architecture import ARCHITECTURES
from saferedir_core.metrics import table
from saferedir_core.metrics import Share

from .full_width import FULL, LATENT, STEPS
from .kinds import KINDS

REACH_GONE, REACH_IDENTICAL = 0.95, 0.99
INTRODUCTION = """# Backbones

Written in a clone by `python quickstart.py run lab/backbones/backbones.py page`, from what its `train`, `measure` and \
`full` left. Do not edit.

## Kinds of models

An entry in `saferedir_core/architecture.py` says where a kind has its latents, timestep, prompt and pooled vector; a \
model of no entry is refused by name. Z-Image is the one beyond the Stable Diffusions and Flux.1 because it runs on \
one consumer GPU, shares Flux.1's latents, and differs where the others agree: a language model's prompt of any \
length and no pooled vector. A redirector names its kind, and fits no other."""
SMALL = """## Small models, trained on the demo world

Models of the host's own classes at small width. SDXL's kind: two CLIP encoders side by side, a pooled vector and size \
embeddings; its UNet begins with the weights of the demo world's own. Flux's kind: flow matching, 16 latent channels \
(a fixed linear map of the codec's 4), T5 tokens padded to 64 and CLIP's pooled vector. Prompts, templates and \
scenes are those of the test split."""
WIDE = f"""## Full width, random weights

The host's own configurations, weights in bfloat16 and computed in float32, on a CPU; {STEPS} steps at guidance 1, \
latents of {LATENT} x {LATENT}; the redirector in float32. Flux.1 has no room in 24 GB, and 8 GB were allowed here, so \
the larger ones have fewer blocks, as said. Times are of a busy machine: they say that it runs, not how fast."""


def page(out: Path) -> str:
    small, wide = (found(out, "small", KINDS), found(out, "full", FULL))
    return "\n\n".join((
        INTRODUCTION, kinds_table(),
        SMALL, *([small_table(small)] if small else []), *missing("Not measured yet", KINDS, small),
        WIDE, *([wide_table(wide)] if wide else []), *missing("Not run yet", FULL, wide))) + "\n"


def found(out: Path, group: str, names) -> dict[str, dict]:
    """Results that are there, by name."""
    files = {name: out / "results" / f"{group}_{name}.json" for name in names}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def missing(what: str, names, known: dict[str, dict]) -> list[str]:
    absent = [name for name in names if name not in known]
    return [f"{what}: {', '.join(absent)}."] if absent else []


def kinds_table() -> str:
    return table(("kind", "the host's names", "latent channels", "timestep", "prompt", "tokens judged together"),
                 [(each.title, ", ".join(each.host_models), each.channels,
                   "0 to 999 of the training schedule" if each.clock == "discrete" else "1000 sigma, 0 to 1000",
                   each.conditioning, f"{each.tokens}, of any number" if each.ragged else each.tokens)
                  for each in ARCHITECTURES.values()])


def small_table(results: dict[str, dict]) -> str:
    return table(("kind", "draws every factor as asked", "concept shown unguarded",
                  "shown where the safe prompt is typed, unguarded", "concept gone (at least 95 %)",
                  "other factors kept", "benign bit-identical (at least 99 %)", "how"),
                 [(result["kind"], *(str(Share(*result[key])) for key in ("follows", "shown", "unasked")),
                   reached(Share(*result["gone"]), REACH_GONE), str(Share(*result["kept"])),
                   reached(Share(*result["identical"]), REACH_IDENTICAL), how(result)) for result in results.values()])


def reached(share: Share, reach: float) -> str:
    return f"{share}{'' if share.value >= reach else ' **missed**'}"


def how(result: dict) -> str:
    backbone = result["backbone"]
    return (f"{result['pairs']} pairs, {result['iterations']} training steps, {result['steps']} sampling steps, seed "
            f"{result['seed']}; backbone as of iteration {backbone['history'][-1]['iteration']} of a training planned "
            f"for {backbone['iterations']}; {result['date']}; {result['machine']}")


def wide_table(results: dict[str, dict]) -> str:
    return table(("kind", "blocks", "model", "redirector", "worked", "memory at most", "time"),
                 map(wide_row, results.values()))


def wide_row(result: dict) -> tuple:
    if "error" in result:
        return result["title"], result["cut"], "", "", f"failed: {result['error']}", "", ""
    worked = {"sampled": result["finite"], "redirected": result["redirected"], "trained": result["trained"]}
    return (result["title"], result["cut"],
            f"{result['parameters'] / 1e6:.0f} M", f"{result['redirector'] / 1e6:.0f} M",
            ", ".join(what for what, good in worked.items() if good), f"{result['memory']:.1f} GB",
            "; ".join(f"{what} {value:.0f} s" for what, value in result["seconds"].items()))
