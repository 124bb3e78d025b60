"""What a notebook shows: every output has a text twin, for a terminal, a `git diff` and a screen reader."""

import base64
import textwrap


def in_notebook():
    """True inside a Jupyter kernel, False in a script, a test or a terminal."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def show(text, html=None, png=None, updatable=False):
    """Show `text` with its richer twin: `html` (str), or `png` (bytes) whose alternative text is `text`.

    Returns a handle for `update` if `updatable`. Outside a notebook only the text is printed, and nothing returned.
    """
    if not in_notebook():
        print(text)
        return None
    from IPython.display import display

    bundle, metadata = _bundle(text, html, png)
    return display(bundle, metadata=metadata, raw=True, display_id=True if updatable else None)


def update(handle, text, png=None):
    """Replace, in place, the output of `show(..., updatable=True)`. Does nothing if handle is None."""
    if handle is not None:
        bundle, metadata = _bundle(text, None, png)
        handle.update(bundle, metadata=metadata, raw=True)


def wrapped(sentence):
    """The sentence in lines of at most 100 characters: notebooks break longer ones in the middle of a word."""
    return textwrap.fill(sentence, 100)


def _bundle(text, html, png):
    bundle, metadata = {"text/plain": text}, {}
    if html is not None:
        bundle["text/html"] = html
    if png is not None:
        bundle["image/png"] = base64.b64encode(png).decode("ascii")
        metadata["image/png"] = {"alt": text}
    return bundle, metadata
