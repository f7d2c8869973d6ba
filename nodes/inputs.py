"""Inputs and outputs that several nodes share."""

from comfy_api.latest import io

from .types import SafeRedirType


def redirector_input():
    return SafeRedirType.Input("saferedir",
                               tooltip="The redirector, from Load SafeRedir, or several from SafeRedir Stack.")


def redirector_output():
    return SafeRedirType.Output(display_name="saferedir",
                                tooltip="Connect to SafeRedir Guard and SafeRedir Conditioning.")


def alpha_scale_input():
    return io.Float.Input("alpha_scale", default=1.25, min=0.0, max=10.0, step=0.05,
                          tooltip="How far unsafe tokens are moved, in units of their own length. The paper uses 1.25 "
                                  "to 2; higher removes more and disturbs more.")


def threshold_input():
    return io.Float.Input("threshold", default=0.0, min=0.0, max=0.999, step=0.01, round=0.001,
                          tooltip="Unsafe probability from which on the prompt is redirected. Lower catches more and "
                                  "touches more harmless prompts. 0: the redirector's own threshold, as its training "
                                  "calibrated it (0.5 without).")
