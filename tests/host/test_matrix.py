"""A covering subset of the matrix in the real server; `lab/matrix/run.py` runs all of it."""

import pytest

from saferedir.lab.matrix.cases import LORA, Case, all_cases
from saferedir.lab.matrix.extras import inversion, random_lora
from saferedir.lab.matrix.runner import GUARDED, REFUSED, STOPPED, Runner
from saferedir.lab.matrix.table import leaks

GUARDED_PATHS = (
    "samplers | uni_pc, normal | prompt",
    "samplers | dpm_adaptive, normal | prompt",
    "samplers | euler_cfg_pp, normal | prompt",
    "schedulers | euler, karras | prompt",
    "sampler nodes | KSampler Advanced, steps 0-5 and 5-10 | prompt",
    "sampler nodes | SamplerCustom | prompt",
    "sampler nodes | KSampler, CFG 1 | prompt",
    "sampler nodes | KSampler, CFG 0 | negative prompt",
    "guiders | BasicGuider | conditioning",
    "guiders | DualCFGGuider | cond2",
    "guiders | PerpNegGuider | empty_conditioning",
    "guiders | DualModelGuider | positive",
    "latents | inpainting with Differential Diffusion | prompt",
    "latents | two samplers with an upscale between | prompt",
    "prompts | textual inversion | prompt",
    "conditioning | ConditioningCombine | conditioning_1",
    "conditioning | ConditioningConcat | conditioning_from",
    "conditioning | ConditioningSetMask | conditioning",
    "conditioning | CLIPTextEncodeControlnet | text",
    "model patches | ContextWindowsManual, guard first | prompt",
    "model patches | EasyCache, guard last | prompt",
    "model patches | LoraLoaderModelOnly, guard first | prompt",
    "model patches | PerturbedAttentionGuidance, guard last | prompt",
    "model patches | SelfAttentionGuidance, guard first | prompt",
    "guards | two guards, one after the other | prompt",
)


@pytest.fixture(scope="module")
def cases(object_info) -> dict[str, Case]:
    return {case.key: case for case in all_cases(object_info)}


@pytest.fixture
def case(cases, object_info):
    """case(key): the case of that name, which an old host may lack."""
    def find(key: str) -> Case:
        if "DualModelGuider" in key and "DualModelGuider" not in object_info:
            pytest.skip("ComfyUI 0.20.1 and older have no DualModelGuider")
        return cases[key]
    return find


@pytest.fixture(scope="module")
def runner(server, server_process, object_info, demo_world):
    from safetensors.torch import save_file

    model, clip, _ = demo_world
    for name, make in (("embeddings/matrix_striped.safetensors", lambda: inversion(clip)),
                       (f"loras/{LORA}", lambda: random_lora(model))):
        path = server_process.base / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(make(), path)
    return Runner(server, object_info)


@pytest.mark.parametrize("key", GUARDED_PATHS)
def test_the_path_is_guarded_and_a_harmless_prompt_unchanged(runner, case, key):
    row = runner.run(case(key))
    assert row.outcome == GUARDED and not leaks(row) and row.identical, row


@pytest.mark.parametrize("key", ["model patches | VideoLinearCFGGuidance, least guidance 0 | negative prompt",
                                 "latents | image to image, denoise 0.3 | start image"])
def test_what_no_prompt_asks_for_is_seen_by_the_picture_judge(runner, case, key):
    row = runner.run(case(key))
    assert row.striped[0] and not leaks(row) and row.identical, row


def test_the_guard_of_the_negative_model_alone_is_refused(runner, case):
    row = runner.run(case("guiders | DualModelGuider, guard on model_negative only | positive"))
    assert row.outcome == REFUSED and "the guard is not part of this run" in row.detail


def test_a_run_that_shall_be_stopped_is_stopped_and_a_harmless_one_is_not(runner, cases):
    row = runner.run(cases["guards | on_unsafe stop | prompt"])
    assert row.outcome == STOPPED and row.identical


def test_a_run_that_shall_be_blank_shows_nothing(runner, cases):
    row = runner.run(cases["guards | on_unsafe blank | prompt"])
    assert row.outcome == GUARDED and row.striped[1] == 0 and row.kept == 0 and row.identical


def test_every_sampler_scheduler_guider_and_patch_of_the_host_has_a_case(cases, object_info):
    names = " ".join(cases)
    for sampler in object_info["KSampler"]["input"]["required"]["sampler_name"][0]:
        assert f"samplers | {sampler}, normal" in names
    for name, about in object_info.items():
        if "GUIDER" in about["output"]:
            assert f"guiders | {name} |" in names
    assert "model patches | FreeU, guard first" in names and len(cases) > 500
