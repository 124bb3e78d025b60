"""The two benchmarks of `make bench` are not run by the tests; that they still import is."""

import importlib

import pytest


@pytest.mark.parametrize("name", ["bench_world", "bench_clip"])
def test_a_benchmark_imports(name):
    assert callable(importlib.import_module(f"tools.{name}").main)
