"""docs/backbones.md, from what `backbones.py` left of its measurements."""

from __future__ import annotations

import json
from pathlib import Path

from saferedir_core.architecture import ARCHITECTURES
from saferedir_core.markdown import table
from saferedir_core.metrics import Share

from .kinds import KINDS

REACH_GONE, REACH_IDENTICAL = 0.95, 0.99
INTRODUCTION = """# Backbones

Written in a clone by `python quickstart.py run lab/backbones/backbones.py page`, from what its `train` and `measure` \
left. Do not edit.

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


def page(out: Path) -> str:
    files = {name: out / "results" / f"small_{name}.json" for name in KINDS}
    known = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}
    absent = [name for name in KINDS if name not in known]
    return "\n\n".join((
        INTRODUCTION, kinds_table(), SMALL, *([small_table(known)] if known else []),
        *([f"Not measured yet: {', '.join(absent)}."] if absent else []))) + "\n"


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
