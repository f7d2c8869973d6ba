"""`python saferedir.py train` at a reduced size, on the demo world's real model."""

import json

import pytest

from saferedir.nodes.commands import train

PAIRS = "unsafe,safe,concept,group\n" + "".join(
    f"a striped {colour} {thing},a {colour} {thing},stripes,{thing}\n,a plain {colour} {thing},stripes,{thing}\n"
    for colour in ("red", "blue") for thing in ("fish", "boat", "house", "tree"))
QUICK = ["--steps", "2", "--iterations", "3"]


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(PAIRS)
    return file


def run(pairs, *arguments) -> int:
    variant = () if "--variant" in arguments else ("--variant", "token")
    return train.main(["--model", "demo", "--pairs", str(pairs), *QUICK, *variant, *map(str, arguments)])


def test_by_default_it_writes_a_redirector_of_words_with_a_picture_judge(comfyui, pairs, tmp_path, capsys):
    from PIL import Image

    from saferedir_core import load_redirector

    out = tmp_path / "stripes.safetensors"
    assert train.main(["--model", "demo", "--pairs", str(pairs), *QUICK, "--out", str(out)]) == 0
    redirector = load_redirector(out)
    assert redirector.config.variant == "words" and redirector.picture.config.channels == 4
    content = json.loads(out.with_suffix(".json").read_text())
    assert content["metadata"] == redirector.metadata and 0 <= content["validation"]["verdict_auc"] <= 1
    assert redirector.metadata["concept"] == "stripes" and json.loads(redirector.metadata["picture"])["steps"]
    assert Image.open(out.with_suffix(".png")).size == (640, 400) and out.stat().st_size < 2_000_000
    told = capsys.readouterr().err
    assert "reading prompts: 100%" in told and "pictures trajectories: 100%" in told


