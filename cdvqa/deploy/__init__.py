"""Commands for finished networks: ask, compare, export, push and serve; `cdvqa.load` for notebooks."""
