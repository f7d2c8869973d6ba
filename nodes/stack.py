"""SafeRedir Stack: several redirectors as one, for several concepts at once."""

from comfy_api.latest import io

from .types import CATEGORY, LoadedRedirector, SafeRedirType


class SafeRedirStack(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SafeRedirStack",
            display_name="SafeRedir Stack",
            category=CATEGORY,
            description="Several redirectors as one: each judges every prompt for its own concept, and their shifts "
                        "add up.",
            search_aliases=["combine redirectors", "several concepts", "multi concept"],
            inputs=[
                SafeRedirType.Input("first", tooltip="A redirector, from Load SafeRedir."),
                SafeRedirType.Input("second", tooltip="A redirector for another concept, trained for the same kind of "
                                                      "model."),
                SafeRedirType.Input("third", optional=True, tooltip="One more, if there is one."),
                SafeRedirType.Input("fourth", optional=True,
                                    tooltip="One more, if there is one; stacks of stacks take any number."),
            ],
            outputs=[SafeRedirType.Output(display_name="saferedir",
                                          tooltip="All of them; connect to SafeRedir Guard and SafeRedir "
                                                  "Conditioning.")],
        )

    @classmethod
    def execute(cls, first, second, third=None, fourth=None) -> io.NodeOutput:
        return io.NodeOutput(LoadedRedirector.stacked([each for each in (first, second, third, fourth)
                                                       if each is not None]))
