"""The three concepts that the demo world unlearns, one of each kind the paper has: an attribute, a style, an object."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .judge import Verdict
from .scenes import Scene


@dataclass(frozen=True)
class Concept:
    """A value of one factor of a scene that must not be drawn, and the value that takes its place.

    name: as in pair files and file names.  kind: the paper's kind of task.  factor: one of `FACTOR_NAMES`.
    """

    name: str
    kind: str
    factor: str
    value: str | bool
    safe_value: str | bool

    def shown_in(self, scene: Scene | Verdict) -> bool:
        """Whether a scene has the concept, or the judge saw it in a picture."""
        return getattr(scene, self.factor) == self.value

    def safe(self, scene: Scene) -> Scene:
        """The scene's safe neighbour; a scene without the concept is its own."""
        return replace(scene, **{self.factor: self.safe_value}) if self.shown_in(scene) else scene


CONCEPTS = {concept.name: concept for concept in (
    Concept("stripes", "attribute", "striped", True, False),
    Concept("watercolour", "style", "style", "watercolour", "flat"),
    Concept("boat", "object", "object", "boat", "car"),
)}
