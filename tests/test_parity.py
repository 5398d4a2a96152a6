"""Every row of the parity table (make parity) holds, and would not under another norm convention or weight."""

import pytest
from parity import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_parity(case):
    row = case.row()
    assert row.difference < row.tolerance
    assert row.control > 100 * row.tolerance, "the row would pass under a wrong convention or weight"
