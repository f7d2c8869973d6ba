import comfy.model_management as host
import comfy.utils
import pytest

from saferedir.nodes import progress


@pytest.fixture
def shown(monkeypatch):
    """(bars, texts) that reach the editor."""
    import server

    bars, texts = [], []

    class Server:
        def send_progress_text(self, text, node_id):
            texts.append((text, node_id))

    monkeypatch.setattr(server.PromptServer, "instance", Server(), raising=False)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: bars.append(
        (value, total, node_id)))
    return bars, texts


def test_it_reaches_the_node_as_a_bar_and_as_text(shown, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    tell = progress.NodeProgress("7")
    for done, total in ((0, None), (0, 400), (200, 400), (400, 400)):
        tell(done, total, f"{done} of {total}")
    tell.say("")
    bars, texts = shown
    assert bars[0] == (0, 400, "7") and bars[-1] == (400, 400, "7")
    assert texts == [("0 of None", "7"), ("0 of 400", "7"), ("200 of 400", "7"), ("400 of 400", "7"), ("", "7")]


def test_what_comes_too_soon_is_left_out_but_never_the_end(shown):
    tell = progress.NodeProgress("7")
    for done in range(5):
        tell(done, 4, str(done))
    assert [text for text, _ in shown[1]] == ["0", "4"]


def test_without_a_node_nothing_is_shown(shown):
    progress.NodeProgress(None)(1, 1, "done")
    assert shown[1] == []


def test_cancel_ends_what_tells_it(shown):
    host.interrupt_current_processing()
    with pytest.raises(host.InterruptProcessingException):
        progress.NodeProgress("7")(0, 1)
