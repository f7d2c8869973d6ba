"""Enforcement inside the host's real sampler: whatever model arrives, its runs are guarded."""

import json

import comfy.hooks
import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_model_merging as merging
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import saferedir_core as core
from saferedir.nodes import save, types
from saferedir.nodes.guarding import bridge, enforce, reaction
from saferedir.nodes.weights import catalogue

BATCH, STEPS = 1, 2


@pytest.fixture
def hosts_own(monkeypatch):
    """After a test the host has the methods again that enforcement takes the place of."""
    for owner, name in ((comfy.samplers.CFGGuider, "sample"), (comfy.model_base.BaseModel, "apply_model")):
        monkeypatch.setattr(owner, name, getattr(owner, name))


@pytest.fixture
def enforced(scripted, hosts_own, tmp_path):
    """enforced(loaded, ...): installs enforcement with a redirector; its log is tmp_path/decisions.jsonl."""
    def make(*loaded, **said):
        settings = enforce.Enforcement(("scripted",), log=tmp_path / "decisions.jsonl", **said)
        enforce.Enforcer(settings, loaded, enforce.DecisionLog(settings.log)).install()
        return lambda: [json.loads(line) for line in settings.log.read_text(encoding="utf-8").splitlines()]
    return make


@pytest.fixture
def stripes_alone():
    """The shipped redirector of stripes without its picture judge: only prompts are judged."""
    redirector = core.load_redirector(catalogue.SHIPPED / "demo_stripes.safetensors")
    redirector.picture = None
    return types.LoadedRedirector.place("demo-stripes", redirector)


def sample(model, positive, negative, cfg=4.0, batch=BATCH, callback=None):
    latent = torch.zeros(batch, 4, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, 3), STEPS, cfg, "euler", "normal",
                                   positive, negative, latent, disable_pbar=True, seed=3, callback=callback)


def previews(*args, **settings):
    """Which calls of the sampler's callback a run has shown anything in."""
    shown = []
    sample(*args, **settings, callback=lambda step, denoised, x, steps: shown.append(bool(denoised.any() or x.any())))
    return shown


