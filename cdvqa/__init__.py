"""cdvqa: compress and debias vision-language models for visual question answering."""

__version__ = "0.1.0"
