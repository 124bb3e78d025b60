"""Every output has a text twin, and an update replaces it in place."""

from mmlesson import display


def test_a_terminal_gets_the_text(capsys):
    assert display.show("seven of eight", html="<b>7</b>", updatable=True) is None
    display.update(None, "unseen")
    assert capsys.readouterr().out == "seven of eight\n"


def test_a_notebook_gets_the_rich_form_with_its_text_twin(notebook):
    display.show("seven of eight", html="<b>7</b>")
    display.show("a blue square", png=b"\x89PNG")
    assert notebook[0]["data"] == {"text/plain": "seven of eight", "text/html": "<b>7</b>"}
    assert notebook[1]["data"] == {"text/plain": "a blue square", "image/png": "iVBORw=="}
    assert notebook[1]["metadata"] == {"image/png": {"alt": "a blue square"}}
    assert notebook[0]["display_id"] is None


def test_an_update_replaces_in_place(notebook):
    handle = display.show("one", png=b"1", updatable=True)
    display.update(handle, "two", png=b"2")
    first, second = notebook
    assert first["display_id"] == second["display_id"] is not None
    assert (first["update"], second["update"]) == (False, True)
    assert second["metadata"] == {"image/png": {"alt": "two"}}
