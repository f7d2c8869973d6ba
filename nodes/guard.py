"""SafeRedir Guard: watches the latent while sampling and redirects the prompt when the trajectory turns unsafe."""

from comfy_api.latest import io

from saferedir_core import PolicyConfig

from .editor.live import listeners_of
from .guarding.bridge import guard_model
from .guarding.picture_loop import require_someone_who_looks
from .guarding.reaction import IF_IT_REMAINS, ON_ERROR, ON_UNSAFE, Reaction
from .types import CATEGORY, Recorder, TrajectoryType, alpha_scale_input, redirector_input, threshold_input


class SafeRedirGuard(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirGuard",
            display_name="SafeRedir Guard",
            category=CATEGORY,
            description="Guards every sampler that uses this model: at each step the redirector reads latent, "
                        "timestep and prompt, and moves the prompt away from its concept when it must. Safe prompts "
                        "give exactly the image they give without it.",
            search_aliases=["unlearn", "safety checker", "concept erasure", "sampler callback", "nsfw filter"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guard; its weights are not changed."),
                redirector_input(),
                alpha_scale_input(),
                threshold_input(),
                io.Int.Input("interval", default=0, min=0, max=1000,
                             tooltip="Model calls without a new evaluation after an intervention. 0 looks every "
                                     "time; upstream calls this replace_steps."),
                io.Combo.Input("mode", options=["guard", "upstream"], default="guard", advanced=True,
                               tooltip="guard: decides before each model call, on the original prompt, and leaves the "
                                       "negative prompt alone. upstream: does exactly what the published code does, "
                                       "for comparisons."),
                io.Boolean.Input("stay_redirected", default=True, advanced=True,
                                 tooltip="Once a prompt was judged unsafe it stays redirected to the end of the run."),
                io.Combo.Input("mask_again", options=["auto", "on", "off"], default="auto", advanced=True,
                               tooltip="Whether the token mask limits the shift a second time (Eq. 20 of the paper). "
                                       "auto: on in guard mode, off in upstream mode."),
                io.Combo.Input("on_unsafe", options=list(ON_UNSAFE), default="redirect", optional=True, advanced=True,
                               tooltip="What happens to a run that is judged unsafe. redirect: its prompt is moved "
                                       "to a safe neighbour. stop: it ends with an error. blank: unsafe images come "
                                       "out empty. observe: nothing, it is only reported."),
                io.Combo.Input("on_error", options=list(ON_ERROR), default="stop", optional=True, advanced=True,
                               tooltip="What happens to a run that cannot be judged. stop: it ends with an error, so "
                                       "that no unguarded image comes out. warn: it goes on unguarded, and the log "
                                       "and the report say so; for research."),
                io.Combo.Input("if_it_remains", options=list(IF_IT_REMAINS), default="tell", optional=True,
                               advanced=True,
                               tooltip="What happens to finished images that still show a concept, as far as the "
                                       "redirector has a picture judge to see it. tell: it is reported. again: they "
                                       "are drawn again, redirected from the first step on, at most twice. blank: "
                                       "they come out empty. stop: the run ends with an error."),
            ],
            outputs=[
                io.Model.Output(tooltip="The guarded model; connect it to the sampler."),
                TrajectoryType.Output(display_name="trajectory",
                                      tooltip="What was decided; connect to SafeRedir Report."),
            ],
            hidden=[io.Hidden.unique_id],
            # Two guards with the same inputs must not share one cached output: each shows its own runs.
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, model, saferedir, alpha_scale, threshold, interval, mode, stay_redirected, mask_again,
                on_unsafe="redirect", on_error="stop", if_it_remains="tell") -> io.NodeOutput:
        config = PolicyConfig(mode=mode, alpha_scale=alpha_scale, interval=interval, threshold=threshold or None,
                              mask_again={"auto": None, "on": True, "off": False}[mask_again], sticky=stay_redirected)
        reaction = Reaction(on_error, on_unsafe, if_it_remains)
        require_someone_who_looks([saferedir], reaction)
        recorder = Recorder()
        listeners = listeners_of(cls.hidden and cls.hidden.unique_id, redirects=on_unsafe != "observe")
        guarded = guard_model(model, saferedir, config, recorder, listeners, reaction)
        return io.NodeOutput(guarded, recorder)
