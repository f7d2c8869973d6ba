"""SafeRedir as a technique of the package eval-unlearn, which runs its benchmark over this and others.

`pip install .` beside it declares the entry point `saferedir` in the group `eval_unlearn.techniques`; its runner then
makes a `Technique` of the "config" of the benchmark's file, and asks it for pictures:

    {"technique": {"name": "saferedir", "config": {
        "erase_concept": "church", "remove": ["church", "cathedral", "chapel"], "instead": "house"}},
     "metrics": [{"name": "clip_score", "config": {}}], "output_dir": "results"}

The pictures are drawn by a pipeline of diffusers, as those of the other techniques are; it is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from saferedir_core.bundle import load_redirectors
from saferedir_core.config import PolicyConfig
from saferedir_core.errors import ConfigError
from saferedir_core.run import RedirectionRun
from saferedir_core.words.concept import Concept
from saferedir_core.words.encoded import Encode
from saferedir_core.words.fit import fit_words

BASE_MODEL = "CompVis/stable-diffusion-v1-4"    # of nearly all techniques there


@dataclass(frozen=True)
class Settings:
    """The "config" of a benchmark's file.

    erase_concept        what the benchmark's reports call it; without `remove` also the wording
    remove, instead, keep, kind
                         of `Concept`, for a redirector that is fitted to words when the technique is made
    redirector           a redirector's file (.safetensors, .pt) in their place
    mode                 of `PolicyConfig`: "guard", or "upstream" for the published hooks
    alpha_scale, threshold
                         of `PolicyConfig`; None: what the redirector recommends
    model_id             of a pipeline of diffusers with one text encoder and a UNet (Stable Diffusion 1.x, 2.x), or its
                         folder
    device               None: a GPU where there is one
    use_fp16             half precision on a GPU
    num_inference_steps, guidance_scale
                         unless `generate` is told others
    """

    erase_concept: str = ""
    remove: Sequence[str] = ()
    instead: str = ""
    keep: Sequence[str] = ()
    kind: str = "auto"
    redirector: str | None = None
    mode: str = "guard"
    alpha_scale: float | None = None
    threshold: float | None = None
    model_id: str = BASE_MODEL
    device: str | None = None
    use_fp16: bool = True
    num_inference_steps: int = 50
    guidance_scale: float = 7.5

    @classmethod
    def of(cls, config: dict) -> Settings:
        """ConfigError for what is unknown, or names no concept."""
        known = [each.name for each in fields(cls)]
        unknown = [name for name in config if name not in known]
        if unknown:
            raise ConfigError(f"The technique saferedir has no setting {unknown[0]!r}; expected some of "
                              f"{', '.join(known)}. Correct the benchmark's file.")
        made = cls(**config)
        if not (made.redirector or made.remove or made.erase_concept):
            raise ConfigError("The technique saferedir is told no concept; expected remove, redirector or "
                              "erase_concept. Add one to the benchmark's file.")
        return made

    @property
    def concept(self) -> Concept:
        return Concept(tuple(self.remove) or (self.erase_concept,), self.instead, tuple(self.keep), self.kind)

    def policy(self, recommended: dict[str, str]) -> PolicyConfig:
        """recommended: the redirector's metadata."""
        strength = self.alpha_scale if self.alpha_scale is not None else recommended.get("alpha_scale")
        given = {} if strength is None else {"alpha_scale": float(strength)}
        return PolicyConfig(mode=self.mode, threshold=self.threshold, **given)


