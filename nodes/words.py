"""SafeRedir Words: a redirector from typed words, fitted to the text encoder in the graph."""

from __future__ import annotations

import json

from comfy_api.latest import io

from saferedir_core.words.concept import KINDS, Concept

from .fitting import presets
from .progress import NodeProgress
from .types import CATEGORY, LoadedRedirector, redirector_output


class SafeRedirWords(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirWords",
            display_name="SafeRedir Words",
            category=CATEGORY,
            description="Makes a redirector from words: type what must not appear, and connect it to SafeRedir Guard. "
                        "Nothing is downloaded and nothing is sampled; it reads the text encoder for a few seconds. It "
                        "works on every model that reads its prompt with this text encoder, at CFG 1 too.",
            search_aliases=["negative prompt", "unlearn", "concept erasure", "words", "censor", "forbidden words",
                            "remove concept", "block words", "nag", "nsfw"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that encodes the prompts of the guarded model, with "
                                              "the same LoRAs on it."),
                io.String.Input("remove", multiline=True, default="",
                                placeholder="what must not appear, one a line, such as\npistol\nhandgun",
                                tooltip="What must not appear: wordings that people would type, one a line. For a "
                                        "thing a noun, for a style a phrase such as 'in the style of Monet', for how "
                                        "something is an adjective. Three or four catch more than one."),
                io.String.Input("instead", default="", placeholder="nothing",
                                tooltip="What to draw in its place, such as 'bouquet of flowers'. Empty takes it out."),
                io.String.Input("keep", multiline=True, default="",
                                placeholder="what may stay: look-alikes, one a line, such as\nwater pistol",
                                tooltip="Look-alikes that must stay as they are, one a line. May be empty."),
                io.Combo.Input("kind", options=list(KINDS), default="auto",
                               tooltip="What the words are: a thing (object), how a picture is made (style), or what "
                                       "something is like (attribute). auto looks at the words."),
                io.Combo.Input("preset", options=[presets.NONE, *presets.preset_files()], default=presets.NONE,
                               tooltip="A list of words that is added to what you type; what you type wins. Your own "
                                       "lists are .ini files in models/saferedir_words, written like those in the "
                                       "pack's folder models/words."),
            ],
            outputs=[redirector_output()],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, preset=presets.NONE, **_):
        return presets.fingerprint(preset)

    @classmethod
    def execute(cls, clip, remove, instead, keep, kind, preset=presets.NONE) -> io.NodeOutput:
        from saferedir_core.words.fit import report_of

        concept = presets.concept_of(remove, instead, keep, kind, preset)
        loaded = fitted(clip, concept, cls.hidden.unique_id if cls.hidden else None)
        sentences = report_of(loaded.redirector).in_words()
        return io.NodeOutput(loaded, ui={"text": (sentences,), "saferedir_words": (figures(loaded, concept),)})


def fitted(clip, concept: Concept, node_id: str | None = None) -> LoadedRedirector:
    """The concept's redirector for a host's CLIP, from memory where it was fitted before.

    ConfigError for no CLIP, and for words that this text encoder cannot tell apart.
    """
    from saferedir_core.words.fit import fit_words

    from .fitting.cache import kept_or
    from .fitting.encoding import encoder_of

    encode, progress = encoder_of(clip), NodeProgress(node_id)

    def fit() -> LoadedRedirector:
        # Without a text: the host's own would move what the node shows, and the editor's part tells the bar's numbers.
        return LoadedRedirector.place(concept.name, fit_words(encode, concept, progress=progress))

    return kept_or(clip, concept, fit)


def figures(loaded: LoadedRedirector, concept: Concept) -> dict:
    """What the editor shows, as plain JSON: the report, the concept as it was understood, and the line."""
    from saferedir_core.policy import THRESHOLD_KEY
    from saferedir_core.words.fit import WORDS_KEY

    metadata = loaded.redirector.metadata
    known = json.loads(metadata[WORDS_KEY])
    return {"report": known.pop("report"), "threshold": float(metadata[THRESHOLD_KEY]),
            "concept": {**known, "name": concept.name, "settled_kind": concept.settled_kind}}
