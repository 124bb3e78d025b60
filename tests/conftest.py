import pytest
from IPython.core.interactiveshell import InteractiveShell


@pytest.fixture
def notebook():
    """Makes the code believe that it runs in a notebook. Yields the list of what was displayed, updates included.

    Each entry is a dict: data, metadata, display_id (None if it cannot be updated), update (True or False).
    """
    shown = []

    def publish(data, metadata=None, *, transient=None, update=False, **_):
        shown.append(
            {"data": data, "metadata": metadata, "display_id": (transient or {}).get("display_id"), "update": update}
        )

    shell = InteractiveShell.instance()
    shell.kernel = object()
    shell.display_pub.publish = publish
    yield shown
    InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def steady_threads(request, monkeypatch):
    """Training keeps its threads and says nothing of a busy machine, except where that is what is tested."""
    if "test_threads" not in request.node.nodeid:
        monkeypatch.setattr("mmlesson.threads.Chooser.choose", lambda self: None)
