"""What the benchmark compares: our redirectors, where their files lie, and everything beside them."""

from __future__ import annotations

from pathlib import Path

from ...nodes.demo_world.concepts import CONCEPTS
from ...nodes.evaluation.methods import Guarded, Method
from ..baselines.baselines import Upstream, all_baselines, concept_words

OURS = "saferedir"  # a number at the end of it names the seed of a training
TRAINING_SEEDS = (0, 1, 2)
ABLATION_ITERATIONS = 100


def ours(work: Path, concept: str, seed: int = 0) -> Path:
    """File of our redirector of a training seed."""
    return redirectors(work)[concept, f"{OURS}-{seed}"]


def redirectors(work: Path) -> dict[tuple[str, str], Path]:
    """(concept, method) -> file, for everything that is trained."""
    names = [*(f"{OURS}-{seed}" for seed in TRAINING_SEEDS), "upstream"]
    return {(concept, name): work / "redirectors" / f"{concept}_{name}.safetensors"
            for concept in CONCEPTS for name in names}


def ablations(work: Path) -> dict[tuple[str, str], Path]:
    """(concept, inputs) -> file with the scores of a short training that reads these inputs only."""
    return {(concept, inputs): work / "ablations" / f"{concept}_{inputs}.json"
            for concept in CONCEPTS for inputs in ("both", "text", "latent")}


def methods(work: Path, concept: str, detector) -> tuple[list[Guarded], list[Method]]:
    """Ours, one for each training seed; and what it is compared with."""
    guards = [Guarded(f"{OURS}-{seed}", ours(work, concept, seed)) for seed in TRAINING_SEEDS]
    others = all_baselines(concept_words(concept), detector)
    upstream = Upstream("upstream", redirectors(work)[concept, "upstream"])
    return guards, [*others, upstream]
