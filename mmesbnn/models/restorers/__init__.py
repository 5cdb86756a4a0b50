"""Models that restore images. They need diffusers, and import it when one is built."""

from .sr_diffusion import SRDataPreprocessor, SRDiffusion

__all__ = ['SRDataPreprocessor', 'SRDiffusion']
