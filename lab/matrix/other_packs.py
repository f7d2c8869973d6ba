"""Other packs beside ours, in one real server on loopback: do they start, and is a run through their nodes guarded?

    python quickstart.py run lab/matrix/other_packs.py FOLDER [--pack NAME ...] [--again]

FOLDER holds the packs, each in a folder of its own, as custom_nodes does; what they need must be installed (`--comfyui`
and `--python` name a ComfyUI that has it).  Nothing of them is copied into the project, and none of them gets to the
internet.  Goes on where it was interrupted, and writes docs/other-packs.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from saferedir_core.files import write_whole
from saferedir_core.metrics import table

from ...nodes.demo_world.backbone import load_backbone
from ...nodes.demo_world.scenes import SIZE
from ..host.client import ComfyClient
from ..host.server import PACK_FOLDER, link_folder, own_server, remove_link
from .cases import (
    CFG,
    OTHER,
    SEED,
    STEPS,
    Case,
    World,
    clip_cases,
    conditioning_cases,
    guider_cases,
    nodes_to,
    patch_cases,
)
from .extras import make_extras
from .graph import Ref, filled, inputs_of, names_of_type
from .run import read, run_one
from .runner import GUARDED, NOT_HERE, Row, Runner
from .table import rows_table

PROJECT = Path(__file__).resolve().parents[2]
OUTPUT = PROJECT / "output" / "other-packs"
PAGE = PROJECT / "docs" / "other-packs.md"
COMPILES = "TorchCompile"    # in a node's name: minutes a graph on a CPU; the matrix has the host's own
DEAD_PROXY = "http://127.0.0.1:9"       # what they would fetch does not come
SAMPLING = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
INTRODUCTION = """# Beside other packs

ComfyUI {version} with SafeRedir and {count} other packs in one server, on the demo world. The command that wrote this
page, in a clone, with the packs in a folder:

    python quickstart.py run lab/matrix/other_packs.py FOLDER

