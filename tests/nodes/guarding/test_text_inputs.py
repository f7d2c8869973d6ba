"""Every input of every model class of the host is named, as text or as something else."""

import ast
import inspect
import textwrap

import comfy.model_base
import pytest
from comfy.model_base import BaseModel

from saferedir.nodes.guarding import text_inputs

CLASSES = [each for _, each in inspect.getmembers(comfy.model_base, inspect.isclass)
           if issubclass(each, BaseModel) and each.__module__ == comfy.model_base.__name__]
ANY_NAME = "names that are made while it runs"


def laid_out(source: str) -> set[str]:
    """Names of the inputs that a class lays out in its own methods, by its source.

    What is written to `out[...]` in `extra_conds`, and "y" of an own `encode_adm`.  ANY_NAME for whatever is not a
    plain name there, so that nothing escapes.
    """
    found, methods = set(), {each.name: each for each in ast.parse(textwrap.dedent(source)).body[0].body
                             if isinstance(each, ast.FunctionDef)}
    if "encode_adm" in methods and any(isinstance(each, ast.Return) and not _is_none(each.value)
                                       for each in ast.walk(methods["encode_adm"])):
        found.add("y")
    if "extra_conds" not in methods:
        return found
    for node in ast.walk(methods["extra_conds"]):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _is_out(node.value):
            found.add(node.slice.value if isinstance(node.slice, ast.Constant) else ANY_NAME)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_out(node.func.value) \
                and node.func.attr in ("update", "setdefault", "__setitem__"):
            found.add(ANY_NAME)
        elif isinstance(node, ast.AugAssign) and _is_out(node.target):
            found.add(ANY_NAME)
        elif isinstance(node, ast.Return) and not _is_out(node.value):
            found.add(ANY_NAME)
        elif isinstance(node, ast.Assign) and any(map(_is_out, node.targets)) and not _is_start(node.value):
            found.add(ANY_NAME)
    if any(isinstance(node, ast.Attribute) and node.attr == "encode_adm" for node in ast.walk(methods["extra_conds"])):
        found.discard("y")  # then `encode_adm` says what it is
    return found


def _is_none(node) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _is_out(node) -> bool:
    return isinstance(node, ast.Name) and node.id == "out"


def _is_start(node) -> bool:
    """`{}`, or what the class that it is derived from has laid out."""
    return (isinstance(node, ast.Dict) and not node.keys) or ast.unparse(node) == "super().extra_conds(**kwargs)"


def unnamed(kind: type, sources=inspect.getsource) -> set[str]:
    """Inputs of a class that its entry does not name; "y" also when it makes one of its own and has no entry."""
    entry, missing = text_inputs.text_inputs_of(kind), set()
    for each in (each for each in kind.__mro__ if text_inputs.is_hosts(each)):
        source = sources(each)
        missing |= laid_out(source) - entry.names
        if "extra_conds" in vars(each) and "super().extra_conds" not in source:
            break  # what the classes behind it lay out does not come by
    own = laid_out(sources(kind))
    if "y" in own and kind.__name__ not in text_inputs.TABLE:
        missing.add("y")
    return missing


def test_the_host_has_models():
    assert len(CLASSES) > 50


@pytest.mark.parametrize("kind", CLASSES, ids=lambda each: each.__name__)
def test_every_input_is_named(kind):
    missing = unnamed(kind) - ({ANY_NAME} if text_inputs.text_inputs_of(kind).refused else set())
    assert not missing, (f"{kind.__name__} lays out {sorted(missing)}; expected names that its entry in "
                         "nodes/guarding/text_inputs.py has. Read what they are and add them, as text or as others.")


@pytest.mark.parametrize("body, expected", [
    ("""out = super().extra_conds(**kwargs)
        out['second_prompt'] = comfy.conds.CONDRegular(kwargs['second'])
        return out""", {"second_prompt"}),
    ("""out = super().extra_conds(**kwargs)
        if kwargs.get('second') is not None:
            for name in ('a', 'b'):
                out[name] = comfy.conds.CONDRegular(kwargs['second'])
        return out""", {ANY_NAME}),
    ("""out = super().extra_conds(**kwargs)
        out.update(second_prompt=kwargs['second'])
        return out""", {ANY_NAME}),
    ("""out = {}
        out |= {'second_prompt': kwargs['second']}
        return out""", {ANY_NAME}),
    ("""return {**super().extra_conds(**kwargs), 'second_prompt': kwargs['second']}""", {ANY_NAME}),
    ("""out = {'second_prompt': kwargs['second']}
        return out""", {ANY_NAME}),
    ("""out = super().extra_conds(**kwargs)
        out['c_crossattn'] = out['guidance'] = 1
        return out""", {"guidance"}),
    ("""out = super().extra_conds(**kwargs)
        out['c_crossattn'] = 1
        return out""", set()),
])
def test_an_input_that_nobody_named_is_noticed(body, expected):
    source = f"class Made(BaseModel):\n    def extra_conds(self, **kwargs):\n        {body}\n"
    made = type("Made", (BaseModel,), {"__module__": comfy.model_base.__name__, "extra_conds": None})
    assert unnamed(made, lambda each: source if each is made else inspect.getsource(each)) == expected


@pytest.mark.parametrize("base, body, expected", [
    ("BaseModel", "return kwargs['pooled_output']", {"y"}), ("BaseModel", "return None", set()),
    ("Flux", "return kwargs['something_else']", {"y"})])
def test_a_vector_that_nobody_named_is_noticed(base, body, expected):
    source = f"class Made({base}):\n    def encode_adm(self, **kwargs):\n        {body}\n"
    made = type("Made", (getattr(comfy.model_base, base),), {"__module__": comfy.model_base.__name__})
    assert unnamed(made, lambda each: source if each is made else inspect.getsource(each)) == expected


def test_entries_contradict_neither_themselves_nor_each_other():
    for name, each in text_inputs.TABLE.items():
        assert not each.others & {*each.text, each.mask}, name
        assert each.models, name
        assert each.prompt in each.contexts, name


def test_a_class_has_the_entry_of_the_one_it_is_derived_from():
    assert text_inputs.text_inputs_of(comfy.model_base.ChromaRadiance) is text_inputs.TABLE["Chroma"]
    assert text_inputs.text_inputs_of(comfy.model_base.HunyuanVideoI2V) is text_inputs.TABLE["HunyuanVideo"]
    assert text_inputs.text_inputs_of(dict) is None


def test_a_class_of_another_pack_may_have_what_is_text_nowhere():
    found = text_inputs.text_inputs_of(type("Made", (comfy.model_base.BaseModel,), {}))
    assert "guidance" in found.names and "c_crossattn" in found.names
    assert not {"y", "lyric_embed", "encoder_hidden_states_llama3", "ref_contexts", "second_prompt"} & found.names
