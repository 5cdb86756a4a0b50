from hypothesis import given
from hypothesis import strategies as st

from mmesbnn.deploy.openvino.names import comparison_name, convolution_name, layer_of_comparison


@given(layer=st.text(), index=st.integers(0, 99))
def test_a_name_leads_back_to_its_layer(layer, index):
    assert layer_of_comparison(comparison_name(layer, index)) == layer


@given(st.text())
def test_other_names_lead_nowhere(name):
    assert layer_of_comparison(name) is None
    assert layer_of_comparison(convolution_name(name, 0)) is None