A pack's nodes are put into graphs as in [the matrix](matrix.md), whose columns the tables have: what the pack is known
for, and every node of it that takes a MODEL, a CLIP or a CONDITIONING and gives one, that makes a GUIDER or a SAMPLER,
or that samples. What needs other weights than the demo model's is named below each table.
"""


@dataclass(frozen=True)
class Pack:
    """folder: its name in custom_nodes.  typical: cases of what it is known for.  needs: what was not run, and why."""

    folder: str
    typical: Callable[[Mapping], Iterator[Case]] = lambda about: iter(())
    needs: str = ""


def impact(about) -> Iterator[Case]:
    def pipe(world: World) -> Ref:
        return world.graph.add("ToBasicPipe", model=world.guard(), clip=world.clip, vae=world.vae,
                               positive=world.say(), negative=world.say(""))

    def sampled(world: World) -> Ref:
        return world.node("ImpactKSamplerBasicPipe", "LATENT", basic_pipe=pipe(world), latent_image=world.empty(),
                          **SAMPLING)

    def detailed(world: World) -> Ref:
        start = world.graph.add("EmptyImage", width=SIZE, height=SIZE, batch_size=1, color=8421504)
        mask = world.graph.add("SolidMask", value=1.0, width=SIZE, height=SIZE)
        regions = world.node("MaskToSEGS", "SEGS", mask=mask, crop_factor=1.0, drop_size=1)
        images = world.node("DetailerForEach", "IMAGE", image=start, segs=regions, model=world.guard(), clip=world.clip,
                            vae=world.vae, guide_size=SIZE, max_size=SIZE, positive=world.say(), negative=world.say(""),
                            feather=0, wildcard="", **SAMPLING)
        return world.graph.add("VAEEncode", pixels=images, vae=world.vae)

    def wildcards(world: World) -> Ref:
        node = world.node("ImpactWildcardEncode", "MODEL", model=world.guard(), clip=world.clip, seed=SEED,
                          wildcard_text=world.text, populated_text=world.text, mode=False)
        return world.sample(model=node, positive=[node[0], 2])

    yield Case("ComfyUI-Impact-Pack", "ToBasicPipe, KSampler (pipe)", sampled)
    yield Case("ComfyUI-Impact-Pack", "Detailer (SEGS) over a mask of all", detailed)
    yield Case("ComfyUI-Impact-Pack", "ImpactWildcardEncode", wildcards)


def animatediff(about) -> Iterator[Case]:
    def windows(world: World, kind: str) -> Ref:
        options = world.node(kind, "CONTEXT_OPTIONS", context_length=2, context_overlap=1)
        return world.sample(model=world.guard(world.node("ADE_UseEvolvedSampling", "MODEL", context_options=options)))

    for kind in ("ADE_StandardUniformContextOptions", "ADE_LoopedUniformContextOptions"):
        yield Case("ComfyUI-AnimateDiff-Evolved", f"ADE_UseEvolvedSampling, {kind}", partial(windows, kind=kind))
    yield Case("ComfyUI-AnimateDiff-Evolved", "ADE_PromptScheduling", lambda world: world.sample(positive=world.node(
        "ADE_PromptScheduling", "CONDITIONING", prompts=f'"0": "{OTHER}", "2": "{world.text}"', clip=world.clip)))


def controlnet(about) -> Iterator[Case]:
    def applied(world: World) -> Ref:
        loaded = world.graph.add("ControlNetLoader", control_net_name="matrix_controlnet.safetensors")
        node = world.node("ACN_AdvancedControlNetApply_v2", "CONDITIONING", positive=world.say(),
                          negative=world.say(""), control_net=loaded)
        return world.sample(positive=node, negative=[node[0], 1])

    yield Case("ComfyUI-Advanced-ControlNet", "ACN_AdvancedControlNetApply_v2", applied)


def prompt_control(about) -> Iterator[Case]:
    pack = "comfyui-prompt-control"
    ways = {"plain": "{0}", "weights": "({0}:1.3)", "AND": "{1} AND {0}", "BREAK": "{1} BREAK {0}",
            "a region, COUPLE": "{1} COUPLE(0 1, 0 1) {0}", "a mask, MASK": "{1} AND {0} MASK(0 1, 0 1)"}
    for name, said in ways.items():
        yield Case(pack, f"PCTextEncode, {name}", lambda world, said=said: world.sample(positive=world.node(
            "PCTextEncode", "CONDITIONING", clip=world.clip, text=said.format(world.text, OTHER))))
    yield Case(pack, "PCLazyTextEncode, a schedule", lambda world: world.sample(positive=world.node(
        "PCLazyTextEncode", "CONDITIONING", clip=world.clip, text=f"[{OTHER}:{world.text}:0.3]")))


def ppm(about) -> Iterator[Case]:
    def negpip(world: World) -> Ref:
        node = world.node("CLIPNegPip", "MODEL")
        clip = [node[0], 1]
        return world.sample(model=world.guard(node), positive=world.say(clip=clip), negative=world.say("", clip=clip))

    def couple(world: World) -> Ref:
        whole = world.graph.add("SolidMask", value=1.0, width=SIZE, height=SIZE)
        node = world.graph.add("AttentionCouplePPM", model=world.guard(), base_cond=world.say(OTHER), base_mask=whole,
                               cond_1=world.say(), mask_1=whole)
        return world.sample(model=node, positive=world.say(OTHER))

    yield Case("ComfyUI-ppm", "CLIPNegPip, guard last", negpip)
    yield Case("ComfyUI-ppm", "AttentionCouplePPM", couple, concept="a region's prompt")


def tiled(about) -> Iterator[Case]:
    for method in ("MultiDiffusion", "Mixture of Diffusers", "SpotDiffusion"):
        yield Case("ComfyUI-TiledDiffusion", f"TiledDiffusion, {method}", lambda world, method=method: world.sample(
            model=world.guard(world.node("TiledDiffusion", "MODEL", method=method, tile_width=48, tile_height=48,
                                         tile_overlap=32))))


def upscale(about) -> Iterator[Case]:
    def redrawn(world: World) -> Ref:
        start = world.graph.add("EmptyImage", width=SIZE, height=SIZE, batch_size=1, color=8421504)
        images = world.node("UltimateSDUpscaleNoUpscale", "IMAGE", upscaled_image=start, model=world.guard(),
                            vae=world.vae, positive=world.say(), negative=world.say(""), tile_width=SIZE,
                            tile_height=SIZE, tile_padding=0, mask_blur=0, seam_fix_mode="None", **SAMPLING)
        return world.graph.add("VAEEncode", pixels=images, vae=world.vae)

    yield Case("ComfyUI_UltimateSDUpscale", "UltimateSDUpscaleNoUpscale", redrawn)


def efficiency(about) -> Iterator[Case]:
    def sampled(world: World) -> Ref:
        return world.node("KSampler (Efficient)", "LATENT", model=world.guard(), positive=world.say(),
                          negative=world.say(""), latent_image=world.empty(), preview_method="none", vae_decode="false",
                          **SAMPLING)

    yield Case("efficiency-nodes-comfyui", "KSampler (Efficient)", sampled)


def rgthree(about) -> Iterator[Case]:
    pack = "rgthree-comfy"

    def context(world: World) -> Ref:
        node = world.graph.add("Context (rgthree)", model=world.guard(), positive=world.say(), negative=world.say(""),
                               latent=world.empty())
        slots = about["Context (rgthree)"]["output"]
        model, latent = ([node[0], slots.index(kind)] for kind in ("MODEL", "LATENT"))
        prompts = [[node[0], slot] for slot, kind in enumerate(slots) if kind == "CONDITIONING"]
        return world.sample(model=model, positive=prompts[0], negative=prompts[1], latent=latent)

    yield Case(pack, "Context (rgthree)", context)
    yield Case(pack, "Power Prompt (rgthree)", lambda world: world.sample(positive=world.node(
        "Power Prompt (rgthree)", "CONDITIONING", prompt=world.text, opt_clip=world.clip, opt_model=world.model)))


PACKS = (
    Pack("ComfyUI-Impact-Pack", impact, "detectors and SAM: weights of their own"),
    Pack("ComfyUI-Advanced-ControlNet", controlnet, "SparseCtrl and reference networks: weights of their own"),
    Pack("ComfyUI-AnimateDiff-Evolved", animatediff, "motion models: weights for Stable Diffusion 1.5 or XL"),
    Pack("ComfyUI_IPAdapter_plus", needs="IP-Adapters and a vision encoder: weights for Stable Diffusion 1.5 or XL"),
    Pack("comfyui-prompt-control", prompt_control),
    Pack("ComfyUI-ppm", ppm),
    Pack("ComfyUI-TiledDiffusion", tiled),
    Pack("ComfyUI_UltimateSDUpscale", upscale, "UltimateSDUpscale itself: weights of an upscaler"),
    Pack("efficiency-nodes-comfyui", efficiency, "Efficient Loader: a checkpoint's file"),
    Pack("rgthree-comfy", rgthree),
    Pack("ComfyUI-KJNodes", needs="those for Flux, Wan, LTX and more: their weights; those that compile: time"),
)


def cases_of(pack: Pack, about: Mapping[str, dict]) -> list[Case]:
    """The typical ones, then each node of the pack that changes or makes something which is sampled with."""
    own = {name: node for name, node in about.items() if node.get("python_module") == f"custom_nodes.{pack.folder}"
           and COMPILES not in name}
    made = (*patch_cases(own), *conditioning_cases(own), *clip_cases(own), *guider_cases(own))
    cases = [*pack.typical(about), *(Case(pack.folder, case.path, case.build, case.concept) for case in made
                                     if case.path.removesuffix(", guard first").removesuffix(", guard last") in own)]
    cases += [Case(pack.folder, name, partial(_with_sampler, name)) for name, _ in nodes_to(own, "SAMPLER")]
    cases += [Case(pack.folder, name, partial(_sampled_by, name)) for name, node in nodes_to(own, "LATENT", "MODEL")
              if names_of_type(node, "CONDITIONING") and not any(name in case.path for case in cases)]
    return cases


def _with_sampler(class_type: str, world: World) -> Ref:
    return world.graph.add("SamplerCustom", **filled(world.about["SamplerCustom"], {
        "model": world.guard(), "positive": world.say(), "negative": world.say(""), "add_noise": True,
        "noise_seed": SEED, "cfg": CFG, "sampler": world.node(class_type, "SAMPLER")}, world.providers()))


def _sampled_by(class_type: str, world: World) -> Ref:
    wanted = inputs_of(world.about[class_type])
    given = {name: value for name, value in SAMPLING.items() if name in wanted}
    for name, (kind, _) in wanted.items():
        if kind == "CONDITIONING":
            given[name] = world.say("" if "negative" in name else None)
        if kind == "MODEL":
            given[name] = world.guard()
    return world.node(class_type, "LATENT", **given)


@dataclass(frozen=True)
class Started:
    """How a pack started: version as its pyproject.toml says, seconds of its import as the host says, why it failed."""

    folder: str
    version: str
    nodes: int
    seconds: float | None
    failed: str = ""


def version_of(pack: Path) -> str:
    """The version in a pack's pyproject.toml, or ""."""
    file = pack / "pyproject.toml"
    found = file.is_file() and re.search(r'^version\s*=\s*"([^"]+)"', file.read_text(encoding="utf-8"), re.M)
    return found[1] if found else ""


