"""What a study compares, by name, and the redirectors that it makes for its concept.

    OUT/redirectors/words.safetensors      fitted to the words, in seconds to minutes
    OUT/redirectors/pictures.safetensors   the same with a picture judge, in minutes to hours
    OUT/pictures_work/                     pictures that it learns from
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import comfy.model_management
import torch

from saferedir_core.architecture import of_host_model
from saferedir_core.bundle import load_redirectors, save_redirector
from saferedir_core.errors import ConfigError
from saferedir_core.picture.fit import PictureFit
from saferedir_core.words.concept import Concept
from saferedir_core.words.fit import fit_words

from ...nodes.commands.arguments import ConsoleProgress
from ...nodes.evaluation.methods import Guarded, Method, Oracle, Unguarded
from ...nodes.evaluation.stage import Stage
from ...nodes.fitting.encoding import encoder_of
from ...nodes.guarding.architectures import host_name
from ...nodes.training import procedure, words
from ...nodes.training.collect import X0, digest_of
from ...nodes.weights import catalogue
from ..baselines.baselines import (
    CalibratedSubtraction,
    ConceptWords,
    NegativePrompt,
    OrthogonalProjection,
    Upstream,
    tokens_per_chunk,
)

WORDS, PICTURES, PUBLISHED = "words", "words with pictures", "published"
BASELINES = {each.name: each for each in (NegativePrompt, OrthogonalProjection, CalibratedSubtraction)}
METHODS = (Unguarded.name, *BASELINES, PUBLISHED, WORDS, PICTURES)  # in the order of the table
PUBLISHED_FOR = {"nudity": "nudity-sd1-published"}  # preset -> name in the registry


@dataclass(frozen=True)
class Wanted:
    """What the methods are made of.

    preset      name of the concept's preset, or ""
    trajectory  width, height, steps and so on of `procedure.collection_of`, for the pictures
    fit         of the picture judge
    """

    concept: Concept
    preset: str
    out: Path
    trajectory: dict
    fit: PictureFit = PictureFit()

    def file(self, name: str) -> Path:
        return self.out / "redirectors" / f"{name.rpartition(' ')[2]}.safetensors"


@dataclass(frozen=True)
class Chosen:
    """methods; what the results of each depend on, by name; and why others were left out, by name."""

    methods: list[Method]
    described: dict[str, dict]
    left_out: dict[str, str]


def chosen(names: Sequence[str], stage: Stage, wanted: Wanted) -> Chosen:
    """The methods of these names; redirectors that are not there yet are made.  ConfigError for an unknown name.

    Always there are the unguarded model and the oracle, with which the others are compared.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ConfigError(f"No method is named {unknown[0]!r}; expected some of {'; '.join(METHODS)}.")
    found = Chosen([Unguarded(), Oracle()], {}, {})
    for name in (each for each in METHODS if each in names):
        reason = why_not(name, stage, wanted)
        if reason:
            found.left_out[name] = reason
        elif name in BASELINES:
            told = ConceptWords(wanted.concept.name, wanted.concept.remove, wanted.concept.instead)
            found.methods.append(BASELINES[name](told))
            found.described[name] = {"phrases": list(told.phrases), "safe": told.safe}
        elif name != Unguarded.name:
            guarded = _guarded(name, stage, wanted)
            found.methods.append(guarded)
            found.described[name] = {
                "sha256": [each.sha256 for each in guarded.loaded.redirectors.values()], **asdict(guarded.policy)}
    return found


def why_not(name: str, stage: Stage, wanted: Wanted) -> str:
    """Why a method cannot be had for this model and concept; "" where it can."""
    if name == NegativePrompt.name and stage.cfg == 1:
        return "a model that is sampled at guidance 1 reads no negative prompt"
    if name in BASELINES and name != NegativePrompt.name and not _in_chunks(stage.clip):
        return "it is written for the tokens of CLIP, in chunks of 77"
    if name == PUBLISHED:
        entry = catalogue.registry().get(PUBLISHED_FOR.get(wanted.preset, ""))
        if entry is None:
            return f"none is published for {wanted.preset or 'these words'}"
        kind = of_host_model(host_name(stage.model))
        if kind is None or (kind.title, kind.width) != (entry.architecture, _context(stage.clip).shape[-1]):
            return f"it is for {entry.architecture}"
    return ""


def _in_chunks(clip) -> bool:
    """Whether a prompt's context has a row for each token of CLIP's chunk."""
    return _context(clip).shape[1] == tokens_per_chunk(clip)


@torch.inference_mode()
def _context(clip) -> torch.Tensor:
    """Of the empty prompt, (1, n, D)."""
    return clip.encode_from_tokens(clip.tokenize(""))


def _guarded(name: str, stage: Stage, wanted: Wanted) -> Guarded:
    if name == PUBLISHED:
        known = PUBLISHED_FOR[wanted.preset]
        settings = catalogue.registry()[known].settings
        return Upstream(name, catalogue.obtain(known, None), interval=settings.interval if settings else 1)
    file = wanted.file(name)
    if not file.is_file():
        (make_words if name == WORDS else make_pictures)(stage, wanted)
    return Guarded(name, file)


def make_words(stage: Stage, wanted: Wanted) -> None:
    redirector = fit_words(encoder_of(stage.clip), wanted.concept,
                           progress=ConsoleProgress("reading prompts", "prompt"))
    save_redirector(redirector, _place(wanted, WORDS), redirector.metadata)


def make_pictures(stage: Stage, wanted: Wanted) -> None:
    """Draws prompts of the words with the unguarded model and learns from what it drew."""
    if not wanted.file(WORDS).is_file():
        make_words(stage, wanted)
    given = words.given_redirector(load_redirectors(wanted.file(WORDS)))
    made = words.prompt_part(stage.clip, [], given)
    pairs = words.picture_pairs(stage.clip, [], given)
    collection = replace(procedure.collection_of(stage.model, **wanted.trajectory), keeps=X0)
    bar, work = ConsoleProgress("pictures to learn from", "shard"), wanted.out / "pictures_work"
    words.collect_pictures(stage.model, stage.clip, pairs, work, collection,
                           told=lambda part, done, total: bar(done, total))
    comfy.model_management.unload_all_models()
    words.with_picture_judge(made, work, wanted.fit, comfy.model_management.get_torch_device(),
                             ConsoleProgress("learning from pictures", "step"))
    save_redirector(made, _place(wanted, PICTURES), {
        **made.metadata, **procedure.provenance(words.name_of(given), host_name(stage.model),
                                                procedure.model_digest(stage.model, stage.clip), digest_of(pairs),
                                                collection, "lab/study/study.py")})


def _place(wanted: Wanted, name: str) -> Path:
    file = wanted.file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
