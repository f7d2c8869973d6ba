"""Writes docs/models.md anew: every class of models of the ComfyUI it runs with, guarded or refused.

    python quickstart.py run lab/release/write_models.py
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import comfy.model_base
from comfyui_version import __version__

from saferedir.nodes.guarding.text_inputs import POOLED, PROMPT, TABLE, TextInputs, is_hosts, text_inputs_of
from saferedir_core.files import write_whole
from saferedir_core.metrics import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
INTRODUCTION = """# Models

Written in a clone by `python quickstart.py run lab/release/write_models.py`, from `nodes/guarding/text_inputs.py`. Do \
not edit.

A redirector that was **trained** fits one kind of model and says which: [backbones.md](backbones.md). One that was \
made from **words** knows a text encoder and nothing else, so it guards every model whose prompt has that encoder's \
width. What it has to know of a model is where text enters. These are all classes of models of ComfyUI {version}, as \
its `comfy/model_base.py` names them; a test walks them in every release that the pack supports and fails when one has \
an input that is not named here as text or as something else.

- Each **context** (tokens of text, of any number) is judged by itself, and its tokens that carry the concept move. A \
ControlNet's own prompt, `crossattn_controlnet`, is a context of every class that has one.
- The **pooled vector** moves with the prompt. A prompt whose pooled vector says something that the redirector does \
not read is refused.
- **Padding** is told by a mask only where the model reads no token that is masked. Where it does, every token is \
judged. Tokens of zeros are no text anywhere.
- A model class of **another pack** has the inputs of the ComfyUI class that it is derived from. One that brings an \
input of its own is refused by that input's name, and so is a new input of a newer ComfyUI.
- **Edit models** read their reference images through the text encoder as well, so some tokens of a context stem from \
a picture. They are judged like the others; the reference latents beside them are pictures and are not judged.

Run in the host's own sampler, as small models with random weights (`tests/nodes/guarding/test_any_model.py`): Stable \
Diffusion 1.x, 2.x, XL with its refiner and 3.x, Stable Cascade, Stable Audio 1, AuraFlow, Flux.1 and its edit form, \
Flux.2, Z-Image, Lumina 2, Qwen-Image and its edit form, Chroma, HiDream, HunyuanDiT, HunyuanImage 2.1, HunyuanVideo, \
Kandinsky 5, OmniGen2, Cosmos Predict 2, ERNIE-Image, Wan 2.1, LTX-Video and CogVideoX: an unsafe prompt arrives \
moved, a harmless run is bit for bit the unguarded one, at CFG 1 too. The others stand as their source reads. No real \
checkpoint was tried."""
SECOND = """## A second text encoder

HiDream and HunyuanDiT read what another text encoder made of the prompt, in an input of its own and another layout, \
which a redirector cannot judge token by token. The prompt is judged by its first encoder; where it is redirected, \
what the second one made of it becomes zeros, so that nothing of the words gets by. So does HunyuanImage's and \
HunyuanVideo 1.5's reading of quoted text. The price: where such a prompt is redirected, the picture comes from the \
first encoder alone. The nodes CLIPTextEncodeHiDream and CLIPTextEncodeHunyuanDiT can give the second encoder another \
text than the first; that text is **not judged**. The Guard says so in the log of each run, and a server with \
[enforcement](enforcement.md) refuses these two models."""
REFUSED = """## Refused

The Guard node stops with the sentence that stands here. Of models that work the prompt over before sampling, \
*SafeRedir Conditioning* moves the prompt all the same: it stands in front of that."""


def page() -> str:
    names = classes_by_entry()
    guarded = {name: entry for name, entry in TABLE.items() if not entry.refused}
    refused = {name: entry for name, entry in TABLE.items() if entry.refused}
    return "\n\n".join((
        INTRODUCTION.format(version=__version__), "## Guarded",
        table(("models", "classes", "context", "pooled vector", "padding", "besides"),
              [(entry.models, ", ".join(names[name]), f"`{entry.prompt}`", pooled(entry),
                f"`{entry.mask}`" if entry.mask else "", besides(entry)) for name, entry in guarded.items()]),
        SECOND, REFUSED,
        table(("models", "classes", "why"), [(entry.models, ", ".join(names[name]), entry.refused)
                                             for name, entry in refused.items()]))) + "\n"


def classes_by_entry() -> Mapping[str, list[str]]:
    """Names of the host's classes by the name of the entry that they have, the entry's own first."""
    found = {name: [f"`{name}`"] for name in TABLE}
    for name, kind in inspect.getmembers(comfy.model_base, inspect.isclass):
        entry = text_inputs_of(kind) if is_hosts(kind) else None
        if entry is not None and name not in TABLE:
            found[next(each for each, known in TABLE.items() if known is entry)].append(f"`{name}`")
    return found


def pooled(entry: TextInputs) -> str:
    if not entry.pooled:
        return ""
    return f"`{entry.pooled}`" + (f", before {entry.rest} numbers of sizes" if entry.rest else "")


def besides(entry: TextInputs) -> str:
    """What else is to be known of a class."""
    said = [f"tokens of seconds at its end: {entry.appended}"] if entry.appended else []
    said += [f"`{name}` becomes zeros where the prompt is redirected" for name in entry.emptied]
    said += [f"a prompt with `{name}` ({what}) is refused" for name, what in entry.unreadable]
    if POOLED in entry.others and PROMPT in entry.contexts:
        said.append(f"`{POOLED}` is not text")
    return "; ".join(said)


if __name__ == "__main__":
    write_whole(PAGE, page())