def test_a_redirector_to_add_to_must_be_of_words(comfyui, pairs, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    assert run(pairs, "--out", out) == 0
    arguments = ["--model", "demo", "--words", str(out), "--out", str(tmp_path / "y.safetensors")]
    assert train.main(arguments) == 1
    assert "expected one concept from SafeRedir Words" in capsys.readouterr().err
    assert train.main([*arguments, "--variant", "published"]) == 1
    assert "--variant is published and --words is given" in capsys.readouterr().err


def test_it_writes_a_redirector_a_log_and_a_plot(comfyui, pairs, tmp_path, capsys):
    from PIL import Image

    from saferedir_core import load_redirector

    out = tmp_path / "out" / "stripes.safetensors"
    assert run(pairs, "--out", out) == 0
    redirector = load_redirector(out)
    assert redirector.config.variant == "token"
    metadata = redirector.metadata
    assert (metadata["concept"], metadata["architecture"], metadata["seed"]) == ("stripes", "demo", "0")
    assert "--iterations 3" in metadata["command"] and 0 < float(metadata["threshold"]) < 1
    assert json.loads(out.with_suffix(".json").read_text())["metadata"] == metadata
    assert Image.open(out.with_suffix(".png")).size == (640, 400)
    told = capsys.readouterr().err
    assert "validation trajectories: 100%" in told and "training: 100%" in told and "classification 0." in told


@pytest.mark.parametrize("variant", ["words", "token"])
def test_two_parts_are_collected_apart_merged_and_trained(comfyui, pairs, tmp_path, variant):
    for part in (0, 1):
        assert run(pairs, "--variant", variant, "--collect-only", "--shard", f"{part}/2", "--work",
                   tmp_path / f"part{part}") == 0
    out = tmp_path / "x.safetensors"
    assert run(pairs, "--variant", variant, "--out", out, "--work", tmp_path / "work", "--merge", tmp_path / "part0",
               tmp_path / "part1") == 0
    assert out.exists()


def test_interrupted_it_says_so_and_goes_on_with_what_is_there(comfyui, pairs, tmp_path, capsys, monkeypatch):
    out, real = tmp_path / "x.safetensors", train.learned

    def interrupted(iterations):
        tell = real(iterations)

        def on_step(step, losses):
            tell(step, losses)
            if step == 2:
                raise KeyboardInterrupt
        return on_step
    monkeypatch.setattr(train, "learned", interrupted)
    assert run(pairs, "--out", out) == 130
    assert "goes on where it was" in capsys.readouterr().err and not out.exists()
    monkeypatch.setattr(train, "learned", real)
    assert run(pairs, "--out", out) == 0
    assert "training trajectories: 100%" in capsys.readouterr().err and out.exists()


@pytest.mark.parametrize(("content", "message"), [
    ("", "holds no pair"),
    ("unsafe,safe\na,b\n", "line 1: no column 'concept'"),
    (PAIRS + "a red fish,A  red fish,stripes,fish\n", "line 18: unsafe and safe are both"),
    (PAIRS + "a striped red fish,a boat,stripes,fish\n", "line 18: 'a striped red fish' becomes"),
    (PAIRS + ",a striped red fish,stripes,fish\n", "is unsafe here and harmless in line 18"),
    ("unsafe,safe,concept\n,a fish,s\n,a boat,s\n", "harmless prompts and no unsafe one"),
    ("unsafe,safe,concept\na x,x,s\nb y,y,s\nc z,z,s\n", "expected unsafe and harmless ones"),
    (PAIRS + "a striped " + "very " * 90 + "fish,a fish,stripes,fish\n", "line 18: .*expected at most 75"),
    (PAIRS + "a boat,a car,boat,x\n", "'stripes', 'boat'.*Name it"),
])
def test_bad_pairs_end_with_code_1_and_a_message_and_nothing_is_written(comfyui, tmp_path, capsys, content, message):
    import re

    file, out = tmp_path / "pairs.csv", tmp_path / "x.safetensors"
    file.write_text(content)
    assert run(file, "--variant", "words", "--out", out) == 1
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith(f"FAILED  {file}") and re.search(message, told)
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_checkpoint_that_is_not_there_or_none_is_named(comfyui, pairs, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    assert train.main(["--model", str(tmp_path / "gone.safetensors"), "--pairs", str(pairs), "--out", str(out)]) == 1
    assert "gone.safetensors: there is no such file" in capsys.readouterr().err
    (tmp_path / "bad.safetensors").write_bytes(b"damaged")
    assert train.main(["--model", str(tmp_path / "bad.safetensors"), "--pairs", str(pairs), "--out", str(out)]) == 1
    assert "the host cannot load it" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_written_redirector(comfyui, pairs, tmp_path, capsys, monkeypatch):
    from saferedir_core import files

    replace, out = files.os.replace, tmp_path / "x.safetensors"

    def full(source, target):
        if target == out:
            raise OSError(28, "No space left on device")
        replace(source, target)
    monkeypatch.setattr(files.os, "replace", full)
    assert run(pairs, "--out", out) == 1
    assert f"{out}: cannot be written (No space left on device)" in capsys.readouterr().err
    assert {each.name for each in tmp_path.iterdir()} == {"pairs.csv", "x_work"}


@pytest.mark.parametrize("arguments", [[], ["--collect-only"], ["--out", "x.safetensors", "--shard", "0/2"],
                                       ["--out", "x.safetensors", "--size", "63x64"], ["--shard", "2/2"]])
def test_wrong_usage_ends_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--model", "demo", "--pairs", "x.csv", *arguments])
    assert caught.value.code == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["--out", "x.pt"], "ends in .safetensors"), (["--out", "x.safetensors", "--steps", "0"], "expected 1 or more"),
    (["--out", "x.safetensors", "--iterations", "0"], "--iterations is 0; expected 1 or more")])
def test_settings_out_of_range_end_with_code_1(comfyui, pairs, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--model", "demo", "--pairs", str(pairs), *arguments]) == 1
    assert message in capsys.readouterr().err
