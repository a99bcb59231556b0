"""A small cluster in this process, and conversions on it."""

import functools

import pytest
from distributed import Client, LocalCluster

from xwalloc.conversion.convert import convert as convert_anywhere


@pytest.fixture(scope="module")
def client():
    options = {"processes": False, "dashboard_address": ":0"}
    with LocalCluster(n_workers=1, threads_per_worker=2, **options) as local, Client(local) as found:
        yield found


@pytest.fixture
def convert(client):
    return functools.partial(convert_anywhere, client=client)