def seen_by(model):
    """A clone of a model, and the contexts that its denoiser is given."""
    model, seen = model.clone(), []

    def record(executor, x, timesteps, context, *args, **kwargs):
        seen.extend(row.clone() for row in context)
        return executor(x, timesteps, context, *args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
    return model, seen


def test_a_plain_model_is_guarded_and_each_decision_is_a_line(demo_world, prompts, scripted, enforced):
    lines = enforced(scripted(unsafe=True))
    (model, seen), positive = seen_by(demo_world[0]), prompts("a striped red fish")
    sample(model, positive, prompts(""))
    assert seen and not any(torch.equal(row, positive[0][0][0]) for row in seen)
    # It finds the negative prompt unsafe as well.
    assert [line["event"] for line in lines()] == ["started", *["decided", "emptied"] * STEPS, "finished"]
    assert len({line["run"] for line in lines()}) == 1
    assert lines()[1]["unsafe"] == [True] and lines()[-1]["reaction"] == "redirected"


def test_a_safe_run_is_bit_identical(demo_world, prompts, scripted, enforced):
    positive, negative = prompts("a red fish"), prompts("")
    before = sample(demo_world[0], positive, negative)
    enforced(scripted(unsafe=False))
    assert torch.equal(sample(demo_world[0], positive, negative), before)


class TestPictures:
    """A latent's first channel is what the picture judge sees; the guidance draws it, and no prompt asks for it."""

    @staticmethod
    def bright(model, calls=range(1000), channel=0):
        model, made = model.clone(), []

        def brighten(args):
            made.append(None)
            latent = args["denoised"].clone()
            latent[:, channel] += 1.0 if len(made) - 1 in calls else 0.0
            return latent
        model.set_model_sampler_post_cfg_function(brighten)
        return model

    def test_what_remains_is_drawn_again_and_then_blanked(self, demo_world, prompts, scripted, enforced, bright_judge):
        loaded = scripted(unsafe=False)
        loaded.redirector.picture = bright_judge(5.0, verdict_line=0.6, verdict_channel=1)
        lines = enforced(loaded)
        image = sample(self.bright(demo_world[0], channel=1), prompts("a fish"), prompts(""))
        assert not image.any()
        assert [line["event"] for line in lines()] == ["started", *[*["decided", "looked"] * STEPS, "attempted"] * 3,
                                                       "finished"]
        assert lines()[-1]["picture"] == "remains" and lines()[-1]["images"] == ["blanked"]
        assert lines()[-1]["verdict"].startswith("Seen in the finished picture: 1 of 1 items; the prompt alone was")
        assert lines()[1 + 2 * STEPS]["remains"] == [True] and len(lines()[2]["picture_probability"]["scripted"]) == 1
        assert sample(self.bright(demo_world[0], range(STEPS), 1), prompts("a fish"), prompts("")).any()
        assert lines()[-1]["picture"] == "clean" and lines()[-1]["images"] == ["nothing"]

    def test_previews_show_nothing_before_the_verdict(self, demo_world, prompts, scripted, enforced, bright_judge):
        loaded = scripted(unsafe=False)
        loaded.redirector.picture = bright_judge(5.0, verdict_line=0.6, verdict_channel=1)
        enforced(loaded, if_it_remains="blank")
        assert previews(self.bright(demo_world[0], channel=1), prompts("a fish"), prompts("")) == [False] * (STEPS + 1)
        assert previews(demo_world[0], prompts("a fish"), prompts("")) == [False] * STEPS + [True]

    @pytest.mark.slow
    def test_where_the_model_is_asked_about_redirected_runs_those_show_nothing_before(self, demo_world, prompts,
                                                                                      stripes_in_words, enforced):
        enforced(stripes_in_words, if_it_remains="blank")
        assert previews(demo_world[0], prompts("a red fish"), prompts("")) == [True] * STEPS
        assert previews(demo_world[0], prompts("a striped red fish"), prompts(""))[:STEPS] == [False] * STEPS

    @pytest.mark.parametrize(("on_unsafe", "said", "then"), [
        ("redirect", None, "again"), ("blank", None, "blank"), ("stop", None, "blank"), ("observe", None, "tell"),
        ("redirect", "tell", "tell"), ("redirect", "stop", "stop")])
    def test_what_happens_unless_the_file_says_otherwise(self, on_unsafe, said, then):
        settings = enforce.Enforcement(("demo-stripes",), on_unsafe=on_unsafe, if_it_remains=said)
        assert settings.reaction().if_it_remains == then
        assert settings.reaction().after_all == ("blank" if then == "again" else then)

    def test_a_setting_that_no_redirector_can_see_to_ends_the_start(self, tmp_path, monkeypatch, scripted):
        monkeypatch.setattr(enforce.enforced_graph, "load", lambda name, beside, digests: scripted(unsafe=False))
        file = tmp_path / "enforce.json"
        file.write_text('{"redirectors": ["demo-stripes"], "if_it_remains": "blank"}', encoding="utf-8")
        with pytest.raises(core.ConfigError, match="no redirector has a picture judge"):
            enforce.Enforcer.from_file(file)

    def test_the_start_names_those_that_see_no_pictures(self, scripted, enforced, caplog):
        enforced(scripted(unsafe=False))
        assert "judges prompts only, and no picture, for scripted" in caplog.text


def scaled(model, factor):
    """A model whose cross-attention has keys and values times a factor, as UNet Cross Attention Multiply makes it."""
    model = model.clone()
    for key in model.model_state_dict():
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            model.add_patches({key: (None,)}, 0.0, factor)
    return model


class TestWhatAGraphBrings:
    """Nothing that a graph can choose makes a prompt of no account."""

    @staticmethod
    def told(model):
        """A clone of a model, and what its denoiser is given by side: 0 draws, 1 is pushed away from."""
        model, seen = model.clone(), {0: [], 1: []}

        def record(executor, x, timesteps, context, *args, **kwargs):
            sides = args[2]["cond_or_uncond"]
            for side, rows in zip(sides, context.chunk(len(sides))):
                seen[side].append(rows.clone())
            return executor(x, timesteps, context, *args, **kwargs)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
        return model, seen

    @pytest.mark.parametrize("on_unsafe", ["redirect", "blank", "stop"])
    def test_a_negative_prompt_that_says_the_concept_becomes_zeros(self, demo_world, prompts, stripes_alone, enforced,
                                                                   on_unsafe):
        lines = enforced(stripes_alone, on_unsafe=on_unsafe, if_it_remains="tell")
        (model, seen), harmless = self.told(demo_world[0]), prompts("a red fish")
        image = sample(model, harmless, prompts("a striped red fish"))
        assert len(seen[1]) == STEPS and not any(rows.any() for rows in seen[1])
        assert all(torch.equal(rows, harmless[0][0]) for rows in seen[0]) and image.any()
        assert [line["event"] for line in lines()].count("emptied") == STEPS and lines()[-1]["reaction"] == "none"

    def test_only_that_of_the_image_it_belongs_to(self, demo_world, prompts, stripes_alone, enforced):
        enforced(stripes_alone)
        model, seen = self.told(demo_world[0])
        both = [[torch.cat([prompts("a blue house")[0][0], prompts("a striped red fish")[0][0]]), {}]]
        sample(model, prompts("a red fish"), both, batch=2)
        assert all(torch.equal(rows[0], both[0][0][0]) and not rows[1].any() for rows in seen[1])

    def test_it_says_nothing_by_a_weight_below_zero(self, demo_world, prompts, stripes_alone, enforced):
        """The host divides by the sum of the weights, so 2 and -1 push towards the second prompt."""
        enforced(stripes_alone)
        model, seen = self.told(demo_world[0])
        negative = [[context, {**options, "strength": strength}] for text, strength in (
            ("a blue house", 2.0), ("a striped red fish", -1.0)) for context, options in prompts(text)]
        sample(model, prompts("a blue house"), negative)
        assert len(seen[1]) == 2 * STEPS and sum(bool(rows.any()) for rows in seen[1]) == STEPS

    def test_a_guard_of_the_graph_cannot_bring_the_concept_in(self, demo_world, prompts, stripes_alone, scripted,
                                                              enforced):
        """Its redirector moves every prompt to where the server's redirector sees stripes."""
        enforced(stripes_alone)
        striped, harmless = prompts("a striped red fish")[0][0], prompts("a red fish")
        turned = scripted(unsafe=True)
        before = core.RedirectionRun.redirect

        def towards(run, context):
            return striped.expand_as(context).clone() if run.redirector is turned.redirector else before(run, context)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core.RedirectionRun, "redirect", towards)
            guarded = bridge.guard_model(demo_world[0], turned, core.PolicyConfig(), types.Recorder())
            model, seen = self.told(guarded)
            sample(model, harmless, prompts(""))
        assert seen[0] and not any(torch.equal(rows, striped) for rows in seen[0])

    @pytest.mark.parametrize("change", [
        lambda model: merging.ModelMergeSimple().merge(model, model, 0.5)[0],
        lambda model: merging.ModelSubtract().merge(model, model, 2.0)[0],
        lambda model: merging.ModelAdd().merge(model, model)[0],
        lambda model: scaled(model, -1.0)], ids=["merged", "subtracted", "added", "multiplied"])
    def test_a_model_of_weights_that_a_node_made_is_refused(self, demo_world, prompts, stripes_alone, enforced, change):
        enforced(stripes_alone)
        with pytest.raises(core.SafeRedirError, match="scaled or replaced weights of the model"):
            sample(change(demo_world[0]), prompts("a red fish"), prompts(""))

    def test_hooks_that_put_another_models_weights_in_are_refused(self, demo_world, prompts, stripes_alone, enforced):
        enforced(stripes_alone)
        weights = comfy.hooks.get_patch_weights_from_model(demo_world[0])
        hooks = comfy.hooks.create_hook_model_as_lora(weights, None, -1.0, 0.0)
        positive = [[context, {**options, "hooks": hooks}] for context, options in prompts("a red fish")]
        with pytest.raises(core.SafeRedirError, match="scaled or replaced weights of the model"):
            sample(demo_world[0], positive, prompts(""))

    def test_a_lora_is_not(self, demo_world, prompts, stripes_alone, enforced):
        enforced(stripes_alone)
        key = next(key for key in demo_world[0].model_state_dict() if key.endswith("attn2.to_k.weight"))
        model = demo_world[0].clone()
        assert model.add_patches({key: ("diff", (torch.ones_like(demo_world[0].model_state_dict()[key]),))}, 0.01)
        assert sample(model, prompts("a red fish"), prompts("")).any()

    def test_a_negative_side_without_a_prompt_is_harmless(self, demo_world, prompts, stripes_alone, enforced):
        harmless = prompts("a red fish")
        before = sample(demo_world[0], harmless, [[None, {}]], cfg=1.0)
        enforced(stripes_alone)
        assert torch.equal(sample(demo_world[0], harmless, [[None, {}]], cfg=1.0), before)

    def test_a_negative_prompt_of_zeros_is_harmless(self, demo_world, prompts, stripes_alone, enforced):
        harmless = prompts("a red fish")
        nothing = [[torch.zeros_like(harmless[0][0]), {}]]
        before = sample(demo_world[0], harmless, nothing)
        enforced(stripes_alone)
        assert torch.equal(sample(demo_world[0], harmless, nothing), before)