def started(log: str, packs: Mapping[str, str], about: Mapping[str, dict]) -> list[Started]:
    """Reads the host's log of a start.  packs: folder -> version."""
    made = []
    for folder, version in packs.items():
        took = re.search(rf"([\d.]+) seconds( \(IMPORT FAILED\))?: .*[\\/]{re.escape(folder)}\s*$", log, re.M)
        why = re.search(rf"Cannot import .*[\\/]{re.escape(folder)} module for custom nodes: (.*)$", log, re.M)
        nodes = sum(node.get("python_module") == f"custom_nodes.{folder}" for node in about.values())
        failed = why[1].strip() if why else "import failed" if took and took[2] else ""
        made.append(Started(folder, version, nodes, float(took[1]) if took else None, failed))
    return made


def page(version: str, starts: list[Started], rows: list[Row], absent: list[str], seconds: Mapping[str, float],
         waiting: int) -> str:
    """docs/other-packs.md."""
    needs = {pack.folder: pack.needs for pack in PACKS}
    parts = [INTRODUCTION.format(version=version, count=len(starts) - 1)]
    if waiting:
        parts.append(f"{waiting} paths not run yet: this page is of an unfinished run.")
    parts.append("## Start-up\n\n" + table(
        ("pack", "version", "nodes", "seconds of its import", "error"),
        [(each.folder, each.version, each.nodes, each.seconds if each.seconds is not None else "", each.failed)
         for each in starts]))
    parts.append(f"Until the server answered: {seconds['alone']:.0f} s with SafeRedir alone, {seconds['all']:.0f} s "
                 "with all of them.")
    if absent:
        parts.append("Not there, and so not tried: " + ", ".join(absent) + ".")
    here = [row for row in rows if row.outcome != NOT_HERE]
    for folder in dict.fromkeys(row.group for row in here):
        parts.append(f"## {folder}\n\n" + rows_table([replace(row, detail="") for row in here if row.group == folder])
                     + (f"\n\nNot run: {needs[folder]}." if needs.get(folder) else ""))
    run_here = {row.group for row in here}
    parts += [f"## {each.folder}\n\nNot run: {needs[each.folder]}." for each in starts
              if each.folder not in run_here and needs.get(each.folder)]
    refused = [row for row in here if row.outcome != GUARDED]
    if refused:
        parts.append("## What was not let through, and with which sentence\n\n" + table(
            ("pack", "path", "outcome", "said"), [(row.group, row.path, row.outcome, row.detail) for row in refused]))
    others = [row for row in rows if row.outcome == NOT_HERE]
    if others:
        parts.append("## Not with the demo model\n\nThese do not run on it without a guard either, or need files that "
                     "it does not have.\n\n" + table(("pack", "path", "why"), [
                         (row.group, row.path, row.detail[:160]) for row in others]))
    return "\n\n".join(parts) + "\n"


