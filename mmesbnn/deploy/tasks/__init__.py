"""Tasks of the exporters: networks and the manifests that describe them."""