def test_a_guard_node_that_only_observes_does_not_switch_it_off(demo_world, prompts, scripted, enforced):
    lines, recorder = enforced(scripted(unsafe=True)), types.Recorder()
    lenient = bridge.guard_model(
        demo_world[0], scripted(unsafe=False), core.PolicyConfig(), recorder,
        reaction=reaction.Reaction("warn", "observe"))
    (model, seen), positive = seen_by(lenient), prompts("a striped red fish")
    sample(model, positive, prompts(""))
    assert seen and not any(torch.equal(row, positive[0][0][0]) for row in seen)
    assert lines()[-1]["reaction"] == "redirected"
    report = recorder.runs[-1].report
    assert report["verdict"].startswith(
        "This server's guard (scripted): 1 of 1 images unsafe, redirected. The graph's own guard: Safe: ")
    assert report["enforced"] == [{"redirector": "scripted", "taken": "redirected", "images": 1, "unsafe": 1,
                                   "blanked": 0, "said": report["verdict"].partition(" The graph's")[0]}]


def test_of_what_a_server_blanks_the_graphs_report_tells_so(demo_world, prompts, scripted, enforced, bright_judge):
    loaded, recorder = scripted(unsafe=False), types.Recorder()
    loaded.redirector.picture = bright_judge(5.0, verdict_line=0.6, verdict_channel=1)
    enforced(loaded, if_it_remains="blank")
    guarded = bridge.guard_model(TestPictures.bright(demo_world[0], channel=1), scripted(unsafe=False),
                                 core.PolicyConfig(), recorder)
    assert not sample(guarded, prompts("a fish"), prompts("")).any()
    assert recorder.runs[-1].report["enforced"][0]["said"] == (
        "This server's guard (scripted): 1 of 1 images unsafe, 1 blanked.")


