"""Knowledge distillation for image classifiers; the official implementation of Streamlined Knowledge Distillation."""

__version__ = "0.1.0"