class Technique:
    """Draws prompts with a guarded pipeline; settings as of `Settings`.

    ConfigError for a pipeline of another kind; what diffusers raises for one that cannot be loaded.
    """

    def __init__(self, **config: Any) -> None:
        self.settings = Settings.of(config)
        cuda = torch.cuda.is_available()
        self.device = self.settings.device or ("cuda" if cuda else "cpu")
        self.pipe = _pipeline(self.settings, self.device)
        self.redirectors = (load_redirectors(self.settings.redirector) if self.settings.redirector else
                            {"words": fit_words(encoder_of(self.pipe), self.settings.concept)})
        for each in self.redirectors.values():
            each.to(self.device)
        self.policy = self.settings.policy(next(iter(self.redirectors.values())).metadata)

    def generate(self, prompts: Sequence[str], seed: int | None = None, **others: Any) -> list:
        """A PIL image of each prompt; the one at place i has the seed `seed` + i, as those of other techniques.

        others: num_inference_steps, guidance_scale and whatever else the pipeline takes.
        """
        others = {"num_inference_steps": self.settings.num_inference_steps,
                  "guidance_scale": self.settings.guidance_scale, **others}
        pictures = []
        for place, prompt in enumerate(prompts):
            generator = None if seed is None else torch.Generator(self.device).manual_seed(seed + place)
            pictures.append(self._draw(prompt, generator=generator, **others))
        return pictures

    def _draw(self, prompt: str, **others: Any):
        positive, negative = self.pipe.encode_prompt(prompt, self.device, 1, True)
        run = RedirectionRun(self.redirectors, self.policy, positive.float())
        before, after = _hooks(run, self.policy.mode)
        hooks = [self.pipe.unet.register_forward_pre_hook(before, with_kwargs=True),
                 self.pipe.unet.register_forward_hook(after)]
        try:
            made = self.pipe(prompt_embeds=positive, negative_prompt_embeds=negative, **others).images[0]
        finally:
            for hook in hooks:
                hook.remove()
        run.settle()
        return made


def encoder_of(pipe) -> Encode:
    """`encode(texts)` of a pipeline's text encoder, as `fit_words` asks for it.  On the CPU, in float32."""

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> SimpleNamespace:
        context = pipe.encode_prompt([*texts], pipe.device, 1, False)[0].float().cpu()                  # (N, T, D)
        tokens = pipe.tokenizer([*texts], padding="max_length", max_length=context.shape[1], truncation=True,
                                return_tensors="pt").input_ids                                          # (N, T)
        return SimpleNamespace(context=context, tokens=tokens, mask=torch.ones_like(tokens, dtype=torch.bool),
                               pooled=None)

    return encode


def _hooks(run: RedirectionRun, mode: str) -> tuple[Callable, Callable]:
    """What is done before and after each call of the UNet, whose last rows are the positive prompt's."""

    def observe(arguments: tuple) -> None:
        run.observe(arguments[0][-run.batch:].float(), arguments[1])

    def before(_, arguments: tuple, named: dict) -> tuple[tuple, dict]:
        context: Tensor = named["encoder_hidden_states"]                                                # (R, T, D)
        if mode == "upstream":      # both sides of the guidance, by what the call before has shown
            return arguments, {**named, "encoder_hidden_states": run.redirect(context)}
        observe(arguments)
        unsaid, said = context[:-run.batch], context[-run.batch:]
        return arguments, {**named, "encoder_hidden_states": torch.cat([unsaid, run.redirect(said)])}

    def after(_, arguments: tuple, __) -> None:
        if mode == "upstream":
            observe(arguments)

    return before, after


def _pipeline(settings: Settings, device: str):
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ConfigError(f"The technique saferedir draws with diffusers, which is not installed ({error}); expected "
                          "the packages of eval-unlearn. Install it: pip install eval-unlearn") from error

    half = settings.use_fp16 and torch.device(device).type == "cuda"
    # No safety checker, as in every technique there: the benchmark looks at what the technique does.
    pipe = DiffusionPipeline.from_pretrained(settings.model_id, torch_dtype=torch.float16 if half else torch.float32,
                                             safety_checker=None, requires_safety_checker=False)
    if getattr(pipe, "text_encoder_2", None) is not None or not all(
            hasattr(pipe, name) for name in ("unet", "tokenizer", "encode_prompt")):
        raise ConfigError(f"{settings.model_id} is a {type(pipe).__name__}; expected a pipeline with one text encoder "
                          "and a UNet, such as Stable Diffusion 1.x. Choose another model_id.")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