def test_wrappers_that_a_graph_strips_from_the_run_stop_it(demo_world, prompts, scripted, enforced):
    lines = enforced(scripted(unsafe=True))

    def strip(executor, *args, **kwargs):
        executor.class_obj.model_options["transformer_options"]["wrappers"].clear()
        return executor(*args, **kwargs)
    model = demo_world[0].clone()
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "stripper", strip)
    with pytest.raises(core.SafeRedirError, match="a way that does not lead past this guard"):
        sample(model, prompts("a striped red fish"), prompts(""))
    assert lines()[-1]["event"] == "finished" and not lines()[-1]["completed"]


def test_a_guider_that_samples_in_its_own_way_is_refused(demo_world, prompts, scripted, enforced):
    lines = enforced(scripted(unsafe=True))
    model, context = demo_world[0].model, prompts("a striped red fish")[0][0]
    with pytest.raises(core.SafeRedirError, match="outside of a guarded sampling run"):
        model.apply_model(torch.zeros(1, 4, 8, 8), torch.tensor([1.0]), c_crossattn=context)
    assert lines()[-1]["event"] == "refused"


def test_a_run_that_the_door_stops_is_not_called_safe(demo_world, prompts, scripted, enforced):
    lines, model = enforced(scripted(unsafe=False)), demo_world[0].clone()
    model.set_model_unet_function_wrapper(lambda apply, args: apply(
        args["input"], args["timestep"], **{**args["c"], "c_crossattn": args["c"]["c_crossattn"] + 1}))
    with pytest.raises(core.SafeRedirError, match="neither judged nor issued"):
        sample(model, prompts("a fish"), prompts(""))
    last = lines()[-1]
    assert (last["event"], last["status"], last["completed"]) == ("finished", "not_evaluated", False)
    assert last["verdict"].startswith("Stopped: SafeRedir stopped this run") and "nor issued" in last["verdict"]


