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
