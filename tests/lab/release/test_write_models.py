"""docs/models.md names every class of models of the host, as the guard's table has it."""

import inspect
import re

import comfy.model_base
from comfyui_version import __version__

from saferedir.lab.release import write_models
from saferedir.nodes.guarding import text_inputs


def test_the_page_is_what_the_script_writes():
    """With another release, whose classes are others, all but the release's number and the classes' column."""
    shipped, written = write_models.PAGE.read_text(encoding="utf-8"), write_models.page()
    if f"ComfyUI {__version__}," in shipped:
        assert written == shipped
    assert _without_classes(written) == _without_classes(shipped)


def _without_classes(page: str) -> list[str]:
    lines = re.sub(r"ComfyUI \d+\.\d+\.\d+", "", page).splitlines()
    return [re.sub(r"^(\| [^|]* \|) [^|]* \|", r"\1", line) for line in lines]


def test_every_class_of_the_host_is_on_it():
    page = write_models.PAGE.read_text(encoding="utf-8")
    guarded, refused = page.split("## Refused")
    for name, kind in inspect.getmembers(comfy.model_base, inspect.isclass):
        entry = text_inputs.text_inputs_of(kind) if text_inputs.is_hosts(kind) else None
        if entry is not None:
            assert f"`{name}`" in (refused if entry.refused else guarded), name
