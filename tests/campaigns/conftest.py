"""The fixture that gives a campaign to its test."""

import pytest

from tests.campaigns.campaign import Campaign


@pytest.fixture
def campaign(request):
    """A :class:`Campaign` named after the test; failed cases fail the test at its end."""
    option = request.config.getoption
    campaign = Campaign(request.node.name, option('--campaign-seed'), option('--campaign-seconds'))
    yield campaign
    if option('--campaign-report'):
        campaign.report(option('--campaign-report'))
    campaign.finish()


@pytest.fixture(scope='session')
def bench(tmp_path_factory):
    """A :class:`~tests.campaigns.bench.Bench`: the tools and their input files."""
    from tests.campaigns.bench import Bench, Server, write_inputs

    folder = tmp_path_factory.mktemp('bench')
    server = Server(folder)
    try:
        write_inputs(folder)
        server.wait_until_ready()
        yield Bench(server, folder)
    finally:
        server.close()
