# SPDX-License-Identifier: MIT
"""The copy of the project in which all wishes are tried."""

import pytest

from tests.wishes.workbench import Workbench


@pytest.fixture(scope="session")
def bench(tmp_path_factory, people) -> Workbench:
    """12 identities in 8 dimensions, 3 to 5 training samples each, 50 in all."""
    return Workbench.make(tmp_path_factory.mktemp("wishes"), people(noise=0.45, seed=1))
