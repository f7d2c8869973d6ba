"""What the benchmark compares, by the names that its tables have."""

from __future__ import annotations

from pathlib import Path

from ...nodes.demo_world.backbone import load_backbone
from ...nodes.evaluation.detectors import DemoDetector
from ...nodes.evaluation.methods import Guarded, Method, Oracle
from ..baselines.baselines import Upstream, all_baselines, concept_words
from ..words.demo_world import TYPED, fitted

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "redirectors"
PUBLISHED, TYPED_WORDS, OURS = "SafeRedir, as published", "SafeRedir, typed words", "SafeRedir, trained"


def published(work: Path, concept: str) -> Path:
    """File of the published design, trained for a concept."""
    return work / "redirectors" / f"{concept}_upstream.safetensors"


def methods(work: Path, concept: str) -> list[Method]:
    """All but the model without a guard, which comes of itself.  What remains in a picture is told, and it leaves."""
    _, clip, _ = load_backbone()
    words = fitted(TYPED[concept], work / "redirectors" / f"{concept}_typed.safetensors", clip)
    return [Oracle(), *all_baselines(concept_words(concept), DemoDetector(concept)),
            Upstream(PUBLISHED, published(work, concept)),
            Guarded(TYPED_WORDS, words),
            Guarded(OURS, SHIPPED / f"demo_{concept}.safetensors")]
