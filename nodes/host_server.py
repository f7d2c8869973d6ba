"""The host's running server, if there is one."""

from __future__ import annotations

import sys


def running_server():
    """The host's server object; None in a program without one (a script, a test).  Imports nothing for it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
