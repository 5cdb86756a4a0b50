"""Pages name the argument for the groups of ES as the networks do."""

import inspect

import pytest

import mmesbnn.binary
from mmesbnn.models import backbones
from tests.docs.blocks import ROOT

CONCEPT = (ROOT / 'docs' / 'concepts' / 'expanding_and_shrinking.md').read_text()
UPGRADE = (ROOT / 'docs' / 'upgrade_notes.md').read_text()


def test_pages_say_what_networks_call_the_groups():
    assert '`ReActNet(tau=2, groups=2)`' in CONCEPT and 'Networks keep `groups=`' in UPGRADE
    assert backbones.ReActNet(arch='18', tau=2, groups=2).expansion.groups == 2


@pytest.mark.parametrize('name', ['ESConv2d', 'ESLinear'])
def test_pages_say_what_drop_in_layers_call_the_groups(name):
    arguments = inspect.signature(getattr(mmesbnn.binary, name)).parameters
    assert 'es_groups' in arguments and '`es_groups`' in CONCEPT