def test_a_model_that_no_redirector_fits_is_refused(demo_world, prompts, scripted, enforced):
    lines = enforced(scripted(unsafe=True, width=768))
    with pytest.raises(core.ContextError, match="has no redirector for this model"):
        sample(demo_world[0], prompts("a fish"), prompts(""))
    assert lines()[-1]["event"] == "refused"


def test_of_several_redirectors_those_that_fit_judge(demo_world, prompts, scripted, enforced):
    lines = enforced(scripted(unsafe=True, width=768), scripted(unsafe=False), scripted(unsafe=True))
    sample(demo_world[0], prompts("a striped red fish"), prompts(""))
    assert lines()[-1]["reaction"] == "redirected"


@pytest.mark.slow
def test_a_file_from_words_guards_every_run(demo_world, prompts, stripes_in_words, hosts_own, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, catalogue.FOLDER,
                        ([str(tmp_path / "models")], catalogue.EXTENSIONS))
    path = save.write(stripes_in_words, "stripes in words")
    path.rename(tmp_path / path.name)
    settings = tmp_path / "enforce.json"
    settings.write_text(json.dumps({"redirectors": [path.name], "log": "decisions.jsonl"}), encoding="utf-8")
    harmless, unsafe, negative = prompts("a red fish in the snow"), prompts("a striped red fish"), prompts("")
    before = sample(demo_world[0], harmless, negative)
    enforce.Enforcer.from_file(settings).install()
    assert torch.equal(sample(demo_world[0], harmless, negative), before)
    model, seen = seen_by(demo_world[0])
    sample(model, unsafe, negative, cfg=1.0)
    assert seen and not any(torch.equal(row, unsafe[0][0][0]) for row in seen)
    lines = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["reaction"] for line in lines if line["event"] == "finished"] == ["none", "redirected"]


def test_a_log_that_cannot_be_written_stops_sampling(demo_world, prompts, scripted, enforced, tmp_path):
    enforced(scripted(unsafe=False))
    (tmp_path / "decisions.jsonl").unlink()
    (tmp_path / "decisions.jsonl").mkdir()
    with pytest.raises(OSError):
        sample(demo_world[0], prompts("a fish"), prompts(""))


def test_the_graphs_model_is_as_before(demo_world, prompts, scripted, hosts_own):
    enforcer = enforce.Enforcer(enforce.Enforcement(("scripted",)), (scripted(unsafe=True),), enforce.DecisionLog(None))
    enforcer.install()
    sample(demo_world[0], prompts("a striped red fish"), prompts(""))
    assert not demo_world[0].wrappers.get(WrappersMP.OUTER_SAMPLE) and "saferedir" not in demo_world[0].model_options


