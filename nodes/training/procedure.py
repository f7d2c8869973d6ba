"""From prompt pairs to a trained redirector on any MODEL and CLIP: what the command line and the Train node share.

    work/training, work/validation   trajectories, see `saferedir_core.dataset`; for a picture judge work/pictures
    work/state_....pt                a training in progress, one for each choice of settings
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch

from saferedir_core.dataset import TrajectoryDataset, merge
from saferedir_core.errors import ConfigError, PairsError
from saferedir_core.pairs import Pair, short, split_pairs, where
from saferedir_core.training import Trained, TrainingConfig, train

from ..drawing import shape_for
from ..guarding.architectures import require_known
from .collect import CollectConfig, collect, token_ids

PARTS = ("training", "validation")
VALIDATION_SEED = 1  # of the images of validation pairs: another family than that of training (0)
SPLIT_SEED = 0  # which groups are for validation; not the training's own seed, so that trajectories are shared


def split(pairs: Sequence[Pair], validation_share: float, source: str | Path) -> dict[str, list[Pair]]:
    """Pairs to learn from and pairs to choose by, named as in PARTS; no group is in both.

    PairsError, naming `source`, unless both have unsafe and harmless prompts.
    """
    try:
        parts = dict(zip(PARTS, split_pairs(pairs, validation_share, SPLIT_SEED)))
    except PairsError as error:
        raise PairsError(f"{source}: {error}") from error
    for name, part in parts.items():
        unsafe = sum(pair.unsafe for pair in part)
        if unsafe in (0, len(part)):
            raise PairsError(f"{source}: {unsafe} of the {len(part)} {name} pairs are unsafe; expected unsafe and "
                             "harmless ones. Add pairs of the missing kind in groups of their own, or change the "
                             "validation share.")
    return parts


def concept_of(pairs: Sequence[Pair], source: str | Path, wanted: str = "") -> tuple[str, list[Pair]]:
    """The concept and its pairs.  ConfigError unless `wanted` is one of the file's, or the file has one only."""
    concepts = list(dict.fromkeys(pair.concept for pair in pairs))
    concept = wanted or concepts[0]
    if concept not in concepts or not wanted and len(concepts) > 1:
        raise ConfigError(f"{source}: holds the concepts {', '.join(map(repr, concepts))} and {wanted or 'none'!r} was "
                          "asked for; expected one of them. Name it.")
    return concept, [pair for pair in pairs if pair.concept == concept]


def require_prompts_fit(clip, pairs: Sequence[Pair], source: str | Path) -> None:
    """PairsError with file and line for the first prompt of more than one chunk of tokens."""
    empty = token_ids(clip, "")[0]
    for pair in pairs:
        for text in (pair.text, pair.safe_text):
            chunks = token_ids(clip, text)
            if len(chunks) > 1:
                count = sum(token not in empty for chunk in chunks for token in chunk)
                raise PairsError(f"{where(source, pair)}: {short(text)} has {count} tokens; expected at most "
                                 f"{len(empty) - 2}, what the model reads at once. Shorten the prompt.")


def collection_of(model, width: int, height: int, **settings) -> CollectConfig:
    """How trajectories of a MODEL are sampled at this size in pixels; settings: others of `CollectConfig`.

    ContextError for a kind of model that is not known here.
    """
    return CollectConfig(shape=shape_for(model, width, height), architecture=require_known(model).name, **settings)


def collect_parts(model, clip, parts: dict[str, list[Pair]], work: Path, config: CollectConfig, *,
                  shard: tuple[int, int] = (0, 1), told: Callable[[str, int, int], None] | None = None) -> None:
    """Collects what is missing of each part.  told(part, shards done, shards in all)."""
    name = model_digest(model, clip)
    for part, pairs in parts.items():
        each = replace(config, seed=config.seed + (VALIDATION_SEED if part == "validation" else 0))
        collect(model, clip, pairs, Path(work) / part, each, name, shard=shard,
                progress=None if told is None else lambda done, total, part=part: told(part, done, total))


def merge_parts(sources: Sequence[Path], work: Path, parts: Iterable[str]) -> None:
    """Brings the trajectories of several work folders together, each collected with its own `shard`."""
    for part in parts:
        merge([Path(source) / part for source in sources], Path(work) / part)


def train_parts(work: Path, config: TrainingConfig, device: torch.device | str = "cpu",
                on_step: Callable[[int, dict[str, float]], None] | None = None) -> Trained:
    """Trains on the collected trajectories; goes on where a training with the same settings was interrupted."""
    training, validation = (TrajectoryDataset(Path(work) / part) for part in PARTS)
    return train(training, validation, config, state=state_file(work, config), device=device, on_step=on_step)


def state_file(work: Path, config: TrainingConfig) -> Path:
    """One for each choice of settings, so that trainings with other seeds can share the trajectories."""
    settings = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:8]
    return Path(work) / f"state_{config.variant}_seed{config.seed}_{settings}.pt"


def provenance(concept: str, architecture: str, model: str, pairs_digest: str, collection: CollectConfig,
               command: str) -> dict[str, str]:
    """Metadata of a trained redirector besides what `Trained.metadata` says."""
    return {"concept": concept, "architecture": architecture, "model": model, "pairs": pairs_digest,
            "conditioning": collection.kind.conditioning, "collection": json.dumps(asdict(collection)),
            "command": command, "date": str(date.today())}


def model_digest(model, clip) -> str:
    """Identifies a MODEL and CLIP, patches (LoRA) included, by some numbers of every weight: 16 hex digits."""
    digest = hashlib.sha256()
    for module in (model.model.diffusion_model, clip.cond_stage_model):
        for name, value in sorted(module.state_dict().items()):
            # These make the pooled output, which nothing here reads, and are left undefined when a file lacks them.
            if not name.endswith(("text_projection.weight", "text_projection", "logit_scale")):
                digest.update(f"{name}{tuple(value.shape)}".encode())
                digest.update(_sampled(value))
    for patcher in (model, clip.patcher):
        for key in sorted(patcher.patches, key=str):
            digest.update(str(key).encode())
            _add_patch(digest, patcher.patches[key])
    return digest.hexdigest()[:16]


def _add_patch(digest, patch) -> None:
    """Numbers, names and some values of the tensors of a host's patch, whatever its kind."""
    if isinstance(patch, torch.Tensor):
        digest.update(_sampled(patch))
    elif isinstance(patch, (list, tuple)):
        for each in patch:
            _add_patch(digest, each)
    elif isinstance(patch, (int, float, str)):
        digest.update(repr(patch).encode())
    elif hasattr(patch, "weights"):
        _add_patch(digest, patch.weights)


def _sampled(value: torch.Tensor) -> bytes:
    """Sixteen numbers of a tensor, spread over it."""
    flat = value.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // 16)][:16].to("cpu", torch.float32).numpy().tobytes()
