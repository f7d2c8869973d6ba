"""Which words a report is about: found in the graph where they stand there, and never guessed."""

import pytest

from saferedir.nodes.editor import prompt_words
from saferedir.nodes.extension import SafeRedirExtension


@pytest.fixture(scope="module")
def words():
    import asyncio

    import nodes

    extension = SafeRedirExtension()
    asyncio.run(extension.on_load())
    for node in asyncio.run(extension.get_node_list()):
        nodes.NODE_CLASS_MAPPINGS.setdefault(node.GET_SCHEMA().node_id, node)
    return prompt_words


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(**more):
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="x"),
        "2": node("CLIPTextEncode", text="a striped fish", clip=["1", 1]),
        "3": node("CLIPTextEncode", text="ugly", clip=["1", 1]),
        "4": node("SafeRedirConditioning", conditioning=["2", 0], saferedir=["9", 0]),
        "5": node("KSampler", model=["1", 0], negative=["3", 0], positive=["4", 0], latent_image=["8", 0]),
        "6": node("SafeRedirReport", samples=["5", 0], trajectory=["7", 1]),
        "7": node("SafeRedirGuard", model=["1", 0], saferedir=["9", 0]),
        "8": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "9": node("SafeRedirLoader", name="demo-stripes"),
        **more,
    }


def test_the_positive_prompt_is_found_through_other_nodes(words):
    assert words.prompt_text(graph(), "6") == "a striped fish"


def test_a_decoded_picture_leads_to_the_same_prompt(words):
    content = graph(**{"6": node("SafeRedirReport", samples=["10", 0], trajectory=["7", 1]),
                       "10": node("VAEDecode", samples=["5", 0], vae=["1", 2])})
    assert words.prompt_text(content, "6") == "a striped fish"


def test_two_prompts_joined_or_a_text_from_elsewhere_are_not_guessed(words):
    joined = graph(**{"4": node("ConditioningConcat", conditioning_to=["2", 0], conditioning_from=["3", 0])})
    computed = graph(**{"2": node("CLIPTextEncode", text=["11", 0], clip=["1", 1])})
    assert words.prompt_text(joined, "6") is None
    assert words.prompt_text(computed, "6") is None
    assert words.prompt_text({}, "6") is None


def test_a_node_that_changes_both_sides_is_followed_on_the_positive_one(words):
    content = graph(**{
        "12": node("ControlNetApplyAdvanced", positive=["2", 0], negative=["3", 0]),
        "5": node("KSampler", model=["1", 0], positive=["12", 0], negative=["12", 1], latent_image=["8", 0])})
    assert words.prompt_text(content, "6") == "a striped fish"


def test_tokens_are_counted_as_clip_counts_them(words):
    tokens = words.tokens_of("a (striped:1.3) fish", 77)
    assert tokens[:5] == ["", "a ", "striped ", "fish ", ""] and set(tokens[4:]) == {""}
    assert words.tokens_of("a fish", 154) is None
    assert len(words.tokens_of("fish " * 100, 154)) == 154


def test_a_report_gets_its_words_only_when_they_fit(words):
    report = {"items": [{"tokens": {"token_mask": [0.0] * 77}}, {"tokens": None}]}
    assert words.words_of(report, "a fish")["tokens"][1:3] == ["a ", "fish "]
    assert words.words_of(report, "fish " * 100) is None
    assert words.words_of(report, None) is None
    assert words.words_of({"items": []}, "a fish") is None
    assert words.words_of({**report, "redirector": {"config": {"architecture": "zimage"}}}, "a fish") is None
