"""Networks and the manifests that describe them, as the exporters take them."""