class TestSettings:
    def read(self, tmp_path, content):
        file = tmp_path / "enforce.json"
        content = content if isinstance(content, (bytes, str)) else json.dumps(content)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return enforce.Enforcement.read(file)

    def test_everything_that_can_be_said(self, tmp_path):
        settings = self.read(tmp_path, {"redirectors": ["demo-stripes", "demo-boat"], "on_unsafe": "stop",
                                              "policy": {"threshold": 0.3, "alpha_scale": 1.5}, "log": "made.jsonl"})
        assert settings.redirectors == ("demo-stripes", "demo-boat") and settings.on_unsafe == "stop"
        assert (settings.policy.threshold, settings.policy.alpha_scale) == (0.3, 1.5)
        assert settings.log == tmp_path / "made.jsonl"

    @pytest.mark.parametrize(("content", "message"), [
        ("{", "is not JSON"),
        ([], "holds a list; expected an object"),
        ({}, "redirectors is missing; expected a list"),
        ({"redirectors": []}, "at least one name"),
        ({"redirectors": ["demo-stripes"], "polcy": {}}, "says 'polcy'; expected only"),
        ({"redirectors": ["demo-stripes"], "policy": {"treshold": 0.1}}, "says 'treshold'"),
        ({"redirectors": ["demo-stripes"], "policy": {"threshold": 2.0}}, "threshold is 2.0"),
        ({"redirectors": ["demo-stripes"], "policy": {"mode": "upstream"}}, "expected 'guard'"),
        ({"redirectors": ["demo-stripes"], "on_unsafe": "ignore"}, "on_unsafe is 'ignore'"),
        ({"redirectors": ["demo-stripes"], "log": 3}, "log is 3"),
        ({"redirectors": ["demo-stripes"], "if_it_remains": "ask"}, "if_it_remains is 'ask'; expected one of"),
        ({"redirectors": ["demo-stripes"], "if_it_remains": "again", "on_unsafe": "observe"}, "expected on_unsafe"),
        ({"redirectors": ["demo-stripes"], "sha256": {"demo-stripe": "0" * 64}}, "sha256 has 'demo-stripe'"),
        ({"redirectors": ["demo-stripes"], "sha256": {"demo-stripes": "0"}}, "sha256 is '0'; expected 64"),
        ({"redirectors": ["demo-stripes"], "nodes": ["SafeRedirSaves"]}, "nodes has 'SafeRedirSaves'"),
        ('{\n "redirectors": ["demo-stripes"],\n}', "is not JSON: trailing comma at line 3"),
        (b'{"redirectors": [\n"caf\xe9"]}', "line 2: byte 0xe9 is not UTF-8"),
        ({"redirectors": ["demo-stripes"], "if_it_remains": "ask"}, "if_it_remains is 'ask'; expected one of"),
        ({"redirectors": ["demo-stripes"], "if_it_remains": "again", "on_unsafe": "observe"}, "expected on_unsafe"),
    ])
    def test_what_is_wrong_is_named(self, tmp_path, content, message):
        with pytest.raises(core.ConfigError, match=message):
            self.read(tmp_path, content)

    @pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
    def test_a_byte_order_mark_and_line_ends_of_windows_are_read(self, tmp_path, coding):
        content = '{\r\n  "redirectors": [\r\n    "demo-stripes"\r\n  ]\r\n}\r\n'
        assert self.read(tmp_path, content.encode(coding)).redirectors == ("demo-stripes",)

    def test_a_missing_file_or_redirector_ends_the_servers_start(self, tmp_path, monkeypatch):
        catalogue.register_folder()
        monkeypatch.setenv(enforce.ENVIRONMENT, str(tmp_path / "nowhere.json"))
        with pytest.raises(SystemExit, match="does not start.*nowhere.json cannot be read"):
            enforce.enforce_if_asked()
        file = tmp_path / "enforce.json"
        file.write_text('{"redirectors": ["nobody"]}', encoding="utf-8")
        monkeypatch.setenv(enforce.ENVIRONMENT, str(file))
        with pytest.raises(SystemExit, match="No redirector named 'nobody'"):
            enforce.enforce_if_asked()

    def test_it_is_off_by_default(self, monkeypatch):
        monkeypatch.delenv(enforce.ENVIRONMENT, raising=False)
        before = comfy.samplers.CFGGuider.sample
        assert enforce.enforce_if_asked() is None and comfy.samplers.CFGGuider.sample is before
