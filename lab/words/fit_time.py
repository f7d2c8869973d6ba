"""Time, size and memory of a fit by the size of the text encoder; random weights, because only sizes matter here.

    python saferedir.py run lab/words/fit_time.py [--device cpu|cuda] [--sizes clip-l ...] [--out FILE]

Needs PyTorch and this repository, no host.  On a GPU it also drives a run of steps, with redirectors from words and
trained ones, while PyTorch counts every wait for the device as an error.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from saferedir_core import Concept, PolicyConfig, RedirectionRun, Redirector, RedirectorConfig, fit_words
from saferedir_core.readback import Readback
from saferedir_core.words.fit import report_of

from .page import write_part

# layers, width, heads, feed-forward width, tokens of a prompt (None: as many as it has)
SIZES = {"minilm": (6, 384, 12, 1536, None), "clip-l": (12, 768, 12, 3072, 77), "clip-g": (32, 1280, 20, 5120, 77),
         "t5-xxl": (24, 4096, 64, 10240, None), "qwen3-4b": (36, 2560, 32, 9728, None)}
VOCABULARY, LONGEST = 30000, 77
CONCEPT = Concept(("pistol", "handgun", "revolver"), "camera", ("hair dryer",), "object")
STEPS, CONCEPTS = 20, 8


class Encoder(nn.Module):
    """A transformer of a text encoder's size.  One id a word."""

    def __init__(self, layers: int, width: int, heads: int, inner: int, tokens: int | None, device: str) -> None:
        super().__init__()
        dtype = torch.float16 if device == "cuda" else torch.float32
        torch.manual_seed(0)
        self.tokens, self.place = tokens, torch.device(device)
        self.table = nn.Embedding(VOCABULARY, width, device=device, dtype=dtype)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(
            width, heads, inner, 0.0, batch_first=True, norm_first=True, device=device, dtype=dtype)
            for _ in range(layers))
        self.norm = nn.LayerNorm(width, device=device, dtype=dtype)

    @torch.inference_mode()
    def forward(self, texts: Sequence[str]) -> SimpleNamespace:
        ids = [[0, *(2 + zlib.crc32(word.encode()) % (VOCABULARY - 2) for word in text.split()[:LONGEST - 2]), 1]
               for text in texts]
        length = self.tokens or max(map(len, ids))
        padded = torch.tensor([[*each, *[1] * (length - len(each))] for each in ids])
        shown = torch.arange(length)[None] < torch.tensor([[len(each)] for each in ids])
        states = self.table(padded.to(self.place))
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=None if self.tokens else ~shown.to(self.place))
        return SimpleNamespace(context=self.norm(states).float().cpu(), tokens=padded, pooled=None,
                               mask=torch.ones_like(shown) if self.tokens else shown)


def measured(size: str, device: str, sizes: Mapping[str, tuple] = SIZES) -> dict:
    encoder = Encoder(*sizes[size], device).eval()
    encoder(["warm up"])
    began = time.monotonic()
    encoder([f"a photo of {at} things in the fog" for at in range(32)])
    encoding, began = time.monotonic() - began, time.monotonic()
    redirector = fit_words(encoder, CONCEPT)
    seconds, report = time.monotonic() - began, report_of(redirector)
    return {"size": size, "parameters": sum(each.numel() for each in encoder.parameters()),
            "width": redirector.config.prompt_dim, "prompts": report.prompts, "seconds": round(seconds, 1),
            "seconds of 32 prompts": round(encoding, 3), "held out": report.held_out,
            "bytes": 4 * sum(each.numel() for each in redirector.parameters()),
            "peak memory of the process, GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20, 2),
            **({"peak memory of the device, GB": round(torch.cuda.max_memory_allocated() / 2 ** 30, 2)}
               if device == "cuda" else {})}


def run_without_waits(dtype: torch.dtype) -> dict:
    """A run of steps on a GPU, where every wait raises: 8 trained concepts as one, and one from words beside them."""
    device = torch.device("cuda")
    trained = {f"concept {at}": Redirector(RedirectorConfig(variant="token")).eval().requires_grad_(False)
               .to(device, dtype) for at in range(CONCEPTS)}
    for each in trained.values():
        each.latent_encoder, each.t_encoder = (next(iter(trained.values())).latent_encoder,
                                               next(iter(trained.values())).t_encoder)
    words = fit_words(Encoder(2, 768, 12, 1536, 77, "cuda").eval(), CONCEPT).to(device)
    context, latent = torch.randn(2, 77, 768, device=device, dtype=dtype), torch.randn(
        2, 4, 64, 64, device=device, dtype=dtype)
    found = {}
    for name, redirectors in (("trained, 8", trained), ("words, 1", {"words": words}),
                              ("trained, 8, and words", {**trained, "words": words})):
        readback = Readback()
        run = RedirectionRun(redirectors, PolicyConfig(), context, readback=readback)
        run.observe(latent, 999.0)      # kernels are compiled and memory is pinned once
        readback.send()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        began = time.monotonic()
        try:
            for step in range(STEPS):
                run.observe(latent, 900.0 - step)
                run.redirect(context)
                readback.send()
            waits = 0
        except RuntimeError as error:
            waits = str(error)[:200]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        seconds = time.monotonic() - began
        run.settle()
        found[name] = {"waits": waits, "milliseconds a step": round(1000 * seconds / STEPS, 3),
                       "observations": run.observations}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sizes", nargs="+", default=["minilm", "clip-l"], choices=[*SIZES])
    parser.add_argument("--out", type=Path, help="file for the figures, in place of docs/words.json and docs/words.md")
    arguments = parser.parse_args()
    found = {"date": str(date.today()), "torch": torch.__version__, "threads": torch.get_num_threads(),
             "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu", "fits": []}
    if arguments.device == "cuda":
        found["runs"] = {str(dtype): run_without_waits(dtype) for dtype in (torch.float16, torch.float32)}
        print(json.dumps(found["runs"], indent=1), flush=True)
    for size in arguments.sizes:
        found["fits"].append(measured(size, arguments.device))
        print(found["fits"][-1], flush=True)
    if arguments.out is None:
        write_part("fit_time", found)
    else:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
