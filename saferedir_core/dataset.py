"""Sampled trajectories on disk: what a redirector is trained on.

    folder/manifest.json                 what the trajectories are of; a folder that holds others is refused
    folder/shard_00003.safetensors       one part of the pairs

Each shard is written whole, so a killed collection goes on where it was; several machines can fill one folder each with
some of the shards (`merge` brings them together).  Shards are memory-mapped: what is not read needs no memory.
B: batch, P: pairs, M: trajectories, S: steps, T: tokens, D: prompt width.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saferedir_core.architecture import USUAL
from saferedir_core.errors import TrainingError
from saferedir_core.files import write_whole, written_whole
from saferedir_core.picture.fit import Pictures

MANIFEST = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a folder of trajectories is of.

    pairs      digest of the pairs, in order
    model      name of the diffusion model, as the user gave it
    settings   how they were sampled (steps, cfg, sampler, ...)
    count      pairs in all
    shard      pairs in one shard
    version    of this format
    """

    pairs: str
    model: str
    settings: dict
    count: int
    shard: int
    version: int = VERSION

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard)

    def rows(self, index: int) -> range:
        """The pairs in one shard."""
        return range(index * self.shard, min(self.count, (index + 1) * self.shard))


@dataclass(frozen=True)
class Shard:
    """The trajectories of some pairs.

    contexts, safe_contexts  (P, T, D), the safe one aligned with the other (see `alignment`)
    order                    (P, T) that alignment: token i of the aligned context is token order[i] of the safe prompt
    unsafe                   (P,) bool; a harmless pair has equal contexts
    latents                  (M, S, C, h, w), of unit variance as the diffusion model sees them; of a collection for a
                             picture judge what it predicts the clean latent to be (x0)
    pair                     (M,) which of the P pairs a trajectory belongs to
    timesteps                (S,), in the units of the training schedule
    pooled, safe_pooled      (P, W) the pooled vectors of a model that reads one, else None
    sigmas                   (S,) noise level of every x0 in the model's own schedule; None of other collections
    """

    contexts: Tensor
    safe_contexts: Tensor
    order: Tensor
    unsafe: Tensor
    latents: Tensor
    pair: Tensor
    timesteps: Tensor
    pooled: Tensor | None = None
    safe_pooled: Tensor | None = None
    sigmas: Tensor | None = None


def open_folder(folder: Path, manifest: Manifest) -> list[int]:
    """Makes the folder, or goes on in one with the same manifest; returns the shards that are not there yet.

    TrainingError when it holds trajectories of something else, or cannot be written.
    """
    file = folder / MANIFEST
    if file.exists():
        known = _read_manifest(file)
        if known != manifest:
            differing = [name for name in asdict(manifest) if getattr(known, name) != getattr(manifest, name)]
            raise TrainingError(f"{folder}: holds trajectories with other {', '.join(differing)} (there: "
                                f"{getattr(known, differing[0])}, now: {getattr(manifest, differing[0])}); expected "
                                "the same. Choose another folder, or delete this one.")
    else:
        with _clear_errors(folder):
            write_whole(file, json.dumps(asdict(manifest), indent=1))
    return [index for index in range(manifest.shards) if not _shard_file(folder, index).exists()]


def write_shard(folder: Path, index: int, shard: Shard) -> None:
    """One shard, whole or not at all.  TrainingError when the disk is full; the shards so far stay."""
    with _clear_errors(folder):
        tensors = {name: value.contiguous() for name, value in vars(shard).items() if value is not None}
        with written_whole(_shard_file(folder, index)) as unfinished:
            save_file(tensors, unfinished)


