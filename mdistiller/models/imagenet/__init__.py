"""Networks for 224x224 images, by published name."""

NETWORKS = {}
