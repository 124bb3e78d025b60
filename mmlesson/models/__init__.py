"""The lessons' models: written by `make export` from the notebooks' cells marked `#| export`, never edited by hand."""
