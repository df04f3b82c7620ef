"""Plain versions of the models that transformers lacks, which open an exported checkpoint without
this project: PyTorch alone, short rather than fast, tested against the models beside them.
`joining` makes one file of each."""
