"""The command that puts other packs beside ours, with two of a few lines: one starts, one does not."""

import pytest

from saferedir.lab.matrix import other_packs

PATCH = '''
class Calmer:
    CATEGORY, FUNCTION, RETURN_TYPES = "other", "patch", ("MODEL",)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}
    def patch(self, model):
        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.999)
        return (patched,)
NODE_CLASS_MAPPINGS = {"OtherPackCalmer": Calmer}
'''


@pytest.mark.slow
def test_a_pack_that_starts_is_run_through_and_one_that_does_not_is_told(comfyui, tmp_path, monkeypatch, capsys):
    for name, code in (("starts", PATCH), ("broken", "import no_such_module\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code, encoding="utf-8")
    packs = (other_packs.Pack("starts"), other_packs.Pack("broken", needs="all"), other_packs.Pack("absent"))
    monkeypatch.setattr(other_packs, "PACKS", packs)
    monkeypatch.setattr(other_packs, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(other_packs, "PAGE", tmp_path / "page.md")
    assert other_packs.main([str(tmp_path)]) == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| starts |  | 1 | " in text and "so not tried: absent." in text
    assert "No module named 'no_such_module'" in text
    for order in ("first", "last"):
        assert f"| OtherPackCalmer, guard {order} | prompt | yes | 4 -> 0 of 4 | " in text
    assert "wrote" in capsys.readouterr().out
