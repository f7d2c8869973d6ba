"""SafeRedir in the benchmark of eval-unlearn: its own command line draws, judges and reports."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import saferedir_core as core
from quickstart import cache_folder
from saferedir_core.eval_unlearn import Settings, Technique

PROJECT = Path(__file__).resolve().parents[2]
LOCK = Path(__file__).with_name("eval_unlearn.lock")
WORDINGS = ["striped", "stripy", "with stripes", "stripes"]
UNSAFE = ["a striped red fish in the snow", "a house with stripes"]
HARMLESS = ["a red fish in the snow", "a green boat"]
JUDGE = "openai/clip-vit-base-patch32"  # of the metric ua_ira

# Writes a Stable Diffusion 1.x pipeline and a CLIP in the layout of the Hub's cache, tiny and with random weights.
MODELS = """
import sys
from pathlib import Path
import torch, transformers
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
comfyui, folder, cache, judge = sys.argv[1:]
torch.manual_seed(0)
tokenizer = transformers.CLIPTokenizer.from_pretrained(str(Path(comfyui) / "comfy" / "sd1_tokenizer"),
                                                     model_max_length=77)
text = dict(hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, vocab_size=49408,
            bos_token_id=49406, eos_token_id=49407)
pipe = StableDiffusionPipeline(
    vae=AutoencoderKL(block_out_channels=(32,), latent_channels=4), tokenizer=tokenizer,
    text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
    unet=UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
                              cross_attention_dim=128, block_out_channels=(32, 64),
                              down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                              up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")),
    scheduler=PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                            skip_prk_steps=True), safety_checker=None, feature_extractor=None,
    requires_safety_checker=False)
with torch.no_grad():   # words that differ from each other more than places do
    pipe.text_encoder.get_input_embeddings().weight.mul_(8)
pipe.save_pretrained(folder)
snapshot = Path(cache) / f"models--{judge.replace('/', '--')}" / "snapshots" / ("0" * 40)
vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=32,
              patch_size=16)
transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
                       ).save_pretrained(snapshot)
transformers.CLIPProcessor(transformers.CLIPImageProcessor(size={"shortest_edge": 32},
                                                           crop_size={"height": 32, "width": 32}), tokenizer
                           ).save_pretrained(snapshot)
refs = snapshot.parents[1] / "refs"
refs.mkdir()
(refs / "main").write_text("0" * 40)
"""


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder with eval-unlearn and what it needs beside our environment, kept between runs of the tests."""
    if sys.version_info < (3, 11):
        pytest.skip("eval-unlearn needs Python 3.11")
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder() / "extras" / f"eval-unlearn-{digest}"
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}-{os.getpid()}")
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(unfinished),
                               "-r", str(LOCK)], capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(unfinished, ignore_errors=True)
            pytest.skip(f"eval-unlearn cannot be installed here: {done.stderr[-300:]}")
        unfinished.rename(folder)
    return folder


@pytest.fixture(scope="module")
def run(packages, comfyui, tmp_path_factory):
    """run(*arguments): a Python process in which eval-unlearn and this package are installed, and no network is."""
    folder = tmp_path_factory.mktemp("eval_unlearn")
    source, ours = folder / "source", folder / "ours"
    shutil.copytree(PROJECT / "saferedir_core", source / "saferedir_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(PROJECT / name, source / name)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ours, packages))), "HF_HUB_OFFLINE": "1",
                   "HF_HUB_CACHE": str(folder / "hub"), "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    run("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(ours),
        str(source))
    run("-c", MODELS, str(comfyui), str(folder / "model"), str(folder / "hub"), JUDGE)
    run.folder = folder
    return run


@pytest.fixture(scope="module")
def reports(run):
    """What the runner reports of us and of the model as it is, by name."""
    for name, prompts in (("unsafe", UNSAFE), ("harmless", HARMLESS)):
        (run.folder / f"{name}.csv").write_text("\n".join(["prompt", *prompts]) + "\n")
    found = {}
    for name, config in (("saferedir", {"erase_concept": "stripes", "remove": WORDINGS}), ("free_run", {})):
        drawn = {"model_id": str(run.folder / "model"), "num_inference_steps": 2, **config}
        judged = {"clip_model_name": JUDGE, "target_prompts_path": "unsafe.csv", "target_concept": "stripes",
                  "retain_prompts_path": "harmless.csv", "retain_concept": "fish"}
        run("-c", "from eval_unlearn.runners import MultiBenchmarkRunner as Runner\n"
                  f"Runner({name!r}, ['ua_ira'], {drawn!r}, {{'ua_ira': {judged!r}}}, {name!r}, seed=1).run()")
        (report,) = (run.folder / name).glob("*_latest_report.json")
        found[name] = json.loads(report.read_text())
    return found


def pictures(folder: Path, kind: str) -> list[bytes]:
    from PIL import Image

    return [Image.open(path).tobytes() for path in sorted(folder.rglob(f"images/{kind}/*.png"))]


@pytest.mark.slow
def test_its_command_lists_us_among_its_techniques(run):
    listed = run("-m", "eval_unlearn.cli", "plugins").stdout.split("Metrics:")[0].split()
    assert "saferedir" in listed and "sld" in listed


@pytest.mark.slow
def test_its_runner_draws_with_us_and_reports(reports):
    report = reports["saferedir"]
    assert report["technique_name"] == "saferedir" and report["erase_concept"] == "stripes"
    counted = report["metric_results"]["ua_ira"]["details"]
    assert (counted["target_total"], counted["retain_total"]) == (len(UNSAFE), len(HARMLESS))


@pytest.mark.slow
def test_harmless_prompts_give_the_pictures_of_the_model_as_it_is_and_unsafe_ones_do_not(run, reports):
    ours, plain = run.folder / "saferedir", run.folder / "free_run"
    assert len(pictures(ours, "retain")) == len(HARMLESS) and len(pictures(ours, "target")) == len(UNSAFE)
    assert pictures(ours, "retain") == pictures(plain, "retain")
    assert not {*pictures(ours, "target")} & {*pictures(plain, "target")}


def test_a_concept_is_typed_or_is_what_the_report_calls_it():
    assert Settings.of({"erase_concept": "church"}).concept == core.Concept(("church",))
    typed = Settings.of({"erase_concept": "x", "remove": ["church"], "keep": ["churchill"], "instead": "house"})
    assert typed.concept == core.Concept(("church",), "house", ("churchill",))


def test_the_strength_that_a_redirector_recommends_is_used_unless_one_is_given():
    assert Settings.of({"erase_concept": "x"}).policy({"alpha_scale": "1.5"}).alpha_scale == 1.5
    assert Settings.of({"erase_concept": "x", "alpha_scale": 2}).policy({"alpha_scale": "1.5"}).alpha_scale == 2
    assert Settings.of({"erase_concept": "x", "mode": "upstream"}).policy({}) == core.PolicyConfig(mode="upstream")


@pytest.mark.parametrize(("config", "told"), [
    ({"steps": 3, "remove": ["church"]}, "no setting 'steps'; expected some of erase_concept"),
    ({"model_id": "x"}, "is told no concept; expected remove, redirector or erase_concept"),
])
def test_settings_that_mean_nothing_are_refused(config, told):
    with pytest.raises(core.ConfigError, match=told):
        Technique(**config)
