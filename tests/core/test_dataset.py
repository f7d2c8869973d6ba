import json
from dataclasses import replace

import pytest
import torch

from saferedir_core import TrainingError, dataset
from saferedir_core.dataset import Manifest, Shard, TrajectoryDataset, merge, open_folder, write_shard

MANIFEST = Manifest(pairs="p", model="m", settings={"steps": 3}, count=5, shard=2)


def shard_of(rows, steps=3) -> Shard:
    """Two trajectories of each unsafe pair and one of each harmless one; every latent tells pair, trajectory, step."""
    rows = list(rows)
    pair = torch.tensor([place for place, row in enumerate(rows) for _ in range(2 if row % 2 else 1)])
    latents = torch.stack([torch.full((steps, 4, 2, 2), float(rows[place])) for place in pair])
    latents += torch.arange(steps).reshape(1, steps, 1, 1, 1) / 10
    contexts = torch.tensor(rows, dtype=torch.float32).reshape(-1, 1, 1).expand(-1, 5, 8).clone()
    order = torch.tensor([[1, 0, 2, 3, 4]]).expand(len(rows), -1)
    return Shard(contexts, contexts + torch.arange(5.0)[:, None], order, torch.tensor([row % 2 == 1 for row in rows]),
                 latents.half(), pair, torch.tensor([900.0, 500.0, 100.0]))


@pytest.fixture
def folder(tmp_path):
    """A complete collection: pairs 0 to 4, the odd ones unsafe, two to a shard."""
    open_folder(tmp_path / "all", MANIFEST)
    for index in range(MANIFEST.shards):
        write_shard(tmp_path / "all", index, shard_of(MANIFEST.rows(index)))
    return tmp_path / "all"


def test_a_complete_folder_gives_every_trajectory_back(folder):
    data = TrajectoryDataset(folder)
    assert [*map(len, data._of_pair)] == [1, 2, 1, 2, 1] and len(data) == 5
    assert data.unsafe.tolist() == [False, True, False, True, False]
    assert data.latent(3, 1, 2).unique().tolist() == [pytest.approx(3.2, abs=0.01)]
    assert torch.equal(data.latent(0, 5, 1), data.latent(0, 0, 1))     # it has only one


def test_what_is_missing_is_said_and_filled_in(tmp_path):
    assert open_folder(tmp_path, MANIFEST) == [0, 1, 2]
    write_shard(tmp_path, 1, shard_of(MANIFEST.rows(1)))
    assert open_folder(tmp_path, MANIFEST) == [0, 2]
    with pytest.raises(TrainingError, match="2 of 3 shards are missing; expected all.*goes on where it was"):
        TrajectoryDataset(tmp_path)


def test_a_folder_of_other_trajectories_is_refused(folder):
    with pytest.raises(TrainingError, match="with other pairs, count .*Choose another folder"):
        open_folder(folder, replace(MANIFEST, pairs="q", count=6))


def test_parts_of_several_machines_become_one_folder(folder, tmp_path):
    for part in (0, 1):
        open_folder(tmp_path / f"part{part}", MANIFEST)
        for index in range(part, MANIFEST.shards, 2):
            write_shard(tmp_path / f"part{part}", index, shard_of(MANIFEST.rows(index)))
    parts = [tmp_path / "part0", tmp_path / "part1"]
    assert merge(parts[:1], tmp_path / "merged") == [1]
    assert merge(parts, tmp_path / "merged") == []
    assert torch.equal(TrajectoryDataset(tmp_path / "merged").contexts, TrajectoryDataset(folder).contexts)
    open_folder(tmp_path / "other", replace(MANIFEST, model="n"))
    with pytest.raises(TrainingError, match="other: holds"):
        merge([folder, tmp_path / "other"], tmp_path / "wrong")
    with pytest.raises(TrainingError, match="at least one"):
        merge([], tmp_path / "none")


def test_half_of_the_rows_of_a_batch_are_unsafe(folder):
    batch = TrajectoryDataset(folder).batch(20, torch.Generator().manual_seed(0))
    assert batch.unsafe.sum() == 10 and batch.latent.shape == (20, 4, 2, 2)
    assert torch.equal(batch.latent[:, 0, 0, 0].floor().long() % 2 == 1, batch.unsafe)
    assert set(batch.timestep.tolist()) <= {900.0, 500.0, 100.0}


def test_the_same_seed_gives_the_same_batches(folder):
    first, second = (TrajectoryDataset(folder).batch(8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(value, vars(second)[name]) for name, value in vars(first).items() if value is not None)


def test_runs_hold_every_step_of_a_trajectory_in_order(folder):
    batch = TrajectoryDataset(folder).runs([1, 4])
    assert batch.timestep.tolist() == [900.0, 500.0, 100.0] * 2
    assert [round(value, 1) for value in batch.latent[:, 0, 0, 0].tolist()] == [1.0, 1.1, 1.2, 4.0, 4.1, 4.2]


def test_without_alignment_the_safe_context_is_in_its_own_order(folder):
    aligned, plain = TrajectoryDataset(folder), TrajectoryDataset(folder, aligned=False)
    assert aligned.safe_contexts[2, :, 0].tolist() == [2, 3, 4, 5, 6]
    assert plain.safe_contexts[2, :, 0].tolist() == [3, 2, 4, 5, 6]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 99}', '{"version": 1, "what": 2}'])
def test_a_damaged_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(TrainingError, match="manifest.json: .*Collect"):
        TrajectoryDataset(folder)


def test_a_damaged_shard_is_named_with_the_remedy(folder):
    (folder / "shard_00001.safetensors").write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="shard_00001.safetensors: cannot be read.*Delete this file"):
        TrajectoryDataset(folder)


def test_a_full_disk_leaves_what_is_written_and_no_half_file(folder, monkeypatch):
    def full(content, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    before = sorted(folder.iterdir())
    monkeypatch.setattr(dataset, "save_file", full)
    with pytest.raises(TrainingError, match="No space left on device.*what is written stays"):
        write_shard(folder, 0, shard_of([0, 1]))
    assert sorted(folder.iterdir()) == before and json.loads((folder / "manifest.json").read_text())