def server_with(packs: list[Path]):
    """A server with ours and these in its custom_nodes, and no way to the internet."""
    server = own_server(OUTPUT, PROJECT, {"http_proxy": DEAD_PROXY, "https_proxy": DEAD_PROXY, "no_proxy": "127.0.0.1",
                                          "PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"})
    nodes = server.base / "custom_nodes"
    for each in nodes.iterdir():
        if each.name != PACK_FOLDER:
            remove_link(each)
    for pack in packs:
        link_folder(pack, nodes / pack.name)
    return server


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="lab/matrix/other_packs.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds the other packs, each in its folder")
    parser.add_argument("--pack", action="append", default=[], help="its paths only; may be given several times")
    parser.add_argument("--again", action="store_true", help="run also what has been run")
    arguments = parser.parse_args(argv)
    here = [pack for pack in PACKS if (arguments.folder / pack.folder / "__init__.py").is_file()]
    absent = [pack.folder for pack in PACKS if pack not in here]
    if not here:
        print(f"{arguments.folder} holds none of {', '.join(absent)}: put the packs there, each in its folder")
        return 2
    seconds = {}
    for name, packs in (("alone", []), ("all", [(arguments.folder / pack.folder).resolve() for pack in here])):
        server = server_with(packs)
        make_extras(server.base / "models", load_backbone(), tuned=False)
        begun = time.perf_counter()
        with server:
            seconds[name] = time.perf_counter() - begun
            if packs:
                run(server, here, absent, seconds, arguments)
    print(f"wrote {PAGE}")
    return 0


def run(server, here: list[Pack], absent: list[str], seconds: Mapping[str, float], arguments) -> None:
    """Runs what has not been run, what packs are known for first, and writes the page after each path."""
    client, results = ComfyClient(server.url), OUTPUT / "rows.jsonl"
    about, version = client.object_info(), client.system_stats()["system"]["comfyui_version"]
    versions = {folder: version_of(server.base / "custom_nodes" / folder)
                for folder in (PACK_FOLDER, *(pack.folder for pack in here))}
    starts = started(server.log_text(), versions, about)
    known, runner = read(results), Runner(client, about, detail=900)
    cases = [case for pack in here for case in cases_of(pack, about)]
    typical = {case.key for pack in here for case in pack.typical(about)}
    wanted = [case for case in cases if case.group in (arguments.pack or {each.folder for each in here})]
    for case in sorted(wanted, key=lambda case: case.key not in typical):
        if arguments.again or case.key not in known:
            run_one(runner, case, known, results)
        rows = [known[each.key] for each in cases if each.key in known]
        write_whole(PAGE, page(version, starts, rows, absent, seconds, len(cases) - len(rows)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
