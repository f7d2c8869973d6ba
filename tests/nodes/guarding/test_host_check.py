"""What the guard relies on in the host is named when it has gone, each thing taken away in turn."""

import logging

import comfy.conds
import comfy.patcher_extension
import comfy.samplers
import pytest

from saferedir.nodes.guarding import host_check


def owner_of(module, path):
    *outer, name = path.split(".")
    for part in outer:
        module = getattr(module, part)
    return module, name


def test_the_host_under_test_has_all_of_it(caplog):
    assert host_check.changes() == []
    host_check.tell()
    assert not caplog.records


@pytest.mark.parametrize(("module", "path", "arguments"), host_check.FUNCTIONS, ids=[each[1] for each in
                                                                                  host_check.FUNCTIONS])
def test_a_function_that_is_gone_or_takes_other_arguments_is_named(monkeypatch, module, path, arguments):
    owner, name = owner_of(module, path)
    monkeypatch.setattr(owner, name, lambda self, something_else: None)
    assert any(f"{module.__name__}.{path} takes (self, something_else) and not" in each
               for each in host_check.changes())
    monkeypatch.setattr(owner, name, None)   # a method may be an heir's
    assert f"{module.__name__}.{path} is gone" in host_check.changes()


@pytest.mark.parametrize(("group", "name"), host_check.KINDS)
def test_a_kind_of_wrappers_that_is_gone_is_named(monkeypatch, group, name):
    monkeypatch.delattr(getattr(comfy.patcher_extension, group), name)
    assert f"{group}.{name} is gone" in host_check.changes()


@pytest.mark.parametrize(("kind", "path"), host_check.CALLED_THROUGH.items())
def test_wrappers_that_are_no_longer_called_are_named(monkeypatch, kind, path):
    owner, name = owner_of(comfy.samplers, path)
    monkeypatch.setattr(owner, name, lambda self, *args, **kwargs: None)
    assert f"comfy.samplers.{path} calls no wrappers of the kind {kind}" in host_check.changes()


def test_another_layout_of_conds_is_named(monkeypatch):
    monkeypatch.setattr(comfy.sampler_helpers, "convert_cond", lambda conds: [{"context": conds[0][0]}])
    assert ["a conditioning is laid out in another way" in each for each in host_check.changes()] == [True]


def test_a_prompt_that_lies_elsewhere_in_a_cond_is_named(monkeypatch):
    def elsewhere(model_function, conds, *args, **kwargs):
        return [{**cond, "inputs": {}} for cond in conds]
    monkeypatch.setattr(comfy.samplers, "encode_model_conds", elsewhere)
    assert len(host_check.changes()) == 1 and "laid out in another way (KeyError" in host_check.changes()[0]


def test_all_of_it_is_one_sentence_in_the_log_before_the_first_run(monkeypatch, caplog):
    monkeypatch.delattr(comfy.patcher_extension.WrappersMP, "PREDICT_NOISE")
    monkeypatch.delattr(comfy.conds.CONDRegular, "_copy_with")
    with caplog.at_level(logging.ERROR, "saferedir"):
        host_check.tell()
    record, = caplog.records
    assert record.message.startswith("This ComfyUI has changed what SafeRedir relies on")
    assert "WrappersMP.PREDICT_NOISE is gone" in record.message and "CONDRegular._copy_with is gone" in record.message
    assert "update SafeRedir" in record.message
