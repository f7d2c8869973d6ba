"""The nodes of the pack.  Each is thin: clone, call, return; `bridge` alone speaks to the host's sampling."""

from comfy_api.latest import ComfyExtension, io

from .conditioning import SafeRedirConditioning
from .demo_model import SafeRedirDemoModel
from .evaluate import SafeRedirEvaluate
from .guard import SafeRedirGuard
from .loader import SafeRedirLoader
from .report import SafeRedirReport
from .save import SafeRedirSave
from .stack import SafeRedirStack
from .train import SafeRedirTrain
from .weights import register_folder


class SafeRedirExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SafeRedirLoader, SafeRedirConditioning, SafeRedirGuard, SafeRedirReport, SafeRedirStack,
                SafeRedirTrain, SafeRedirSave, SafeRedirEvaluate, SafeRedirDemoModel]