def merge(sources: Sequence[Path], folder: Path) -> list[int]:
    """Copies the shards of several folders of one collection into one; returns the shards that are still missing."""
    if not sources:
        raise TrainingError("No folders were given to merge; expected at least one. Name the folders of the parts.")
    manifest = _read_manifest(Path(sources[0]) / MANIFEST)
    for source in map(Path, sources):
        missing = set(open_folder(folder, manifest))
        if _read_manifest(source / MANIFEST) != manifest:
            raise TrainingError(f"{source}: holds another collection than {sources[0]}; expected parts of the same. "
                                "Collect both parts with the same pairs, model and settings.")
        for index in missing:
            if _shard_file(source, index).exists():
                with _clear_errors(folder), written_whole(_shard_file(folder, index)) as unfinished:
                    shutil.copyfile(_shard_file(source, index), unfinished)
    return open_folder(folder, manifest)


@dataclass(frozen=True)
class Batch:
    """Rows to learn from.  latent (B, C, h, w), timestep (B,), context and safe_context (B, T, D), unsafe (B,) bool.

    pooled and safe_pooled (B, W), of a model that reads a pooled vector, else None.
    """

    latent: Tensor
    timestep: Tensor
    context: Tensor
    safe_context: Tensor
    unsafe: Tensor
    pooled: Tensor | None = None
    safe_pooled: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        return self.map(lambda value: value.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(*(None if value is None else change(value) for value in vars(self).values()))


class TrajectoryDataset:
    """All trajectories of a complete folder.

    aligned: False puts the safe contexts back into the order of their own prompts, as a training without alignment
    (position by position) would see them; for comparisons.
    TrainingError when the folder is not one, or some shards are missing.
    """

    def __init__(self, folder: Path, aligned: bool = True):
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder / MANIFEST)
        missing = open_folder(self.folder, self.manifest)
        if missing:
            raise TrainingError(f"{folder}: {len(missing)} of {self.manifest.shards} shards are missing; expected "
                                "all. Run the collection again, it goes on where it was; or merge the parts of the "
                                "other machines.")
        self._shards = [_read_shard(_shard_file(self.folder, index)) for index in range(self.manifest.shards)]
        self.contexts = torch.cat([shard.contexts for shard in self._shards]).float()
        self.safe_contexts = torch.cat([shard.safe_contexts for shard in self._shards]).float()
        if not aligned:
            order = torch.cat([shard.order for shard in self._shards])
            self.safe_contexts = torch.empty_like(self.safe_contexts).scatter_(
                1, order[..., None].expand_as(self.safe_contexts), self.safe_contexts)
        self.unsafe = torch.cat([shard.unsafe for shard in self._shards])
        self.pooled, self.safe_pooled = (
            None if getattr(self._shards[0], name) is None
            else torch.cat([getattr(shard, name) for shard in self._shards]).float()
            for name in ("pooled", "safe_pooled"))
        self.timesteps = self._shards[0].timesteps
        starts = range(0, self.manifest.count, self.manifest.shard)
        # (shard, row) of every trajectory, by pair
        self._of_pair: list[list[tuple[int, int]]] = [[] for _ in range(len(self.contexts))]
        for number, (shard, start) in enumerate(zip(self._shards, starts, strict=True)):
            for row, pair in enumerate(shard.pair.tolist()):
                self._of_pair[start + pair].append((number, row))

    def __len__(self) -> int:
        """Pairs."""
        return len(self.contexts)

    @property
    def architecture(self) -> str:
        """Name of the model's kind."""
        return self.manifest.settings.get("architecture", USUAL)

    @property
    def tokens(self) -> int:
        """Tokens that are judged together; contexts have one or more such chunks, of one text encoder each."""
        return self.manifest.settings.get("tokens", self.contexts.shape[1])

    def pictures(self) -> Pictures:
        """What a picture judge learns from; those of one pair are one group.

        TrainingError for a collection that holds no x0.
        """
        sigmas = self._shards[0].sigmas
        if sigmas is None:
            raise TrainingError(f"{self.folder}: holds noisy latents; expected predicted clean ones. Collect them for "
                                "the variant 'words', in another folder.")
        # An unsafe pair's trajectories take turns: with its own context, with the safe one.
        rows = [(self._shards[number].latents[row], pair, bool(self.unsafe[pair]) and at % 2 == 0)
                for pair, known in enumerate(self._of_pair) for at, (number, row) in enumerate(known)]
        x0, groups, unsafe = zip(*rows)
        return Pictures(torch.stack(x0), sigmas, torch.tensor(unsafe), torch.tensor(groups))

    def latent(self, pair: int, trajectory: int, step: int) -> Tensor:
        """(C, h, w), float32.  trajectory counts the pair's own ones."""
        known = self._of_pair[pair]
        number, row = known[trajectory % len(known)]
        return self._shards[number].latents[row, step].float()

    def batch(self, size: int, random: torch.Generator) -> Batch:
        """Random rows at random steps of random trajectories.

        Half of the rows are unsafe, whatever their share in the folder is.
        """
        kinds = (self.unsafe.nonzero().flatten(), (~self.unsafe).nonzero().flatten())
        rows = torch.cat([kind[torch.randint(len(kind), (part,), generator=random)]
                          for kind, part in zip(kinds, (size // 2, size - size // 2)) if len(kind)])
        steps = torch.randint(len(self.timesteps), (len(rows),), generator=random)
        trajectories = torch.randint(2**31 - 1, (len(rows),), generator=random)
        latent = torch.stack([self.latent(pair, trajectory, step) for pair, trajectory, step
                              in zip(rows.tolist(), trajectories.tolist(), steps.tolist())])
        return self._batch(latent, steps, rows, random)

    def runs(self, pairs: Iterable[int]) -> Batch:
        """Every step of the first trajectory of each pair, one after the other: (pairs * S) rows."""
        rows = torch.tensor(list(pairs)).repeat_interleave(len(self.timesteps))
        steps = list(range(len(self.timesteps))) * (len(rows) // len(self.timesteps))
        latent = torch.stack([self.latent(pair, 0, step) for pair, step in zip(rows.tolist(), steps)])
        return self._batch(latent, torch.tensor(steps), rows, torch.Generator().manual_seed(0))

    def _batch(self, latent: Tensor, steps: Tensor, rows: Tensor, random: torch.Generator) -> Batch:
        context, safe_context = self.contexts[rows], self.safe_contexts[rows]
        chunks = context.shape[1] // self.tokens
        if chunks > 1:  # a random chunk of each
            chunk = torch.randint(chunks, (len(rows),), generator=random)
            context, safe_context = (each.unflatten(1, (chunks, self.tokens))[torch.arange(len(rows)), chunk]
                                     for each in (context, safe_context))
        pooled, safe_pooled = (None if each is None else each[rows] for each in (self.pooled, self.safe_pooled))
        return Batch(latent, self.timesteps[steps], context, safe_context, self.unsafe[rows], pooled, safe_pooled)


def _shard_file(folder: Path, index: int) -> Path:
    return Path(folder) / f"shard_{index:05d}.safetensors"


def _read_manifest(file: Path) -> Manifest:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("version") != VERSION:
            raise TrainingError(f"{file}: format version {content.get('version')}; this version reads {VERSION}. "
                                "Collect the trajectories again.")
        return Manifest(**content)
    except FileNotFoundError as error:
        raise TrainingError(f"{file}: there is no such file; expected a folder of collected trajectories. Collect them "
                            "first.") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(f"{file}: cannot be read ({error}); expected the manifest of collected trajectories. "
                            "Collect them again.") from error


def _read_shard(file: Path) -> Shard:
    try:
        return Shard(**load_file(file))
    except (OSError, safetensors.SafetensorError, TypeError) as error:
        raise TrainingError(f"{file}: cannot be read ({error}); expected a shard of trajectories. Delete this file and "
                            "run the collection again, it makes only what is missing.") from error


@contextlib.contextmanager
def _clear_errors(folder: Path):
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"{folder}: cannot be written ({reason}); expected a folder with space. Free some space or "
                            "choose another folder, then run again: what is written stays and is not made "
                            "twice.") from error
