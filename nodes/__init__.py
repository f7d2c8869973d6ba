"""The nodes of the pack.  Each is thin: clone, call, return; `bridge` alone speaks to the host's sampling."""

from comfy_api.latest import ComfyExtension, io

from .conditioning import SafeRedirConditioning
from .demo_model import SafeRedirDemoModel
from .enforce import enforce_if_asked
from .evaluate import SafeRedirEvaluate
from .guard import SafeRedirGuard
from .hub_loader import SafeRedirHubLoader
from .live import register_route
from .loader import SafeRedirLoader
from .png_entry import register_handler
from .report import SafeRedirReport
from .save import SafeRedirSave
from .stack import SafeRedirStack
from .train import SafeRedirTrain
from .weights import register_folder


class SafeRedirExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_folder()
        enforce_if_asked()
        register_route()
        register_handler()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SafeRedirLoader, SafeRedirHubLoader, SafeRedirConditioning, SafeRedirGuard, SafeRedirReport,
                SafeRedirStack, SafeRedirTrain, SafeRedirSave, SafeRedirEvaluate, SafeRedirDemoModel]
