import pytest

from tests.report.made_up import make_report


@pytest.fixture(scope="session")
def report():
    return make_report()
