"""What the host asks the pack for: its nodes, and what else begins with the server."""

from comfy_api.latest import ComfyExtension, io

from .conditioning import SafeRedirConditioning
from .demo_model import SafeRedirDemoModel
from .editor.live import register_route
from .editor.png_entry import register_handler
from .evaluate import SafeRedirEvaluate
from .fitting import presets
from .guard import SafeRedirGuard
from .guarding import host_check
from .guarding.enforce import Enforcer, enforce_if_asked
from .guarding.enforced_graph import offered
from .loader import SafeRedirHubLoader, SafeRedirLoader
from .report import SafeRedirReport
from .save import SafeRedirSave
from .stack import SafeRedirStack
from .train import SafeRedirTrain
from .weights.catalogue import register_folder
from .words import SafeRedirWords


class SafeRedirExtension(ComfyExtension):
    enforcer: Enforcer | None = None

    async def on_load(self) -> None:
        host_check.tell()
        register_folder()
        presets.register_folder()
        self.enforcer = enforce_if_asked()
        register_route()
        register_handler()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = [SafeRedirLoader, SafeRedirHubLoader, SafeRedirConditioning, SafeRedirGuard, SafeRedirReport,
                 SafeRedirStack, SafeRedirTrain, SafeRedirSave, SafeRedirEvaluate, SafeRedirDemoModel, SafeRedirWords]
        return nodes if self.enforcer is None else offered(nodes, self.enforcer.settings.nodes)
