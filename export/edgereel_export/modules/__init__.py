"""PyTorch building blocks of the networks that Edgereel exports."""
